# SPDX-License-Identifier: Apache-2.0
"""A transition as it goes, folded from a recording of a real one: a kthread slept in a patched function."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from rich.console import Console

from klp.analysis.live import LivePhase, LiveTransition, StuckTask, Watcher
from klp.report.live import holder_lines, live_line, live_picture
from klp.trace import events as ev
from tests.unit.traces import Trace, task

RECORDING = Path(__file__).parents[1] / "data" / "events" / "real" / "transition-6.12.jsonl.gz"


@pytest.fixture(scope="module")
def recorded() -> list[ev.AnyEvent]:
    lines = gzip.decompress(RECORDING.read_bytes()).splitlines()
    return sorted((ev.decode(line) for line in lines), key=lambda event: event.ts_ns)


@pytest.fixture(scope="module")
def views(recorded: list[ev.AnyEvent]) -> list[LiveTransition]:
    """What was shown after each event that changed a phase or a pass."""
    watcher, seen = Watcher(), []
    for event in recorded:
        now = watcher.now() if watcher.take(event) else None
        if now:
            seen.append(now)
    return seen


def test_every_transition_is_followed_to_its_end(
    recorded: list[ev.AnyEvent], views: list[LiveTransition]
) -> None:
    ends = [each for each in views if each.over]
    assert len(ends) == sum(isinstance(each, ev.Complete) for each in recorded)
    assert all(each.left == 0 for each in ends if each.phase is LivePhase.COMPLETE)
    assert not any(each.holders for each in ends)
    assert {LivePhase.REVERSED, LivePhase.SIGNALLED, LivePhase.CANCELLED} <= {each.phase for each in views}


def test_the_task_that_holds_it_is_named_with_its_function(views: list[LiveTransition]) -> None:
    stuck = [each for each in views if each.passes > 3 and each.holders]
    assert stuck
    for each in stuck:
        assert [(holder.comm, holder.reason) for holder in each.holders] == [
            ("klp_sleeper", "sleeping in klp_sleeper_wait")
        ]
        assert each.left == 1
        assert each.holders[0].attempts >= each.passes - 1


def test_stacks_are_shown_with_their_task(recorded: list[ev.AnyEvent]) -> None:
    watcher = Watcher()
    for event in recorded:
        watcher.take(event)
        now = watcher.now()
        if now and now.passes > 2 and now.holders:
            break
    assert now is not None
    stack = ("schedule+0x27/0xe0", "klp_sleeper_wait+0x5/0x10 [klp_sleeper]", "kthread+0xcf/0x100")
    seen = ev.AwaitedTask(pid=now.holders[0].pid, comm="klp_sleeper", kthread=True, state="S", stack=stack)
    watcher.take(ev.Awaited(probe="klp", seq=0, ts_ns=now.seen_ns, patch=now.patch, tasks=(seen,)))
    lines = holder_lines(watcher.now() or now)
    assert lines[0].startswith(f"klp_sleeper[{now.holders[0].pid}] patch_state ")
    assert lines[0].endswith("; klp_sleeper_wait is this kthread's own main function, which it leaves only "
                             "to end: neither waiting nor the kernel's signals help")  # fmt: skip
    assert lines[1:4] == [f"    {frame}" for frame in stack]


def test_it_is_told_in_a_line_and_in_a_picture(views: list[LiveTransition]) -> None:
    end = next(each for each in views if each.phase is LivePhase.COMPLETE)
    assert f"0 of {end.total} tasks left" in live_line(end)
    console = Console(record=True, width=100, file=None, quiet=False)
    with console.capture() as shown:
        console.print(live_picture(next(each for each in views if each.holders)))
    assert "klp_sleeper[" in shown.get()


@pytest.mark.parametrize("order", ["seq", "ts_ns"])
def test_the_pass_that_ends_a_transition_is_counted(recorded: list[ev.AnyEvent], order: str) -> None:
    # A pass's event has the time at which it began, and is written when it ends: after its `complete`.
    own = [each for each in recorded if each.probe == "klptransition"]
    watcher, counted = Watcher(), []
    for event in sorted(own, key=lambda each: getattr(each, order)):
        now = watcher.now() if watcher.take(event) else None
        if now and now.phase is LivePhase.COMPLETE:
            counted.append(now.passes)
    assert counted == [each.number for each in own if isinstance(each, ev.Pass) and each.complete]


def test_a_task_that_ended_holds_nothing_up_any_more() -> None:
    trace = Trace()
    trace.begin_enabling("p")
    trace.try_once({3: ("sleeping", "f"), 2: ("running", None)})
    watcher = Watcher()
    for event in trace.events:
        watcher.take(event)
    trace.put(ev.Exit, task=task(3), patch_state=0, pending=True)
    assert [each.pid for each in holders(watcher)] == [2, 3]
    watcher.take(trace.events[-1])
    assert [each.pid for each in holders(watcher)] == [2]


def holders(watcher: Watcher) -> list[StuckTask]:
    now = watcher.now()
    assert now
    return sorted(now.holders, key=lambda each: each.pid)
