# SPDX-License-Identifier: Apache-2.0
"""Progress: lines where nobody looks on, in place on a terminal; a failure is told, and is passed on."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from klp.consoles import InPlace, PlainLines, for_console
from klp.progress import Progress, Silent


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    target = Console(file=written, force_terminal=terminal, width=200, color_system=None, markup=False)
    return target, written


def nested(progress: Progress) -> None:
    with progress.step("outer [one]"), progress.step("inner"):
        progress.note("a [note] of 100 %")


def failing(progress: Progress) -> None:
    with progress.step("outer"), progress.step("inner"):
        raise KeyError("why")


def timeless(text: str) -> list[str]:
    return [re.sub(r"\d+\.\d s", "N s", line) for line in text.splitlines()]


def test_plain_lines_are_nested() -> None:
    target, written = console(terminal=False)
    nested(PlainLines(target))
    assert timeless(written.getvalue()) == [
        "outer [one] …", "  inner …", "    a [note] of 100 %", "  inner: N s", "outer [one]: N s",
    ]  # fmt: skip


def test_plain_lines_tell_a_failure_and_pass_it_on() -> None:
    target, written = console(terminal=False)
    progress = PlainLines(target)
    with pytest.raises(KeyError):
        failing(progress)
    assert timeless(written.getvalue())[2:] == [
        "  inner: failed after N s",
        "outer: failed after N s",
    ]
    progress.note("as deep as before")
    assert written.getvalue().endswith("\nas deep as before\n")


def test_plain_lines_are_never_broken() -> None:
    written = io.StringIO()
    PlainLines(Console(file=written, width=20)).note("x" * 100)
    assert written.getvalue() == "x" * 100 + "\n"


def test_in_place_keeps_what_is_finished() -> None:
    target, written = console(terminal=True)
    nested(InPlace(target))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())
    assert re.search(r"  ✓ inner \d+\.\d s", text)
    assert re.search(r"✓ outer \[one\] \d+\.\d s", text)
    assert "a [note] of 100 %" in text


def test_in_place_passes_a_failure_on() -> None:
    target, written = console(terminal=True)
    with pytest.raises(KeyError):
        failing(InPlace(target))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())
    assert re.search(r"✗ inner \d+\.\d s", text)
    assert re.search(r"✗ outer \d+\.\d s", text)


def test_silence() -> None:
    nested(Silent())
    with pytest.raises(KeyError):
        failing(Silent())


def test_a_terminal_decides() -> None:
    assert isinstance(for_console(console(terminal=True)[0]), InPlace)
    assert isinstance(for_console(console(terminal=False)[0]), PlainLines)
