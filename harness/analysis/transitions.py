# SPDX-License-Identifier: Apache-2.0
"""Events to transitions: phases, passes, who switched how, who stayed behind and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from harness.trace import events as ev


class Outcome(StrEnum):
    """How a transition ended."""

    COMPLETE = "complete"
    REVERSED = "reversed"
    CANCELLED = "cancelled"
    UNFINISHED = "unfinished"


class Straggler(msgspec.Struct, frozen=True, kw_only=True):
    """A task that the first pass left behind.

    Attributes:
        pid: thread id; 0 for an idle task.
        comm: its name.
        reasons: each reason with the number of attempts it made fail, such as
            ``sleeping in busymod_work_func``.
        held_ns: from the transition's start to the task's switch, or to the end of what was seen.
        switched_by: the path by which it switched at last, or None.
    """

    pid: int
    comm: str
    reasons: dict[str, int]
    held_ns: int
    switched_by: str | None


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the transition machine, from klp_init_transition to its end.

    Attributes:
        patch: the livepatch.
        target: 1 patching, 0 unpatching; of a reversed one, where it was going at first.
        outcome: how it ended; a reversal ends one transition and begins another.
        started: whether klp_start_transition was called.
        begun_ns, ended_ns: guest's monotonic clock; `ended_ns` is None where no end was seen.
        passes: calls of klp_try_complete_transition.
        attempts: calls of klp_try_switch_task that had something to do.
        tasks: tasks that switched, by path.
        twice: thread ids that switched more than once, which none may.
        stragglers: tasks that the first pass left behind, longest first.
        signals: times the core signalled the remaining tasks.
        forced: whether klp_force_transition ended it.
    """

    patch: str
    target: int
    outcome: Outcome
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

    @property
    def duration_ns(self) -> int | None:
        """Nanoseconds from init to completion, None where it did not complete."""
        return None if self.ended_ns is None else self.ended_ns - self.begun_ns

    @property
    def direction(self) -> str:
        """``patching`` or ``unpatching``, as the kernel's own messages say it."""
        return "patching" if self.target == ev.PATCHED else "unpatching"


def transitions(events: Iterable[ev.AnyEvent]) -> tuple[Transition, ...]:
    """Return the transitions in `events` (ordered by time), oldest first.

    A transition whose beginning lies before the events is left out.
    """
    finished: list[Transition] = []
    current: _Builder | None = None
    for event in events:
        if isinstance(event, ev.Init):
            if current:
                finished.append(current.build(Outcome.UNFINISHED, None))
            current = _Builder(event.patch, event.target, event.ts_ns)
        elif current is None:
            continue
        elif isinstance(event, ev.Complete):
            finished.append(current.build(current.ends_as, event.ts_ns))
            current = None
        elif isinstance(event, ev.Reverse):
            finished.append(current.build(Outcome.REVERSED, event.ts_ns))
            current = _Builder(event.patch, event.target, event.ts_ns)
        else:
            current.take(event)
    if current:
        finished.append(current.build(Outcome.UNFINISHED, None))
    return tuple(finished)


class _Builder:
    """What is known so far of the transition that runs."""

    def __init__(self, patch: str, target: int, begun_ns: int) -> None:
        self._patch = patch
        self._target = target
        self._begun_ns = begun_ns
        self._passes = 0
        self._attempts = 0
        self._signals = 0
        self._forced = False
        self._started = False
        # klp_cancel_transition ends in klp_complete_transition, as every other way does.
        self.ends_as = Outcome.COMPLETE
        self._last_ns = begun_ns
        self._switched: dict[tuple[int, str], tuple[str, int]] = {}
        self._twice: list[int] = []
        self._reasons: dict[tuple[int, str], Counter[str]] = {}
        self._names: dict[tuple[int, str], str] = {}

    def take(self, event: ev.AnyEvent) -> None:
        """Add one event that is neither beginning nor end."""
        self._last_ns = max(self._last_ns, event.ts_ns)
        if isinstance(event, ev.Start):
            self._started = True
        elif isinstance(event, ev.Cancel):
            self.ends_as = Outcome.CANCELLED
        elif isinstance(event, ev.Pass):
            self._passes += 1
        elif isinstance(event, ev.Attempt):
            self._take_attempt(event)
        elif isinstance(event, ev.Switch):
            if event.path != "fork":  # a child starts in its parent's state; it does not switch
                self._switch(event.task, event.path, event.ts_ns)
        elif isinstance(event, ev.Signals):
            self._signals += 1
        elif isinstance(event, ev.Force):
            self._forced = True

    def _take_attempt(self, event: ev.Attempt) -> None:
        if event.result == "already":
            return
        self._attempts += 1
        if event.result == "switched":
            self._switch(event.task, "attempt", event.ts_ns)
            return
        who = _identity(event.task)
        self._names[who] = event.task.comm
        self._reasons.setdefault(who, Counter())[_reason(event)] += 1

    def _switch(self, task: ev.Task, path: str, ts_ns: int) -> None:
        who = _identity(task)
        # Every CPU's idle task has thread id 0; their names tell them apart.
        if who in self._switched:
            self._twice.append(task.pid)
        self._switched[who] = (path, ts_ns)

    def _straggler(self, who: tuple[int, str], reasons: Counter[str]) -> Straggler:
        path, until = self._switched.get(who, (None, self._last_ns))
        return Straggler(
            pid=who[0],
            comm=self._names[who],
            reasons=dict(reasons),
            held_ns=until - self._begun_ns,
            switched_by=path,
        )

    def build(self, outcome: Outcome, ended_ns: int | None) -> Transition:
        """Return the transition, now that its end is known."""
        stragglers = [self._straggler(who, why) for who, why in self._reasons.items()]
        return Transition(
            patch=self._patch,
            target=self._target,
            outcome=outcome,
            started=self._started,
            begun_ns=self._begun_ns,
            ended_ns=ended_ns,
            passes=self._passes,
            attempts=self._attempts,
            tasks=dict(Counter(path for path, _ in self._switched.values())),
            twice=tuple(self._twice),
            stragglers=tuple(sorted(stragglers, key=lambda each: -each.held_ns)),
            signals=self._signals,
            forced=self._forced,
        )


def _identity(task: ev.Task) -> tuple[int, str]:
    """A thread may rename itself, an idle task has no id of its own: so id, or name where it is 0."""
    return (task.pid, task.comm if task.pid == 0 else "")


def _reason(event: ev.Attempt) -> str:
    if event.result == "sleeping":
        return f"sleeping in {event.function or 'an unknown function'}"
    return {
        "running": "running on a CPU",
        "unreliable": "its stack could not be read reliably",
        "refused": "refused without a reason",
    }[event.result]
