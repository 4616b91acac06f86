# SPDX-License-Identifier: Apache-2.0
"""Events to transitions: phases, passes, who switched how, who stayed behind and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from klp.analysis.accounts import TaskAccounts
from klp.analysis.legs import Leg, LegOutcome, ObjectSeen, TaskSwitch
from klp.analysis.words import outlook_of, signalled
from klp.klog.transitions import COUNTED
from klp.trace import events as ev

__all__ = [
    "LegBuilder",
    "Straggler",
    "Transition",
    "TransitionPhase",
    "legs",
    "traced_counts",
    "transition_of",
    "transitions",
]


class Straggler(msgspec.Struct, frozen=True, kw_only=True):
    """A task that an attempt of a pass left behind.

    Attributes:
        pid: thread id; 0 for an idle task.
        comm: its name.
        reasons: each reason with the number of attempts it made fail, such as
            ``sleeping in busymod_work_func``.
        held_ns: from the transition's start to the task's switch, or to the end of what was seen.
        switched_by: the path by which it switched at last, or None.
        outlook: what was to be expected of it, where it has not switched and klp looked at it.
        signalled: whether the kernel's signal sent it out of where it was.
    """

    pid: int
    comm: str
    reasons: dict[str, int]
    held_ns: int
    switched_by: str | None
    outlook: str = ""
    signalled: bool = False


class TransitionPhase(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a transition.

    Attributes:
        name: ``init`` (to the first object), ``patching`` (objects and pre-patch callbacks, to the
            start), ``first pass``, ``retry N``, ``signal`` (the tasks that remained were signalled),
            ``completion`` (klp_complete_transition and what follows in its pass).
        begun_ns: guest's monotonic clock.
        duration_ns: how long it took.
    """

    name: str
    begun_ns: int
    duration_ns: int


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the transition machine in one direction, as run.json tells it.

    Attributes:
        patch: the livepatch.
        target: 1 patching, 0 unpatching; of a reversed one, where it was going at first.
        outcome: how it ended; a reversal ends one transition and begins another.
        started: whether klp_start_transition was called.
        begun_ns, ended_ns: guest's monotonic clock; `ended_ns` is None where no end was seen.
        passes: calls of klp_try_complete_transition.
        attempts: calls of klp_try_switch_task that had something to do.
        tasks: tasks that switched, by path (see `TaskSwitch.path`).
        twice: thread ids that switched more than once, which none may.
        stragglers: tasks that an attempt left behind, longest first.
        signals: times the core signalled the remaining tasks.
        forced: whether klp_force_transition ended it.
        phases: what it spent its time on, in order.
        mixed_ns: for how long some tasks had switched and others had not.
    """

    patch: str
    target: int
    outcome: LegOutcome
    started: bool
    begun_ns: int
    ended_ns: int | None
    passes: int
    attempts: int
    tasks: dict[str, int]
    twice: tuple[int, ...]
    stragglers: tuple[Straggler, ...]
    signals: int
    forced: bool
    phases: tuple[TransitionPhase, ...] = ()
    mixed_ns: int = 0

    @property
    def duration_ns(self) -> int | None:
        """Nanoseconds from init to completion, None where it did not complete."""
        return None if self.ended_ns is None else self.ended_ns - self.begun_ns

    @property
    def direction(self) -> str:
        """``patching`` or ``unpatching``, as the kernel's own messages say it."""
        return "patching" if self.target == ev.PATCHED else "unpatching"


_PASSES_OWN = ("first pass", "retry pass")
_SWITCHES = (*_PASSES_OWN, "exit", "idle", "scheduler", "force", "offline")


def transitions(events: Iterable[ev.AnyEvent]) -> tuple[Transition, ...]:
    """Return the transitions in `events` (ordered by time), oldest first.

    A transition whose beginning lies before the events is left out.
    """
    return tuple(transition_of(each) for each in legs(enumerate(events, 1)))


def legs(events: Iterable[tuple[int, ev.AnyEvent]]) -> tuple[Leg, ...]:
    """Return the legs in numbered events, oldest first."""
    builder = LegBuilder()
    for number, event in events:
        builder.take(number, event)
    return builder.built()


def transition_of(leg: Leg) -> Transition:
    """Return a leg as run.json tells it."""
    switched = [each for each in leg.tasks if each.path in _SWITCHES]
    left_behind = [_straggler(each, leg) for each in leg.tasks if each.attempts]
    return Transition(
        patch=leg.patch,
        target=leg.target,
        outcome=leg.outcome,
        started=leg.started is not None,
        begun_ns=leg.begun_ns,
        ended_ns=leg.ended_ns,
        passes=len(leg.passes),
        attempts=sum(each.attempts for each in leg.tasks)
        + sum(each.path in _PASSES_OWN for each in switched),
        tasks=dict(Counter(each.path for each in switched if each.path)),
        twice=tuple(each.pid for each, _ in leg.twice),
        stragglers=tuple(sorted(left_behind, key=lambda each: -each.held_ns)),
        signals=len(leg.signals),
        forced=bool(leg.forces),
        phases=phases(leg),
        mixed_ns=_mixed_ns(leg, [each.at_ns for each in switched]),
    )


def _mixed_ns(leg: Leg, switched_ns: Sequence[int]) -> int:
    """Return how long a leg had tasks of both states, from its first switch to the last.

    A reversal finds some that are where it goes; what did not end is mixed to the end of what was seen.
    """
    if not switched_ns:
        return 0
    begun = leg.begun_ns if leg.reversal else min(switched_ns)
    until = max(switched_ns) if leg.completed else leg.ended_ns or leg.last_ns
    return max(0, until - begun)


def traced_counts(transitions: Iterable[Transition], patch: str) -> dict[str, int]:
    """Count from the trace what `klp.klog.transitions.logged_counts` counts in the kernel log.

    The kernel logs a start for each klp_start_transition, so also for each reversal, and a completion in
    the direction that it ended in: a transition that is cancelled before its start completes as an
    unpatching one.
    """
    counts: Counter[str] = Counter()
    for each in transitions:
        if each.patch != patch:
            continue
        if each.started:
            counts[f"{each.direction} started"] += 1
        if each.outcome is LegOutcome.COMPLETE:
            counts[f"{each.direction} complete"] += 1
        elif each.outcome is LegOutcome.CANCELLED:
            counts["unpatching complete"] += 1
    return {what: counts[what] for what in COUNTED}


def _straggler(task: TaskSwitch, leg: Leg) -> Straggler:
    until = task.at_ns if task.path else leg.last_ns
    return Straggler(
        pid=task.pid,
        comm=task.comm,
        reasons=task.reasons,
        held_ns=until - leg.begun_ns,
        switched_by=task.path,
        outlook=outlook_of(task, leg),
        signalled=signalled(task, leg),
    )


def phases(leg: Leg) -> tuple[TransitionPhase, ...]:
    """Return what a leg spent its time on; each phase ends where the next begins.

    The stretch between two passes belongs to the pass before it: the tasks wait for the next.
    """
    marks: list[tuple[str, int]] = [("init", leg.begun_ns)]
    patched = [each.event.ts_ns for each in leg.objects if each.event.action == "patch"]
    before_start = [ts for ts in patched if leg.started is None or ts < leg.started[1].ts_ns]
    if before_start:
        marks.append(("patching", min(before_start)))
    marks += [(_pass_name(each.number), each.ts_ns) for _, each in leg.passes]
    marks += [("signal", each.ts_ns) for _, each in leg.signals]
    end = max(leg.last_ns, leg.ended_ns or 0)
    if leg.completed:
        marks.append(("completion", leg.completed[1].ts_ns))
        # The pass that completes goes on after klp_complete_transition(): it frees what is no longer used.
        end = max([end, *(each.ts_ns + each.duration_ns for _, each in leg.passes if each.complete)])
    marks.sort(key=lambda mark: mark[1])
    ends = [*(begun for _, begun in marks[1:]), end]
    return tuple(
        TransitionPhase(name=name, begun_ns=begun, duration_ns=max(0, until - begun))
        for (name, begun), until in zip(marks, ends, strict=True)
    )


def _pass_name(number: int) -> str:
    return "first pass" if number <= 1 else f"retry {number - 1}"


class LegBuilder:
    """Folds numbered events, in the order of time, to legs."""

    def __init__(self) -> None:
        self._finished: list[Leg] = []
        self._current: _Open | None = None

    @property
    def running(self) -> bool:
        """Whether a transition has begun and not completed."""
        return self._current is not None and self._current.completed is None

    def take(self, number: int, event: ev.AnyEvent) -> None:
        """Add one event."""
        if isinstance(event, ev.Attempt):  # first, for most are
            if self._current is not None:
                self._current.take(number, event)
        elif isinstance(event, ev.Init):
            self._close()
            self._current = _Open(number, event, event.replace)
        elif isinstance(event, ev.Reverse):
            # The event of a reversal does not say whether the livepatch replaces others; its init did.
            replace = self._current.replace if self._current else False
            if self._current:
                self._current.reversed_by = (number, event)
            self._close()
            self._current = _Open(number, event, replace)
        elif self._current is not None:
            self._current.take(number, event)

    def _close(self) -> None:
        if self._current:
            self._finished.append(self._current.built())
        self._current = None

    def built(self) -> tuple[Leg, ...]:
        """Return all legs, the unfinished one last."""
        self._close()
        return tuple(self._finished)


class _Open:
    """A leg that has not ended yet."""

    def __init__(self, number: int, begun: ev.Init | ev.Reverse, replace: bool) -> None:
        self.begun = (number, begun)
        self.replace = replace
        self.started: tuple[int, ev.Start] | None = None
        self.completed: tuple[int, ev.Complete] | None = None
        self.cancelled: tuple[int, ev.Cancel] | None = None
        self.reversed_by: tuple[int, ev.Reverse] | None = None
        self._censuses: list[tuple[int, ev.Census]] = []
        self._passes: list[tuple[int, ev.Pass]] = []
        self._signals: list[tuple[int, ev.Signals]] = []
        self._forces: list[tuple[int, ev.Force]] = []
        self._objects: list[ObjectSeen] = []
        self._functions: list[ev.Function] = []
        self._waits: list[tuple[int, ev.Synchronize]] = []
        self._in_scheduler: list[tuple[int, ev.Switch]] = []
        self._awaited: list[tuple[int, ev.Awaited]] = []
        self._accounts = TaskAccounts(begun.target)
        self._last_ns = begun.ts_ns
        self._done = False

    def take(self, number: int, event: ev.AnyEvent) -> None:
        """Add one event that is neither init nor reversal."""
        if self._done:
            return
        if isinstance(event, ev.Attempt):
            self._accounts.attempt(number, event, len(self._passes))
        elif isinstance(event, ev.Switch):
            if event.path == "scheduler":
                self._in_scheduler.append((number, event))
            if not self._of_the_leg_before(event):
                self._accounts.switch(number, event)
        elif isinstance(event, ev.Fork):
            self._accounts.fork(number, event)
        elif isinstance(event, ev.Exit):
            self._accounts.exit(event)
        elif not self._take_step(number, event):
            return
        self._last_ns = max(self._last_ns, event.ts_ns)

    def _of_the_leg_before(self, event: ev.Switch) -> bool:
        """Whether a switch goes the old way still, as it may until a reversal has cleared all flags."""
        begun = self.begun[1]
        reversal = isinstance(begun, ev.Reverse) and self.started is None
        return reversal and event.patch_state == 1 - begun.target

    def _take_step(self, number: int, event: ev.AnyEvent) -> bool:
        if isinstance(event, ev.Start):
            self.started = self.started or (number, event)
        elif isinstance(event, ev.Complete):
            self.completed = self.completed or (number, event)
        elif isinstance(event, ev.Cancel):
            self.cancelled = (number, event)
        elif isinstance(event, ev.Pass):
            self._passes.append((number, event))
        elif isinstance(event, ev.Census):
            self._censuses.append((number, event))
            # What is told after the return of klp_complete_transition() is of no transition, until an init.
            self._done = event.moment == "completed"
        elif isinstance(event, ev.Signals):
            self._signals.append((number, event))
        elif isinstance(event, ev.Force):
            self._forces.append((number, event))
        elif isinstance(event, ev.Awaited):
            self._awaited.append((number, event))
        else:
            return self._take_object(number, event)
        return True

    def _take_object(self, number: int, event: ev.AnyEvent) -> bool:
        if isinstance(event, ev.Synchronize):
            self._waits.append((number, event))
        elif isinstance(event, ev.Function):
            self._functions.append(event)
        elif isinstance(event, ev.Object):
            self._objects.append(ObjectSeen(number, event, tuple(self._functions)))
            self._functions.clear()
        else:
            return False
        return True

    def _outcome(self) -> LegOutcome:
        # klp_cancel_transition ends in klp_complete_transition, as every other way does.
        if self.reversed_by:
            return LegOutcome.REVERSED
        if not self.completed:
            return LegOutcome.UNFINISHED
        return LegOutcome.CANCELLED if self.cancelled else LegOutcome.COMPLETE

    def built(self) -> Leg:
        """Return the leg, now that its end is known."""
        accounts = self._accounts
        tasks = accounts.built()
        return Leg(
            patch=self.begun[1].patch,
            target=self.begun[1].target,
            replace=self.replace,
            outcome=self._outcome(),
            begun=self.begun,
            started=self.started,
            completed=self.completed,
            cancelled=self.cancelled,
            reversed_by=self.reversed_by,
            censuses=tuple(self._censuses),
            passes=tuple(self._passes),
            signals=tuple(self._signals),
            forces=tuple(self._forces),
            waits=tuple(self._waits),
            objects=tuple(self._objects),
            tasks=tasks,
            twice=tuple(accounts.twice),
            wrong_way=tuple(accounts.wrong_way),
            unexplained=tuple(accounts.unexplained),
            walks=tuple(accounts.walk(n, each) for n, (_, each) in enumerate(self._passes, 1)),
            in_scheduler=tuple(self._in_scheduler),
            chance_passes=accounts.chance_passes,
            born=tuple(accounts.born),
            born_pending=tuple(accounts.born_pending),
            gone=accounts.gone,
            dead_pending=tuple(accounts.dead_pending),
            last_ns=self._last_ns,
            awaited=tuple(self._awaited),
        )
