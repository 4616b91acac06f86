# SPDX-License-Identifier: Apache-2.0
"""Events to legs: a transition in one direction, from its init or its reversal to its end.

kernel/livepatch/transition.c: klp_init_transition begins one, klp_complete_transition ends it, also after
klp_cancel_transition; klp_reverse_transition ends a leg and begins the next one in the other direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from klp.trace import events as ev

Who = tuple[int, str]
RUNNING = "running on a CPU"
UNRELIABLE = "its stack could not be read reliably"


class LegOutcome(StrEnum):
    """How a leg ended."""

    COMPLETE = "complete"
    REVERSED = "reversed"
    CANCELLED = "cancelled"
    UNFINISHED = "unfinished"


class TaskSwitch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One task's account in one leg.

    Attributes:
        pid: thread id; 0 for an idle task, which its name tells apart.
        tgid: process id.
        comm: its name.
        path: ``first pass``, ``retry pass``, ``exit``, ``idle``, ``scheduler``, ``force``, ``offline``,
            ``fork`` (born in the target state), ``ended`` (it died without switching), ``already`` (a
            pass found it switched, and nothing else was seen of it), or None: it was left pending.
        at_ns: when it switched, or when it was last seen pending.
        attempts: passes' attempts on it that failed.
        reasons: each reason with the number of attempts it made fail, such as
            ``sleeping in busymod_work_func``.
        events: numbers of its first failed attempt, if any, and of its switch.
    """

    pid: int
    tgid: int
    comm: str
    path: str | None
    at_ns: int
    attempts: int
    reasons: dict[str, int]
    events: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ObjectSeen:
    """One patching or unpatching of an object, with the functions that were told before it."""

    number: int
    event: ev.Object
    functions: tuple[ev.Function, ...]


@dataclass(frozen=True, slots=True)
class Leg:
    """A transition in one direction; numbers are those of the events.

    Attributes:
        patch, target, replace: the livepatch, 1 or 0, and whether it replaces the others.
        outcome: how it ended.
        begun: the event it began with: `Init` or `Reverse`.
        started, completed, cancelled, reversed_by: those events, where they came.
        censuses, passes, signals, forces: of this leg, in order.
        waits: for every CPU, by klp_synchronize_transition, in order.
        objects: patched and unpatched, those of coming and going modules among them.
        tasks: every task that was seen in it.
        twice: tasks that switched more than once, with the numbers of both events.
        wrong_way: switches to another state than the target.
        unexplained: tasks that a pass found switched after it had failed on them, with no event that says
            how.
        walks: for each pass, when it was at its first task: from then on nobody joins or leaves the list
            of tasks until it has met them all, for it holds tasklist_lock.
        in_scheduler: every switch in the scheduler.
        chance_passes: how many passes left tasks behind only because these were running at that moment.
        born, born_pending: when tasks were born, and those among them that were not in the target state.
        gone: when tasks died that no pass met any more.
        dead_pending: when tasks died that were not in the target state.
        last_ns: time of the last event seen in it.
        awaited: whom it waited for, as klp looked while it lasted.
    """

    patch: str
    target: int
    replace: bool
    outcome: LegOutcome
    begun: tuple[int, ev.Init | ev.Reverse]
    started: tuple[int, ev.Start] | None
    completed: tuple[int, ev.Complete] | None
    cancelled: tuple[int, ev.Cancel] | None
    reversed_by: tuple[int, ev.Reverse] | None
    censuses: tuple[tuple[int, ev.Census], ...]
    passes: tuple[tuple[int, ev.Pass], ...]
    signals: tuple[tuple[int, ev.Signals], ...]
    forces: tuple[tuple[int, ev.Force], ...]
    waits: tuple[tuple[int, ev.Synchronize], ...]
    objects: tuple[ObjectSeen, ...]
    tasks: tuple[TaskSwitch, ...]
    twice: tuple[tuple[TaskSwitch, int], ...]
    wrong_way: tuple[tuple[TaskSwitch, int], ...]
    unexplained: tuple[tuple[TaskSwitch, int], ...]
    walks: tuple[int, ...]
    in_scheduler: tuple[tuple[int, ev.Switch], ...]
    chance_passes: int
    born: tuple[int, ...]
    born_pending: tuple[int, ...]
    gone: tuple[int, ...]
    dead_pending: tuple[int, ...]
    last_ns: int
    awaited: tuple[tuple[int, ev.Awaited], ...] = ()

    @property
    def forks_pending(self) -> int:
        """How many tasks were born that were not in the target state."""
        return len(self.born_pending)

    @property
    def direction(self) -> str:
        """``patching`` or ``unpatching``, as the kernel's own messages say it."""
        return "patching" if self.target == ev.PATCHED else "unpatching"

    @property
    def begun_ns(self) -> int:
        """When it began, on the guest's monotonic clock."""
        return self.begun[1].ts_ns

    @property
    def ended_ns(self) -> int | None:
        """When it completed or was reversed; None where no end was seen."""
        end = self.completed or self.reversed_by
        return end[1].ts_ns if end else None

    @property
    def reversal(self) -> bool:
        """Whether it began by reversing another."""
        return isinstance(self.begun[1], ev.Reverse)

    @property
    def whole(self) -> bool:
        """Whether it started and completed, so that every task had to switch in it."""
        return self.started is not None and self.completed is not None and self.cancelled is None

    def over_at(self, ts_ns: int) -> bool:
        """Whether klp_complete_transition had returned before a moment, as far as that was told."""
        ends = [each.ts_ns for _, each in self.censuses if each.moment == "completed"]
        return bool(ends) and ts_ns > ends[0]

    @property
    def changed(self) -> frozenset[str]:
        """The functions that its livepatch was seen to change in it."""
        return frozenset(
            one.function for each in self.objects for one in each.functions if one.patch == self.patch
        )

    def signals_until(self, ts_ns: int) -> int:
        """Return how often the kernel had signalled the remaining tasks by a moment."""
        return sum(each.ts_ns <= ts_ns for _, each in self.signals)

    def census(self, moment: str) -> Iterator[tuple[int, ev.Census]]:
        """Yield the censuses of one moment that were taken whole."""
        return ((n, each) for n, each in self.censuses if each.moment == moment and each.whole)

    def told(self) -> str:
        """Return who goes where, in words."""
        return f"{self.patch} {self.direction}"


def identity(task: ev.Task) -> Who:
    """Return what tells a task apart: its thread id, for it may rename itself (comm).

    All idle tasks have the id 0, so these are told apart by their names, swapper/CPU.
    """
    return (task.pid, task.comm if task.pid == 0 else "")


def reason(event: ev.Attempt) -> str:
    """Return in words why an attempt failed."""
    if event.result == "sleeping":
        return f"sleeping in {event.function or 'an unknown function'}"
    return {
        "running": RUNNING,
        "unreliable": UNRELIABLE,
    }.get(event.result, "refused without a reason")
