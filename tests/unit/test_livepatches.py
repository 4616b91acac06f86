# SPDX-License-Identifier: Apache-2.0
"""tests/livepatches: each folder will be judged, says what its fault is, and stands in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from klp.modules.plan import read_plan
from tests.unit.test_patches import named
from tests.verdicts import LIVEPATCHES, Expected, expected, expected_bare

BAD = sorted(folder for folder in (LIVEPATCHES / "bad").iterdir() if folder.is_dir())
GOOD = sorted(folder for folder in (LIVEPATCHES / "good").iterdir() if folder.is_dir())
CHECKING = Path(__file__).parents[2] / "docs/checking.md"


def of(kind: str) -> dict[str, Expected]:
    return {each.name: each for each in expected() if bool(each.fault) == (kind == "bad")}


def own(folder: Path) -> str:
    """Return the text of a folder's own sources: those it shares with others are links."""
    return "\n".join(file.read_text() for file in sorted(folder.glob("*.c")) if not file.is_symlink())


def test_each_folder_is_expected_to_be_judged() -> None:
    assert sorted(of("bad")) == [folder.name for folder in BAD]
    assert {folder.name for folder in GOOD} <= set(of("good"))


def test_there_are_as_many_good_ones() -> None:
    assert len(BAD) >= 15
    assert len(of("good")) >= len(BAD)


def test_a_good_one_is_near_a_bad_one() -> None:
    assert {each.near for each in of("good").values()} - {""} <= set(of("bad"))


@pytest.mark.parametrize("folder", [*BAD, *GOOD], ids=lambda folder: folder.name)
def test_the_plan_is_of_its_folder(folder: Path) -> None:
    plan = read_plan(folder / "patch.toml")
    assert plan.name == folder.name
    assert plan.livepatch.startswith(f"klp_{folder.parent.name}_")
    assert set(named(folder)) == {plan.livepatch, *(each.module for each in plan.load)}
    assert plan.observe, "a livepatch that nobody can see"


@pytest.mark.parametrize("folder", [*BAD, *GOOD], ids=lambda folder: folder.name)
def test_bad_ones_say_what_their_fault_is(folder: Path) -> None:
    assert ("\n * Fault: " in own(folder)) == (folder.parent.name == "bad")


@pytest.mark.parametrize("each", expected(), ids=lambda each: each.name)
def test_reasons_are_regular_expressions(each: Expected) -> None:
    assert bool(each.says) == bool(each.fault)
    re.compile(each.says)


def cells(row: str) -> list[str]:
    return [cell.strip(" `|") for cell in row.split(" | ", 3)]


def table() -> dict[str, list[str]]:
    """Return the rows of docs/checking.md's last table by their first cell."""
    rows = CHECKING.read_text().rpartition("\n\n|")[2].splitlines()[2:]
    return {cells(row)[0]: cells(row) for row in rows if row.startswith("|")}


def test_the_docs_show_which_are_named_without_their_plan() -> None:
    text = CHECKING.read_text().partition("Without their `patch.toml`")[2].partition("\n\n|")[2]
    rows = [cells(row)[:2] for row in text.partition("\n\n")[0].splitlines()[2:]]
    assert rows == [[each.name, *each.scenarios] for each in expected_bare()]


def test_the_docs_show_what_klp_check_says_of_each_bad_one() -> None:
    rows = table()
    assert list(rows) == list(of("bad"))
    for name, each in of("bad").items():
        _, fault, scenario, said = rows[name]
        assert (fault, scenario) == (each.fault, each.scenarios[0])
        assert each.named_by(said), said
