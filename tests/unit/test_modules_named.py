# SPDX-License-Identifier: Apache-2.0
"""A patch.toml with a name that is no module is refused before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from klp import paths
from klp.check.candidate import livepatches_of
from klp.drive.job import wishes
from klp.errors import SettingsError
from klp.modules.named import named_modules
from klp.modules.plan import plans_of
from klp.modules.sources import find_source

PLAN = """\
name = "fix"
summary = "one"
livepatch = "klp_fix"

[[load]]
module = "klp_target"
"""


def folder(at: Path, kbuild: str = "obj-m += klp-fix.o klp_target.o\n", plan: str = PLAN) -> Path:
    at.mkdir(parents=True, exist_ok=True)
    (at / "Kbuild").write_text(kbuild)
    (at / "patch.toml").write_text(plan)
    return at


@pytest.mark.parametrize(
    ("kbuild", "names"),
    [
        ("obj-m += klp-fix.o\n", {"klp_fix"}),
        ("obj-m := a.o \\\n  b.o # c.o\nobj-$(CONFIG_X) += d.o\n# obj-m += e.o\n", {"a", "b", "d"}),
        ("obj-m += $(NAME).o\n", None),
        ("obj-m += sub/\n", None),
        ("include more.mk\nobj-m += a.o\n", None),
    ],
)
def test_modules_are_read_from_a_kbuild(tmp_path: Path, kbuild: str, names: set[str] | None) -> None:
    assert named_modules(find_source(str(folder(tmp_path / "p", kbuild)))) == names


def test_every_patch_of_our_own_names_modules_that_its_kbuild_makes() -> None:
    folders = [each.parent for each in paths.PATCHES.glob("*/patch.toml")]
    assert folders
    for each in folders:
        source = find_source(str(each))
        assert named_modules(source)
        assert plans_of(source)


@pytest.mark.parametrize("look", [wishes, livepatches_of], ids=["run", "check"])
@pytest.mark.parametrize(("was", "line"), [("klp_fix", 3), ("klp_target", 6)])
def test_a_wrong_name_is_told_with_its_line(tmp_path: Path, look, was: str, line: int) -> None:
    wrong = folder(tmp_path / "p", plan=PLAN.replace(was, f"{was}ed"))
    with pytest.raises(SettingsError) as refused:
        look((str(wrong),))
    assert refused.value.message == (
        f"{wrong}/patch.toml:{line}: no module {was}ed is built here, only klp_fix, klp_target"
    )
    assert refused.value.hint
    assert f"did you mean {was}" in refused.value.hint


def test_what_only_make_can_tell_is_not_refused(tmp_path: Path) -> None:
    assert wishes((str(folder(tmp_path / "p", "obj-m += $(WHAT).o\n")),))


def test_a_run_of_several_may_load_what_another_makes(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", "obj-m += klp-fix.o\n")
    with pytest.raises(SettingsError):
        wishes((str(one),))
    other = tmp_path / "other"
    other.mkdir()
    (other / "Kbuild").write_text("obj-m += klp_target.o\n")
    assert len(wishes((str(one), str(other)))) == 2


def test_a_check_may_load_what_only_the_kernel_has_and_a_run_may_not(tmp_path: Path) -> None:
    one = folder(tmp_path / "p", plan=PLAN.replace("klp_target", "nf_tables"))
    [wanted] = livepatches_of((str(one),))
    assert wanted.plan
    assert [each.module for each in wanted.plan.load] == ["nf_tables"]
    with pytest.raises(SettingsError, match="no module nf_tables is built here"):
        wishes((str(one),))
