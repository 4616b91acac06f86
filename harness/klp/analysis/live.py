# SPDX-License-Identifier: Apache-2.0
"""A transition as it goes: events folded into what a person watching it wants to know now."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

import msgspec

from klp.analysis.legs import UNRELIABLE, identity, reason
from klp.analysis.outlook import outlook
from klp.trace import events as ev


class LivePhase(StrEnum):
    """Where a transition stands, in the words of kernel/livepatch/transition.c."""

    INITIALISED = "initialised"
    STARTED = "first pass"
    RETRYING = "trying again"
    SIGNALLED = "tasks signalled"
    REVERSED = "reversed"
    FORCED = "forced"
    CANCELLED = "cancelled"
    COMPLETE = "complete"


class StuckTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that has not switched yet.

    Attributes:
        pid, comm: its thread id and name.
        patch_state: what it still is.
        reason: of its last failed attempt, such as ``sleeping in busymod_work_func``.
        attempts: how often it was tried.
        since_ns: guest's clock at the transition's start.
        stack: its kernel stack, innermost first; empty until it was asked for.
        outlook: what is to be expected of it; likewise.
    """

    pid: int
    comm: str
    patch_state: int
    reason: str
    attempts: int
    since_ns: int
    stack: tuple[str, ...] = ()
    outlook: str = ""


class LiveTransition(msgspec.Struct, frozen=True, kw_only=True):
    """What is known at a moment of the transition that runs, or ran last.

    Attributes:
        target: 1 patching, 0 unpatching.
        total: tasks that were counted at the start; 0 until then.
        left: tasks that the last pass left behind, or `total` before one has ended.
        passes: calls of klp_try_complete_transition that have ended, and the one that ended it all.
        signals: times the tasks that remain were signalled.
        begun_ns, seen_ns: guest's clock at init, and at the newest event.
        switched: tasks that have switched, by path.
        holders: who was left behind, oldest attempt first.
    """

    patch: str
    target: int
    phase: LivePhase
    total: int
    left: int
    passes: int
    signals: int
    begun_ns: int
    seen_ns: int
    switched: dict[str, int]
    holders: tuple[StuckTask, ...]

    @property
    def over(self) -> bool:
        """Whether nothing more will happen in it."""
        return self.phase in (LivePhase.COMPLETE, LivePhase.CANCELLED)

    @property
    def direction(self) -> str:
        """``patching`` or ``unpatching``."""
        return "patching" if self.target == ev.PATCHED else "unpatching"


class Watcher:
    """Folds a stream of events, as they come, into the transition of the moment."""

    def __init__(self) -> None:
        self._now: LiveTransition | None = None
        self._holders: dict[tuple[int, str], StuckTask] = {}
        self._switched: Counter[str] = Counter()
        self._changed: set[str] = set()
        self._last_told = False  # whether the pass that ends it was seen

    def take(self, event: ev.AnyEvent) -> bool:
        """Add an event; tell whether it began, ended or moved a phase or a pass."""
        if isinstance(event, ev.Init):
            self._begin(event)
            return True
        now = self._now
        if now is None or now.over:
            return False
        self._of_tasks(event, now)
        changes = self._step(event, now)
        if changes:
            self._now = msgspec.structs.replace(now, seen_ns=max(now.seen_ns, event.ts_ns), **changes)
        return bool(changes)

    def _of_tasks(self, event: ev.AnyEvent, now: LiveTransition) -> None:
        match event:
            case ev.Attempt():
                self._attempt(event, now)
            case ev.Switch():
                self._left_behind_no_more(event.task, event.path)
            case ev.Exit():
                # It needs to switch no more. Until it is reaped a pass may try it, and tells that anew.
                self._holders.pop(identity(event.task), None)
            case ev.Function():
                self._changed.add(event.function)
            case ev.Awaited():
                self._look(event, now)

    def _look(self, event: ev.Awaited, now: LiveTransition) -> None:
        """Add the kernel stacks of tasks, and what they tell."""
        seen = {each.pid: each for each in event.tasks}
        for who, holder in self._holders.items():
            if found := seen.get(holder.pid):
                words = outlook(
                    found, now.patch, target=now.target, changed=self._changed,
                    unreliable=holder.reason == UNRELIABLE, signals=now.signals,
                )  # fmt: skip
                self._holders[who] = msgspec.structs.replace(holder, stack=found.stack, outlook=words)

    def now(self) -> LiveTransition | None:
        """Return the transition as far as it is known, or None before the first."""
        if self._now is None:
            return None
        holders = () if self._now.over else tuple(self._holders.values())
        return msgspec.structs.replace(self._now, switched=dict(self._switched), holders=holders)

    def _begin(self, event: ev.Init) -> None:
        self._holders.clear()
        self._switched.clear()
        self._changed.clear()
        self._last_told = False
        self._now = LiveTransition(
            patch=event.patch, target=event.target, phase=LivePhase.INITIALISED, total=0, left=0, passes=0,
            signals=0, begun_ns=event.ts_ns, seen_ns=event.ts_ns, switched={}, holders=(),
        )  # fmt: skip

    def _attempt(self, event: ev.Attempt, now: LiveTransition) -> None:
        if event.result == "already":
            return
        if event.result == "switched":
            self._left_behind_no_more(event.task, "attempt")
            return
        who = identity(event.task)
        before = self._holders.get(who)
        self._holders[who] = StuckTask(
            pid=event.task.pid, comm=event.task.comm, patch_state=event.patch_state, reason=reason(event),
            attempts=before.attempts + 1 if before else 1, since_ns=now.begun_ns,
            stack=before.stack if before else (), outlook=before.outlook if before else "",
        )  # fmt: skip

    def _left_behind_no_more(self, task: ev.Task, path: str) -> None:
        self._holders.pop(identity(task), None)
        self._switched[path] += 1

    def _step(self, event: ev.AnyEvent, now: LiveTransition) -> dict[str, object]:
        changes: dict[str, object] = {}
        match event:
            case ev.Census(moment="started"):
                changes = {"total": event.tasks, "left": event.pending}
            # klp_reverse_transition() ends in klp_start_transition(): it stays a reversal for who watches.
            case ev.Start() if now.phase is not LivePhase.REVERSED:
                changes = {"phase": LivePhase.STARTED}
            case ev.Pass():
                self._last_told = event.complete
                phase = (
                    LivePhase.RETRYING if event.left and now.phase is not LivePhase.SIGNALLED else now.phase
                )
                changes = {"passes": now.passes + 1, "left": event.left, "phase": phase}
            case ev.Signals():
                changes = {"phase": LivePhase.SIGNALLED, "signals": now.signals + 1}
            case ev.Reverse():
                self._switched.clear()
                self._holders.clear()
                changes = {"phase": LivePhase.REVERSED, "target": event.target, "passes": 0}
            case ev.Force():
                changes = {"phase": LivePhase.FORCED}
            case ev.Cancel():
                changes = {"phase": LivePhase.CANCELLED}
            case ev.Complete():
                # klp_complete_transition() is called by the pass that found nobody left. That pass's own
                # event is written when it ends, so mostly after this one.
                passes = now.passes + (not self._last_told)
                changes = {"phase": LivePhase.COMPLETE, "left": 0, "passes": passes}
        return changes
