# SPDX-License-Identifier: Apache-2.0
"""The trace of one test: what its guest's probes saw, with klpconsistency where the test asks for it."""

from __future__ import annotations

from klp.analysis.history import History, history
from klp.analysis.rules.registry import RuleVerdict, judge_all
from klp.analysis.transitions import Transition, transitions
from klp.drive.subject import ModuleSubject
from klp.lab.ready import ReadyGuest
from klp.modules.functions import watched
from klp.trace.events import AnyEvent


class Trace:
    """What the probes saw since the guest was handed to the test."""

    def __init__(self, ready_guest: ReadyGuest) -> None:
        self._tracer = ready_guest.tracer

    def mark(self) -> int:
        """Have the probes write out all they have seen; return the position after it, for `events`.

        Raises:
            CheckFailed: a probe is dead or silent.
        """
        return self._tracer.mark()

    def events(self, since: int = 0) -> tuple[AnyEvent, ...]:
        """Return every event up to now, from a position of `mark` on, in the order of time."""
        self.mark()
        return self._tracer.store.since(since)

    def arrived(self) -> tuple[AnyEvent, ...]:
        """Return what has come so far; to ask for more would take the guest's CPU from what is awaited."""
        return self._tracer.store.since(0)

    def transitions(self, livepatch: str | ModuleSubject | None = None) -> tuple[Transition, ...]:
        """Return the transitions up to now, oldest first; of one livepatch, or all."""
        name = livepatch.name if isinstance(livepatch, ModuleSubject) else livepatch
        found = transitions(self.events())
        return tuple(each for each in found if name in (None, each.patch))

    def consistency(self, *livepatches: ModuleSubject) -> None:
        """Have klpconsistency watch the functions that livepatches change, for T12; before they are loaded.

        Raises:
            NotALivepatch: the functions cannot be told from the module.
            CheckFailed: the probe cannot watch them.
        """
        self._tracer.watch(watched(each.module for each in livepatches))

    def lost(self) -> int:
        """Return how many events the probes said they lost."""
        return self._tracer.store.lost()

    def history(self) -> History:
        """Return all that happened up to now, as the rules see it."""
        self.mark()
        return history(self._tracer.store.numbered_since())

    def remains(self) -> History:
        """Return what was written so far, asking no probe: of a lost guest, up to the last batch."""
        return history(self._tracer.store.numbered_since())

    def verdicts(self) -> dict[str, RuleVerdict]:
        """Return what the trace says up to now on every rule, by the rule's id."""
        return {each.rule.id: each for each in judge_all(self.history())}
