# SPDX-License-Identifier: Apache-2.0
"""What single events say about tasks in a transition, judged as they pass: they may be very many.

Each attempt and each fork is an observation of its own (rules T5 and T11 of kernel/livepatch/transition.c);
only the broken ones are kept.
"""

from __future__ import annotations

from klp.analysis.evidence import Finding, Tally
from klp.analysis.legs import Who, identity
from klp.errors import errno_name
from klp.trace import events as ev

# What klp_check_and_switch_task() returns, which klp_try_switch_task() gives no one: 0, -EBUSY, -EINVAL and
# -EADDRINUSE.
_ERRNO = {"switched": 0, "running": -16, "unreliable": -22, "sleeping": -98}


class TaskFacts:
    """Folds attempts, switches and forks to findings."""

    def __init__(self) -> None:
        self._refused = Tally()
        self._forks = Tally()
        self._target: int | None = None
        # Attempts that failed, and at whose return the task had switched. By itself, if an event says so.
        self._doubtful: dict[Who, tuple[int, ev.Attempt]] = {}
        # Which tasks were told to switch by themselves in this leg, and to what: each is told as it begins.
        self._begun: dict[Who, int] = {}

    def take(self, number: int, event: ev.AnyEvent) -> None:
        """Add one event."""
        if isinstance(event, ev.Attempt):
            self._attempt(number, event)
        elif isinstance(event, ev.Switch):
            self._begun[identity(event.task)] = event.patch_state
            doubtful = self._doubtful.get(identity(event.task))
            if doubtful and event.ts_ns <= doubtful[1].ts_ns + doubtful[1].duration_ns:
                del self._doubtful[identity(event.task)]
        elif isinstance(event, ev.Fork):
            self._fork(number, event)
        elif isinstance(event, ev.Init):
            self._settle()
            self._target = event.target
        elif isinstance(event, ev.Reverse | ev.Complete):
            self._settle()
            self._target = event.target if isinstance(event, ev.Reverse) else None

    def _attempt(self, number: int, event: ev.Attempt) -> None:
        if event.result == "already":
            return
        expected = _ERRNO.get(event.result)
        if event.result == "sleeping" and not event.function:
            self._refused.breach(f"{_attempt_words(event)}: in no function", number)
        elif expected is not None and event.errno != expected:
            words = f"{_attempt_words(event)}: the kernel says {expected} for that"
            self._refused.breach(words, number)
        elif event.result == "switched":
            if self._target is not None and event.after != self._target:
                # Not sure: the reversal that gave another target may have been lost.
                words = f"{_attempt_words(event)}: the target is {self._target}"
                self._refused.lacking(words, number)
        elif event.after == event.patch_state:
            self._refused.held(number, _attempt_words, event)
        elif self._begun.get(identity(event.task)) == event.after:
            # klp_update_patch_state() is told as it begins. The attempt came before it had set the state,
            # or else it would have found the task switched.
            self._refused.good()
        elif self._target is not None:
            self._doubtful[identity(event.task)] = (number, event)
            self._refused.good()
        # Else the trace begins in the midst of a transition: its switch may have been told before.

    def _settle(self) -> None:
        """Judge what is in doubt at a leg's end: it was switched by an attempt that said it was not."""
        self._begun.clear()
        for number, event in self._doubtful.values():
            words = f"{event.task.comm}[{event.task.pid}] was {event.result}, and yet switched by it"
            self._refused.lacking(words, number)
        self._doubtful.clear()

    def _fork(self, number: int, event: ev.Fork) -> None:
        # Both are read as klp_copy_process() returns. copy_process() holds tasklist_lock, without which no
        # pass tries the parent; and the parent is busy forking, so it cannot switch by itself.
        same = (event.child_state, event.child_pending) == (event.parent_state, event.parent_pending)
        words = (
            f"{event.parent.comm}[{event.parent.pid}] with patch_state {event.parent_state}"
            f"{' pending' * event.parent_pending} forked {event.child.pid} with {event.child_state}"
            f"{' pending' * event.child_pending}"
        )
        self._forks.judge(same, words, number)

    def built(self) -> dict[str, Finding]:
        """Return the findings by rule."""
        self._settle()
        return {"T5": self._refused.finding(), "T11": self._forks.finding()}


def _attempt_words(event: ev.Attempt) -> str:
    where = f" in {event.function}" if event.function else ""
    return (
        f"{event.task.comm}[{event.task.pid}] {event.result}{where}: {errno_name(event.errno)},"
        f" patch_state {event.patch_state} to {event.after}"
    )
