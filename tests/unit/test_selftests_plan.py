# SPDX-License-Identifier: Apache-2.0
"""What a run of the selftests has to do, as units: a folder of its own for each script of each kernel."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from klp.model import Accelerator, Image, Kernel
from klp.paths import SelftestsLayout
from klp.progress import Silent
from klp.selftests import run as under_test
from klp.selftests.build import Bundle, Script, Selftests
from klp.selftests.plan import Choices, script_units
from klp.vm.request import MachineRequest

HERE = Path()
SCRIPTS = tuple(Script(name, Path(name), ()) for name in ("test-ftrace.sh", "test-state.sh"))


def request(name: str, release: str = "6.12.0") -> MachineRequest:
    image = Image(
        "debian", name, Kernel(name, release, name, HERE, HERE, HERE, HERE, HERE, None), HERE, HERE, ""
    )  # fmt: skip
    return MachineRequest(image, Accelerator.TCG)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where selftests were built; nothing is compiled."""
    folders: list[Path] = []

    def bundle(selftests: object, kernel: Kernel, out: Path, progress: object) -> Bundle:
        del selftests, progress
        folders.append(out)
        return Bundle(out / f"{Path(kernel.name).name}.tar", "selftests", ())

    monkeypatch.setattr(under_test, "make_bundle", bundle)
    monkeypatch.setattr(under_test, "find_selftests", lambda *_: Selftests(HERE, HERE, False, SCRIPTS))
    return folders


def test_two_trees_of_one_release_share_no_folder(made: list[Path], tmp_path: Path) -> None:
    names = ("/a/linux", "/b/linux", "6.1")
    requests = [request(each, "6.1.0" if each == "6.1" else "6.12.0") for each in names]
    built = under_test.build_selftests(requests, (), SelftestsLayout(tmp_path), Silent())
    assert [each.label for each in built] == ["6.12.0", "6.12.0-2", "6.1.0"]
    units = script_units(built, tmp_path, Choices())
    assert len(units) == 6
    assert len({each.own.root for each in units}) == len({each.output for each in units}) == 6
    assert len(set(made)) == 3
    for unit in units:
        assert unit.bundle.archive.is_relative_to(tmp_path / unit.kernel)


def test_a_unit_can_go_to_another_machine(made: list[Path], tmp_path: Path) -> None:
    built = under_test.build_selftests([request("6.12")], (), SelftestsLayout(tmp_path), Silent())
    units = script_units(built, tmp_path, Choices(traced=False, deadline_s=3.0))
    assert pickle.loads(pickle.dumps(units)) == units
    assert [(each.script.name, each.traced, each.deadline_s) for each in units] == [
        ("test-ftrace.sh", False, 3.0), ("test-state.sh", False, 3.0),
    ]  # fmt: skip
    assert made == [tmp_path / "6.12.0" / "build"]
