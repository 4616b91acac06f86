# SPDX-License-Identifier: Apache-2.0
"""What `make test` runs: each feature has a test there, each name is a test's; CI counts both parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from klp.cli.main import klp
from tests import core

ROOT = Path(__file__).parents[2]


def test_each_command_has_a_test() -> None:
    assert set(core.features()["commands"]) == set(klp.list_commands(click.Context(klp)))


def test_each_file_of_the_suite_has_a_test() -> None:
    files = {each.stem.removeprefix("test_") for each in (ROOT / "tests/suite").glob("test_*.py")}
    assert set(core.features()["suite"]) == files


def test_each_feature_names_a_test() -> None:
    assert not [name for kind in core.features().values() for name, tests in kind.items() if not tests]


def test_each_name_is_a_tests() -> None:
    # pytest itself finds them: it ends with 4 and names what it has not found.
    # Without the import of hypothesis, for which its plugin takes as long as pytest for all else.
    leave = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    asked = [sys.executable, "-m", "pytest", "--collect-only", "-q", *leave]
    kernels = [f"--klp-kernel={each}" for each in ("6.12", "6.1", "7.2")]
    words = [*asked, *kernels, *core.named()]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(("test", "in_core"), [
    ("tests/unit/test_a.py::test", True),
    ("tests/integration/test_a.py::test_it", True),
    ("tests/integration/test_a.py::test_it[x]", True),
    ("tests/integration/test_a.py::test_item", False),
    ("tests/integration/test_ab.py::test_it", False),
    ("tests/integration/test_b.py::test_any", True),
])  # fmt: skip
def test_a_name_stands_for_what_is_under_it(test: str, in_core: bool) -> None:
    names = ("tests/integration/test_a.py::test_it", "tests/integration/test_b.py")
    assert core.is_core(test, names) is in_core


def closing_line(*files: Path) -> str:
    asked = [sys.executable, ROOT / ".ci/closing_line.py", *files]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip("=\n ")


def test_the_closing_line_counts_both_parts(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_one="import pytest\ndef test_a(): pass\ndef test_b(): assert False\n"
        "@pytest.fixture\ndef broken(): assert False\ndef test_c(broken): pass\n",
        test_two="import pytest\ndef test_d(): pass\n@pytest.mark.skip\ndef test_e(): pass\n",
    )
    for name in ("one", "two"):
        pytester.runpytest_subprocess(f"test_{name}.py", f"--junitxml={name}.xml")
    line = closing_line(pytester.path / "one.xml", pytester.path / "two.xml")
    assert line.startswith("1 failed, 2 passed, 1 skipped, 1 error in ")


def test_a_part_that_came_to_no_end_is_an_error(tmp_path: Path) -> None:
    assert closing_line(tmp_path / "nothing.xml").startswith("1 error in ")
