# SPDX-License-Identifier: Apache-2.0
"""tests/livepatches: each folder will be judged, says what its fault is, and stands in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from klp.check.registry import NAMES
from klp.modules.plan import read_plan
from tests.unit.test_patches import named
from tests.verdicts import LIVEPATCHES, Expected, expected, expected_bare

BAD = sorted(folder for folder in (LIVEPATCHES / "bad").iterdir() if folder.is_dir())
GOOD = sorted(folder for folder in (LIVEPATCHES / "good").iterdir() if folder.is_dir())
# Sources that do not build are no livepatch yet: tests/integration/test_check.py has some.
TRIED = {*NAMES} - {"build"}
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


def test_each_scenario_finds_a_bad_one_and_lets_a_good_neighbour_pass() -> None:
    """Of `klp check`'s own list, so that a new scenario comes with both."""
    found = {scenario: each.name for each in of("bad").values() for scenario in each.scenarios}
    assert set(found) == TRIED
    passed = {
        scenario for each in of("good").values() if each.near
        for scenario in set(each.scenarios) & set(of("bad")[each.near].scenarios)
    }  # fmt: skip
    assert passed == TRIED


def test_what_a_scenario_alone_finds_is_no_fault_of_a_plain_life() -> None:
    for each in of("bad").values():
        assert not each.unseen or "life" not in each.scenarios
    told = {"static", "life", "cycles", "exercise"}  # read, or the life that all of them have
    alone = {scenario for each in of("bad").values() if each.unseen for scenario in each.scenarios}
    assert alone | told | {"reverse-enable", "ftrace-user"} == TRIED


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
