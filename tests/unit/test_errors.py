# SPDX-License-Identifier: Apache-2.0
"""Each failure has its exit code, and what users read about them is what the enum says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from klp import errors
from klp.cli.main import klp
from klp.errors import ExitCode, KlpError, TransitionStuck

_ROW = re.compile(r"^\|\s*`?(\d+)`?\s*\|", re.MULTILINE)


def kinds(kind: type[KlpError] = KlpError) -> Iterator[type[KlpError]]:
    """Every failure that the errors' own module declares."""
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
        yield from kinds(each)


def test_the_exit_codes() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0, "CHECK_FAILED": 1, "USAGE": 2, "VM_LOST": 3, "HOST_LACKS": 4, "INTERRUPTED": 130,
    }  # fmt: skip


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    told = set(re.findall(r"^\s+(?:\|?\s*\+-- )?([A-Z]\w+)\s", errors.__doc__, re.MULTILINE))
    assert told == {each.__name__ for each in kinds()} | {"KlpError"}


def test_the_codes_in_the_docstring_are_those_of_the_classes() -> None:
    assert errors.__doc__ is not None
    told = dict(re.findall(r"([A-Z]\w+) +exit (\d+)", errors.__doc__))
    assert len(told) == 6
    for name, code in told.items():
        assert getattr(errors, name).exit_code == int(code), name


@pytest.mark.parametrize("kind", sorted(kinds(), key=lambda each: each.__name__))
def test_no_failure_ends_in_success(kind: type[KlpError]) -> None:
    assert kind.exit_code in set(ExitCode) - {ExitCode.OK}


def test_a_stuck_transition_names_who_holds_it() -> None:
    pending = tuple(f"task{number}[{number}]" for number in range(5))
    error = TransitionStuck("klp_x", 12.34, pending)
    assert error.message == (
        "klp_x: still in transition after 12.3 s, held by task0[0]; task1[1]; task2[2] and 2 more"
    )
    assert error.hint is not None
    assert "pending.txt" in error.hint
    assert error.exit_code is ExitCode.CHECK_FAILED
    assert "no pending task was found" in TransitionStuck("klp_x", 1, ()).message
    assert "more" not in TransitionStuck("klp_x", 1, pending[:3]).message


def exit_codes_in(text: str) -> set[int]:
    """Return the codes in the first column of the table whose head says exit code."""
    head = re.search(r"^\|[^|\n]*(?:exit )?code[^|\n]*\|.*\n", text, re.MULTILINE | re.IGNORECASE)
    if head is None:
        return set()
    table = re.match(r"(?:\|.*(?:\n|\Z))*", text[head.end() :])
    assert table is not None
    return {int(code) for code in _ROW.findall(table[0])}


def test_every_exit_code_is_told(root: Path) -> None:
    assert exit_codes_in((root / "docs/commands.md").read_text()) == {int(code) for code in ExitCode}


def test_the_check_of_exit_codes_can_fail() -> None:
    table = (
        "x\n\n| code | meaning |\n|---|---|\n| 0 | well |\n| `130` | stop |\n\n| n | m |\n| 7 | other |\n"
    )
    assert exit_codes_in(table) == {0, 130}
    assert exit_codes_in("none here, | 0 | but so\n") == set()


def test_help_names_every_exit_code() -> None:
    assert klp.help is not None
    text = klp.help.partition("Exit codes: ")[2]
    assert {int(code) for code in re.findall(r"\b(\d+) ", text)} == {int(code) for code in ExitCode}
