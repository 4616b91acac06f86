# SPDX-License-Identifier: Apache-2.0
"""What is on a terminal while klp works, and what stays: read from a pseudo-terminal."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import pseudoterminal
import pytest

from klp.trace import events as ev

REAL = Path(__file__).parents[1] / "data" / "events" / "real"
# Runs as `klp trace` does, but for the guest: events come from a recording. It stops at one of them, and
# goes on when it is told.
TRACE = """
import gzip, sys
from rich.console import Console
from klp.cli.watching import TransitionScreen
from klp.consoles import for_console
from klp.trace import events as ev

console = Console()
screen = TransitionScreen(console)
steps = for_console(console, above=screen.picture)
stop = int(sys.argv[2])
with steps.step("the livepatch"):
    with steps.step("a part"):
        sys.stdin.readline()
    lines = gzip.open(sys.argv[1]).read().splitlines()
    for number, event in enumerate(ev.decode(line) for line in lines):
        if number == stop:
            sys.stdin.readline()
        screen.event(event)
    sys.stdin.readline()
"""


def recorded(name: str) -> list[ev.AnyEvent]:
    lines = gzip.decompress((REAL / name).read_bytes()).splitlines()
    return [ev.decode(line) for line in lines]


def stuck_at(events: list[ev.AnyEvent]) -> int:
    """Return where a pass has just left a task behind, for the third time or later."""
    return next(
        number
        for number, event in enumerate(events, 1)
        if isinstance(event, ev.Pass) and event.left and event.number > 3
    )


@pytest.fixture(scope="module")
def traced() -> Iterator[tuple[list[ev.AnyEvent], pseudoterminal.Terminal]]:
    events = recorded("transition-6.12.jsonl.gz")
    file, stop = str(REAL / "transition-6.12.jsonl.gz"), stuck_at(events)
    with pseudoterminal.on_terminal(TRACE, file, str(stop)) as terminal:
        terminal.until(lambda lines: any(re.match(r"  [-\\|/] a part", line) for line in lines))
        terminal.say("go on")
        terminal.until(lambda lines: any("klp_sleeper[" in line for line in lines))
        terminal.say("go on")
        # A transition that is over is a line, and no bar any more, while the step goes on.
        ends = sum(isinstance(event, ev.Complete) for event in events)
        terminal.until(lambda lines: len(over(lines)) == ends and not any("━" in line for line in lines))
        assert any("the livepatch" in line for line in terminal.lines)
        terminal.say("end")
        assert terminal.end() == 0, terminal.lines
        yield events, terminal


def test_what_has_ended_is_not_shown_as_running(
    traced: tuple[list[ev.AnyEvent], pseudoterminal.Terminal],
) -> None:
    _, terminal = traced
    ended = [lines for lines in terminal.seen if any(line.startswith("  ✓ a part") for line in lines)]
    assert ended
    assert not [lines for lines in ended if any(re.match(r"  [-\\|/] a part", line) for line in lines)]


def over(lines: list[str]) -> list[str]:
    return [line for line in lines if re.search(r"patching: (complete|cancelled)", line)]


def test_each_transition_ends_in_one_line(
    traced: tuple[list[ev.AnyEvent], pseudoterminal.Terminal],
) -> None:
    events, terminal = traced
    ends = over(terminal.lines)
    # One that is cancelled is completed as well, in the kernel.
    assert len(ends) == sum(isinstance(event, ev.Complete) for event in events)
    assert len(set(ends)) == len(ends)


def test_no_screen_counts_no_pass(traced: tuple[list[ev.AnyEvent], pseudoterminal.Terminal]) -> None:
    _, terminal = traced
    assert not [line for lines in terminal.seen for line in lines if "pass 0" in line]
    assert all(re.search(r"complete, pass \d+, 0 of \d+ tasks left", line)
               for line in terminal.lines if ": complete" in line)  # fmt: skip


def test_a_transition_that_runs_is_a_bar_with_who_holds_it(
    traced: tuple[list[ev.AnyEvent], pseudoterminal.Terminal],
) -> None:
    _, terminal = traced
    [shown] = [lines for lines in terminal.seen if any("klp_sleeper[" in line for line in lines)][:1]
    assert any(re.search(r"━.*\d+/\d+ tasks .*, pass \d+", line) for line in shown), shown
    assert any("sleeping in klp_sleeper_wait" in line for line in shown)
    assert any("the livepatch" in line for line in shown)


def test_nothing_that_was_redrawn_stays(
    traced: tuple[list[ev.AnyEvent], pseudoterminal.Terminal],
) -> None:
    _, terminal = traced
    assert not any("━" in line or "klp_sleeper[" in line for line in terminal.lines)
    assert re.fullmatch(r"✓ the livepatch \d+\.\d s", terminal.lines[-1])
    assert not terminal.cursor_is_hidden


SIDE_BY_SIDE = """
import sys, threading
from rich.console import Console
from klp.consoles import for_console
from klp.progress import teller, under_way

progress = for_console(Console())
go, begun = threading.Event(), threading.Barrier(3)

def scenario(name):
    with under_way(progress, name):
        teller(progress)(f"cycle 3 of 10 of {name}")
        begun.wait()
        go.wait()

with progress.step("checking"):
    threads = [threading.Thread(target=scenario, args=(name,)) for name in ("life", "cycles")]
    for each in threads:
        each.start()
    begun.wait()
    sys.stdin.readline()
    go.set()
    for each in threads:
        each.join()
    progress.note("1/1 held")
"""


def test_what_runs_side_by_side_is_shown_while_it_runs() -> None:
    with pseudoterminal.on_terminal(SIDE_BY_SIDE) as terminal:
        terminal.until(
            lambda lines: all(f"of 10 of {name}" in " ".join(lines) for name in ("life", "cycles"))
        )
        shown = terminal.lines
        terminal.say("go on")
        assert terminal.end() == 0, terminal.lines
    assert re.match(r"\S checking \d+ s$", shown[0])
    assert sorted(re.sub(r"^  \S |\d+ s", "", line) for line in shown[1:]) == [
        "cycles , cycle 3 of 10 of cycles", "life , cycle 3 of 10 of life",
    ]  # fmt: skip
    assert [re.sub(r"\d+\.\d", "N", line) for line in terminal.lines] == ["  1/1 held", "✓ checking N s"]
