# SPDX-License-Identifier: Apache-2.0
"""Events to transitions: who switched, who stayed behind and why, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from klp.analysis.legs import LegOutcome
from klp.analysis.transitions import Straggler, Transition, TransitionPhase, transitions
from klp.trace import events as ev
from klp.trace.events import PATCHED, UNPATCHED, AnyEvent, Task

SHELL = Task(pid=100, tgid=100, comm="insmod")


CORE = ev.Core(target_state=-1, transition_patch=None, signals_cnt=0, enabled=None)
# What these tests do not look at.
REST: dict[Any, dict[str, Any]] = {
    ev.Init: {"replace": False, "core": CORE},
    ev.Start: {"core": CORE},
    ev.Object: {"patch": "p", "functions": 0, "nops_only": False},
    ev.Pass: {"attempts": 0, "left": 0, "complete": False, "scheduler_refused": 0, "core": CORE},
    ev.Complete: {"replace": False, "forced": False, "core": CORE},
    **{key: {"core": CORE} for key in (ev.Signals, ev.Force, ev.Reverse, ev.Cancel)},
}


def at(kind: Callable[..., AnyEvent], ts_ns: int, **fields: Any) -> AnyEvent:
    return kind(probe="klptransition", seq=ts_ns, ts_ns=ts_ns, **{**REST.get(kind, {}), **fields})


def begin(ts_ns: int, target: int = PATCHED, patch: str = "p") -> list[AnyEvent]:
    return [
        at(ev.Init, ts_ns, patch=patch, target=target, task=SHELL),
        at(ev.Object, ts_ns + 1, object="vmlinux", action="patch", errno=0),
        at(ev.Start, ts_ns + 2, patch=patch, target=target),
    ]


def complete(ts_ns: int, target: int = PATCHED, patch: str = "p") -> AnyEvent:
    return at(ev.Complete, ts_ns, patch=patch, target=target)


def attempt(ts_ns: int, pid: int, result: str = "switched", **fields: Any) -> AnyEvent:
    comm = fields.pop("comm", f"task{pid}")
    task = Task(pid=pid, tgid=pid, comm=comm)
    after = PATCHED if result in ("switched", "already") else UNPATCHED
    known = {
        "errno": 0, "function": None, "patch_state": UNPATCHED, "after": after, "duration_ns": 1, **fields
    }  # fmt: skip
    return at(ev.Attempt, ts_ns, task=task, result=result, **known)


def switch(ts_ns: int, pid: int, path: str, comm: str = "") -> AnyEvent:
    task = Task(pid=pid, tgid=pid, comm=comm or f"task{pid}")
    return at(ev.Switch, ts_ns, task=task, path=path, patch_state=PATCHED)


def one_pass(ts_ns: int, number: int) -> AnyEvent:
    return at(ev.Pass, ts_ns, patch="p", number=number, duration_ns=5)


def only(events: Iterable[AnyEvent]) -> Transition:
    [found] = transitions(events)
    return found


def test_nothing_happened() -> None:
    assert transitions([]) == ()


def test_a_transition_that_completes() -> None:
    found = only([
        *begin(1000), one_pass(1010, 1), attempt(1011, 1), attempt(1012, 2),
        switch(1020, 3, "exit"), switch(1030, 4, "scheduler"), complete(1100),
    ])  # fmt: skip
    assert found == Transition(
        patch="p", target=PATCHED, outcome=LegOutcome.COMPLETE, started=True, begun_ns=1000,
        ended_ns=1100, passes=1, attempts=2, tasks={"first pass": 2, "exit": 1, "scheduler": 1},
        twice=(), stragglers=(), signals=0, forced=False,
        phases=(
            TransitionPhase(name="init", begun_ns=1000, duration_ns=1),
            TransitionPhase(name="patching", begun_ns=1001, duration_ns=9),
            TransitionPhase(name="first pass", begun_ns=1010, duration_ns=90),
            TransitionPhase(name="completion", begun_ns=1100, duration_ns=0),
        ),
        mixed_ns=19,
    )  # fmt: skip
    assert found.duration_ns == 100
    assert found.direction == "patching"


def test_an_unpatching_one() -> None:
    found = only([*begin(1, UNPATCHED), complete(9, UNPATCHED)])
    assert (found.target, found.direction) == (UNPATCHED, "unpatching")


def test_several_one_after_another() -> None:
    events = [
        *begin(10), complete(19), *begin(20, UNPATCHED), complete(29, UNPATCHED),
        *begin(30, patch="q"), complete(39, patch="q"),
    ]  # fmt: skip
    assert [(each.patch, each.target, each.begun_ns) for each in transitions(events)] == [
        ("p", PATCHED, 10), ("p", UNPATCHED, 20), ("q", PATCHED, 30),
    ]  # fmt: skip


def test_each_has_its_own_tasks() -> None:
    events = [
        *begin(10), attempt(13, 1), complete(19), *begin(20, UNPATCHED), attempt(23, 1, after=UNPATCHED),
        complete(29, UNPATCHED),
    ]  # fmt: skip
    assert [(each.tasks, each.twice) for each in transitions(events)] == [({"first pass": 1}, ())] * 2


def test_a_reversal_ends_one_and_begins_another() -> None:
    events = [
        *begin(10), attempt(13, 1), attempt(14, 2, "running", errno=-16),
        at(ev.Reverse, 20, patch="p", target=UNPATCHED), at(ev.Start, 21, patch="p", target=UNPATCHED),
        attempt(25, 1, after=UNPATCHED), complete(30, UNPATCHED),
    ]  # fmt: skip
    first, second = transitions(events)
    assert (first.outcome, first.target, first.ended_ns) == (LegOutcome.REVERSED, PATCHED, 20)
    assert [each.pid for each in first.stragglers] == [2]
    assert (second.outcome, second.target, second.begun_ns) == (LegOutcome.COMPLETE, UNPATCHED, 20)
    assert second.started
    assert second.twice == ()
    assert second.tasks == {"first pass": 1}


def test_a_cancelled_one_completes_as_cancelled() -> None:
    found = only([
        at(ev.Init, 10, patch="p", target=PATCHED, task=SHELL), at(ev.Cancel, 11, patch="p"),
        complete(12, UNPATCHED),
    ])  # fmt: skip
    assert found.outcome is LegOutcome.CANCELLED
    assert not found.started
    assert found.ended_ns == 12


def test_an_unfinished_one() -> None:
    found = only([*begin(10), attempt(15, 1, "unreliable", errno=-22), attempt(50, 2)])
    assert found.outcome is LegOutcome.UNFINISHED
    assert found.ended_ns is None
    assert found.duration_ns is None
    assert found.stragglers[0].held_ns == 40
    assert found.stragglers[0].switched_by is None


def test_one_that_is_cut_off_by_the_next() -> None:
    first, second = transitions([*begin(10), *begin(20, patch="q"), complete(30, patch="q")])
    assert (first.patch, first.outcome) == ("p", LegOutcome.UNFINISHED)
    assert (second.patch, second.outcome) == ("q", LegOutcome.COMPLETE)


def test_the_end_of_one_that_began_before_is_left_out() -> None:
    assert transitions([attempt(1, 1), switch(2, 2, "exit"), complete(3)]) == ()
    assert len(transitions([complete(3), *begin(10), complete(20)])) == 1


def test_stragglers_and_their_reasons() -> None:
    found = only([
        *begin(1000), one_pass(1003, 1),
        attempt(1004, 1, "sleeping", errno=-98, function="busy"), attempt(1005, 2, "running", errno=-16),
        attempt(1006, 3, "unreliable", errno=-22), attempt(1007, 4, "refused", errno=-22),
        attempt(1008, 5, "sleeping", errno=-98), attempt(1009, 6),
        one_pass(2000, 2), attempt(2001, 1, "sleeping", errno=-98, function="busy"),
        attempt(2002, 2), attempt(2003, 3, "running", errno=-16), switch(2500, 1, "exit"),
        switch(2600, 3, "force"), switch(2601, 4, "force"), switch(2602, 5, "idle"), complete(3000),
    ])  # fmt: skip
    assert found.stragglers == (
        Straggler(pid=5, comm="task5", reasons={"sleeping in an unknown function": 1}, held_ns=1602,
                  switched_by="idle"),
        Straggler(pid=4, comm="task4", reasons={"refused without a reason": 1}, held_ns=1601,
                  switched_by="force"),
        Straggler(pid=3, comm="task3", held_ns=1600, switched_by="force",
                  reasons={"its stack could not be read reliably": 1, "running on a CPU": 1}),
        Straggler(pid=1, comm="task1", reasons={"sleeping in busy": 2}, held_ns=1500,
                  switched_by="exit"),
        Straggler(pid=2, comm="task2", reasons={"running on a CPU": 1}, held_ns=1002,
                  switched_by="retry pass"),
    )  # fmt: skip
    assert (found.passes, found.attempts) == (2, 9)
    assert sum(found.tasks.values()) == 6


def test_attempts_on_tasks_that_are_there_already_do_not_count() -> None:
    found = only(
        [*begin(1), attempt(5, 1), attempt(6, 1, "already"), attempt(7, 2, "already"), complete(9)]
    )
    assert (found.attempts, found.tasks, found.twice) == (1, {"first pass": 1}, ())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (attempt(5, 7), attempt(6, 7)),
        (attempt(5, 7), switch(6000, 7, "exit")),
        (switch(5, 7, "idle"), switch(6, 7, "scheduler")),
        (attempt(5, 7, comm="old"), attempt(6, 7, comm="new")),  # it renamed itself
    ],
)
def test_a_task_that_switches_twice_is_caught(first: AnyEvent, second: AnyEvent) -> None:
    assert only([*begin(1), first, attempt(5, 8), second, complete(9000)]).twice == (7,)


def test_idle_tasks_are_told_apart_by_name() -> None:
    found = only([
        *begin(1), attempt(5, 0, comm="swapper/0"), switch(6, 0, "idle", "swapper/1"), complete(9),
    ])  # fmt: skip
    assert found.twice == ()
    assert found.tasks == {"first pass": 1, "idle": 1}


def test_one_idle_task_that_switches_twice_is_caught() -> None:
    found = only([
        *begin(1), attempt(5, 0, comm="swapper/1"), switch(6000, 0, "idle", "swapper/1"), complete(9000),
    ])  # fmt: skip
    assert found.twice == (0,)


def test_idle_tasks_are_stragglers_of_their_own() -> None:
    found = only([
        *begin(1), attempt(5, 0, "running", errno=-16, comm="swapper/0"),
        attempt(6, 0, "running", errno=-16, comm="swapper/1"), switch(7, 0, "idle", "swapper/0"),
        switch(8, 0, "idle", "swapper/1"), complete(9),
    ])  # fmt: skip
    assert [(each.comm, each.held_ns) for each in found.stragglers] == [("swapper/1", 7), ("swapper/0", 6)]


def test_a_forked_child_does_not_switch() -> None:
    child = Task(pid=7, tgid=7, comm="task7")
    states = {"child_state": 0, "child_pending": True, "parent_state": 0, "parent_pending": True}
    born = at(ev.Fork, 5, child=child, parent=SHELL, **states)
    found = only([*begin(1), born, attempt(6, 7), complete(9)])
    assert found.tasks == {"first pass": 1}
    assert found.twice == ()


def test_signals_and_force_are_told() -> None:
    events = [
        *begin(1), at(ev.Signals, 5, patch="p"), at(ev.Signals, 6, patch="p"), at(ev.Force, 7, patch="p"),
        switch(8, 3, "force"), complete(9),
    ]  # fmt: skip
    found = only(events)
    assert (found.signals, found.forced, found.tasks) == (2, True, {"force": 1})


def test_other_events_do_no_harm() -> None:
    freed = ev.ShadowFreed(
        probe="klpshadow",
        seq=0,
        ts_ns=5,
        obj="0x1",
        id=1,
        variable="0x2",
        age_ns=1,
        dtor=False,
        dtor_calls=0,
    )
    mark = ev.Mark(probe="klpshadow", seq=1, ts_ns=6, number=1)
    found = only([*begin(1), freed, mark, attempt(7, 1), complete(9)])
    assert found.tasks == {"first pass": 1}
