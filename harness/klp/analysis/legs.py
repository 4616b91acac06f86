# SPDX-License-Identifier: Apache-2.0
"""Events to legs: a transition in one direction, from its init or its reversal to its end.

kernel/livepatch/transition.c: klp_init_transition begins one, klp_complete_transition ends it, also after
klp_cancel_transition; klp_reverse_transition ends a leg and begins the next one in the other direction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from klp.trace import events as ev

Who = tuple[int, str]
RUNNING = "running on a CPU"
# How a task switches by itself, on the CPU where it runs, whatever a pass does at the same moment.
_BY_ITSELF = ("exit", "idle", "scheduler")


class LegOutcome(StrEnum):
    """How a leg ended."""

    COMPLETE = "complete"
    REVERSED = "reversed"
    CANCELLED = "cancelled"
    UNFINISHED = "unfinished"


class TaskSwitch(msgspec.Struct, frozen=True, kw_only=True):
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
        forks, forks_pending, exits_pending: counts, the last two of tasks not in the target state.
        born, gone: when tasks were born; when tasks died that no pass met any more.
        last_ns: time of the last event seen in it.
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
    forks: int
    forks_pending: int
    exits_pending: int
    born: tuple[int, ...]
    gone: tuple[int, ...]
    last_ns: int

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
        "unreliable": "its stack could not be read reliably",
    }.get(event.result, "refused without a reason")


@dataclass(slots=True)
class _Account:
    """What is known of one task in the leg that runs.

    `until_ns` is the end of the attempt that switched it, `confirmed` whether a pass found it switched
    later on, `dying` whether its exit was seen.
    """

    task: ev.Task
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: int | None = None
    last_ns: int = 0
    path: str | None = None
    at_ns: int = 0
    until_ns: int = 0
    confirmed: bool = False
    number: int | None = None
    dying: bool = False

    def built(self) -> TaskSwitch:
        """Return it as a value."""
        path = "ended" if self.path is None and self.dying else self.path
        return TaskSwitch(
            pid=self.task.pid,
            tgid=self.task.tgid,
            comm=self.task.comm,
            path=path,
            at_ns=self.at_ns if self.path else self.last_ns,
            attempts=self.failed,
            reasons=dict(self.reasons),
            events=tuple(each for each in (self.first, self.number) if each is not None),
        )


class TaskAccounts:
    """The accounts of the tasks of one leg."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._open: dict[Who, _Account] = {}
        self._closed: list[TaskSwitch] = []
        self._leaders_gone: set[int] = set()
        self.twice: list[tuple[TaskSwitch, int]] = []
        self.wrong_way: list[tuple[TaskSwitch, int]] = []
        self.unexplained: list[tuple[TaskSwitch, int]] = []
        self.forks = self.forks_pending = self.exits_pending = 0
        self.born: list[int] = []
        self._died: dict[Who, int] = {}

    @property
    def gone(self) -> tuple[int, ...]:
        """When tasks died that no pass met any more: as long as a pass does, they are not reaped."""
        return tuple(self._died.values())

    def attempt(self, number: int, event: ev.Attempt, pass_number: int) -> None:
        """Take one attempt of the `pass_number`-th pass."""
        self._died.pop(identity(event.task), None)
        account = self._of(event.task)
        account.last_ns = event.ts_ns
        if event.result == "switched":
            path = "first pass" if pass_number <= 1 else "retry pass"
            if account.path in _BY_ITSELF and not account.confirmed and event.patch_state != self._target:
                # A switch by itself is told when klp_update_patch_state() begins. A task that is preempted
                # right there may be switched by the pass; when it goes on it finds TIF_PATCH_PENDING
                # cleared and changes nothing. So the pass was it, and the task did not switch twice.
                account.path = None
            self._switched(account, path, number, event.ts_ns, event.after)
            account.until_ns = event.ts_ns + event.duration_ns
        elif event.result == "already":
            self._already(account, number, event)
        else:
            account.failed += 1
            account.reasons[reason(event)] += 1
            account.first = number if account.first is None else account.first

    def _already(self, account: _Account, number: int, event: ev.Attempt) -> None:
        """A pass found it in the target state: known, unless an attempt on it had failed before."""
        if account.path is not None:
            account.confirmed = True
            return
        # A thread that calls exec takes over the id of its leader (de_thread(), fs/exec.c), which is gone:
        # what was told under that id was told of another task.
        swapped = event.task.tgid in self._leaders_gone
        account.path, account.at_ns, account.number = "already", event.ts_ns, number
        if account.failed and not swapped:
            self.unexplained.append((account.built(), number))

    def switch(self, number: int, event: ev.Switch) -> None:
        """Take a switch by another way than a pass's attempt."""
        self._switched(self._of(event.task), event.path, number, event.ts_ns, event.patch_state)

    def _switched(self, account: _Account, path: str, number: int, ts_ns: int, state: int) -> None:
        # Not booked as its switch: to the target it has to go still, and that would count as a second one.
        if state != self._target:
            self.wrong_way.append((account.built(), number))
            return
        # A task may switch by itself while an attempt on it waits for its run queue's lock: the attempt
        # then sets what is set already, because klp_try_switch_task() looks at the state before it takes
        # the lock.
        itself = path in _BY_ITSELF and ts_ns <= account.until_ns
        if account.path not in (None, "already") and not itself:
            self.twice.append((account.built(), number))
        if account.path == "already" and self.unexplained:
            # Its own event bears a later time than that of the pass that found it switched: the two
            # overlap.
            who = (account.task.pid, account.task.comm)
            self.unexplained = [(t, n) for t, n in self.unexplained if (t.pid, t.comm) != who]
        account.path, account.at_ns, account.number = path, ts_ns, number

    def fork(self, number: int, event: ev.Fork) -> None:
        """Take a birth: whoever had that thread id before is gone, whether or not its exit was seen."""
        self.forks += 1
        self.born.append(event.ts_ns)
        self._close(identity(event.child))
        account = self._of(event.child)
        account.last_ns = event.ts_ns
        if event.child_state == self._target:
            account.path, account.at_ns, account.number = "fork", event.ts_ns, number
        else:
            self.forks_pending += 1

    def exit(self, event: ev.Exit) -> None:
        """Take a death. A dying task stays listed until it is reaped, and a pass may still switch it."""
        account = self._of(event.task)
        account.last_ns = event.ts_ns
        self._died[identity(event.task)] = event.ts_ns
        if event.task.pid == event.task.tgid:
            self._leaders_gone.add(event.task.tgid)
        if account.path in (None, "already"):
            if event.patch_state != self._target:
                self.exits_pending += 1
            account.path, account.dying = None, True
        else:
            self._close(identity(event.task))

    def _close(self, who: Who) -> None:
        account = self._open.pop(who, None)
        if account is not None:
            self._closed.append(account.built())

    def _of(self, task: ev.Task) -> _Account:
        account = self._open.get(identity(task))
        if account is None:
            account = self._open[identity(task)] = _Account(task)
        return account

    def built(self) -> tuple[TaskSwitch, ...]:
        """Return every account, in the order the tasks were first seen."""
        return (*self._closed, *(each.built() for each in self._open.values()))
