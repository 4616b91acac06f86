# SPDX-License-Identifier: Apache-2.0
"""Every folder of patches/ has what it needs, its names agree, and its C is in the kernel's style."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import paths
from harness.modules.plan import read_plan

FOLDERS = sorted(file.parent for file in paths.PATCHES.glob("*/patch.toml"))
FAULTS = Path(__file__).parents[1] / "faults"
SOURCES = sorted([*paths.PATCHES.glob("*/*.[ch]"), *FAULTS.glob("*.[ch]")])

# Every rule that RULES.md numbers; the trace decides which of them a run lets be judged.
RULES = {"T": 14, "S": 9, "C": 8, "V": 6, "L": 6}


def named(folder: Path) -> list[str]:
    """Return the modules that a folder's Kbuild makes."""
    return re.findall(r"^obj-m \+= (\w+)\.o$", (folder / "Kbuild").read_text(), re.MULTILINE)


def objects(folder: Path) -> list[str]:
    """Return the objects of which a folder's modules are made: often each of one, by its own name."""
    found = []
    for module in named(folder):
        parts = re.search(rf"^{module}-y := (.*)$", (folder / "Kbuild").read_text(), re.MULTILINE)
        found += parts[1].replace(".o", "").split() if parts else [module]
    return found


def each_folder(*more: Path) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("folder", [*FOLDERS, *more], ids=lambda folder: folder.name)


def test_no_folder_is_without_a_plan() -> None:
    assert sorted(each for each in paths.PATCHES.iterdir() if each.is_dir()) == FOLDERS


@each_folder()
def test_the_rules_exist_and_are_named_once(folder: Path) -> None:
    plan = read_plan(folder / "patch.toml")
    assert plan.rules, "proves nothing"
    assert all(1 <= int(rule[1:]) <= RULES.get(rule[0], 0) for rule in plan.rules), plan.rules
    assert len(set(plan.rules)) == len(plan.rules)


@each_folder(FAULTS)
def test_kbuild_names_every_source_and_nothing_else(folder: Path) -> None:
    assert sorted(objects(folder)) == sorted(file.stem for file in folder.glob("*.c"))


def test_every_module_has_a_name_of_its_own() -> None:
    modules = [module for folder in [*FOLDERS, FAULTS] for module in named(folder)]
    assert len(set(modules)) == len(modules)
    assert all(module.startswith("klp_") for module in modules)


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_a_source_names_itself_and_its_purpose(file: Path) -> None:
    text = file.read_text()
    assert f"/*\n * {file.name} - " in text
    if file.suffix == ".c":
        assert re.search(r"^ \* Purpose: ", text, re.MULTILINE)


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_checkpatch_finds_nothing(file: Path) -> None:
    """Kernel sources have it as scripts/checkpatch.pl; put that folder into PATH."""
    checkpatch = shutil.which("checkpatch.pl")
    if checkpatch is None:
        pytest.skip("no checkpatch.pl in the PATH")
    argv = ["perl", checkpatch, "--strict", "--no-tree", "--terse", "--quiet", "--file", str(file)]
    finished = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout
