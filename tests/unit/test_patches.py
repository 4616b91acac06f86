# SPDX-License-Identifier: Apache-2.0
"""Every folder of patches/ has what it needs, and its names agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from klp import paths
from klp.modules.plan import read_plan

FOLDERS = sorted(file.parent for file in paths.PATCHES.glob("*/patch.toml"))
TESTS = Path(__file__).parents[1]
FAULTS = TESTS / "faults"
# Deliberately bad ones, and good ones; sources that several of them share are links.
JUDGED = sorted(file.parent for file in (TESTS / "livepatches").glob("*/*/Kbuild"))
JUDGED_SOURCES = [each for each in (TESTS / "livepatches").rglob("*.[ch]") if not each.is_symlink()]
SOURCES = sorted([*paths.PATCHES.glob("*/*.[ch]"), *FAULTS.glob("*.[ch]"), *JUDGED_SOURCES])

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


@each_folder(FAULTS, *JUDGED)
def test_kbuild_names_every_source_and_nothing_else(folder: Path) -> None:
    assert sorted(objects(folder)) == sorted(file.stem for file in folder.glob("*.c"))


def test_every_module_has_a_name_of_its_own() -> None:
    modules = [module for folder in [*FOLDERS, FAULTS] for module in named(folder)]
    modules += [file.stem for file in JUDGED_SOURCES if file.suffix == ".c"]
    assert len(set(modules)) == len(modules)
    assert all(module.startswith("klp_") for module in modules)


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_a_source_names_itself_and_its_purpose(file: Path) -> None:
    text = file.read_text()
    assert f"/*\n * {file.name} - " in text
    if file.suffix == ".c":
        assert re.search(r"^ \* Purpose: ", text, re.MULTILINE)
