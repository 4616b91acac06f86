# SPDX-License-Identifier: Apache-2.0
"""Which call freed a shadow variable: a klp_shadow_free, or a klp_shadow_free_all that is under way."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from klp.analysis.evidence import Tally
from klp.analysis.shadow_standing import InHash, ShadowKey, Variables
from klp.trace import events as ev


@dataclass(slots=True)
class _FreeAll:
    """A klp_shadow_free_all that has not returned."""

    number: int
    event: ev.ShadowFreeAll
    freed: int = 0
    shared: bool = False  # another of the same id overlaps: its frees cannot be told apart

    @property
    def until_ns(self) -> int:
        return self.event.ts_ns + self.event.duration_ns


class FreedBy(msgspec.Struct, frozen=True, gc=False):
    """The call that freed a variable: whether it had a destructor, and its task; None where not known."""

    dtor: bool | None = None
    pid: int | None = None


class FreeCalls:
    """The calls under way that free; they judge S6, and what a klp_shadow_free left (S7).

    Args:
        variables: what stands.
        every: the tally of S6.
        ledger: the tally of S7.
    """

    def __init__(self, variables: Variables, every: Tally, ledger: Tally) -> None:
        self._variables = variables
        self._every, self._ledger = every, ledger
        # Those of klp_shadow_free that freed one, by the number in the stream of what they freed: the
        # kernel's side tells both at once, as the call returns, so the two follow on each other.
        self._calls: dict[int, ev.ShadowFree] = {}
        self._free_alls: list[_FreeAll] = []
        # Variables that a klp_shadow_free left though they stood, by the task that called, or, for idle
        # tasks, by object and id.
        self._spared: dict[int | ShadowKey, tuple[ev.ShadowFree, InHash, int]] = {}

    def free(self, number: int, event: ev.ShadowFree) -> None:
        """Note a klp_shadow_free: what it frees is told next; if nothing, nothing may have stood."""
        key = (event.obj, event.id)
        if event.freed:
            self._calls[event.seq - 1] = event
            return
        for each in self._variables.of(*key):
            if (each.unsure or not each.doubted) and each.ended_ns < event.ts_ns:
                self._spared[event.task.pid or key] = (event, each, number)

    def goes_on(self, pid: int) -> None:
        """Note that a task begins another call, so that its klp_shadow_free has returned."""
        if spared := self._spared.pop(pid, None):
            self._judge_spared(*spared)

    def _judge_spared(self, event: ev.ShadowFree, stood: InHash, number: int) -> None:
        """Judge what a klp_shadow_free left where it was: right only if another call had just freed it."""
        if all(each is not stood for each in self._variables.of(event.obj, event.id)):
            return
        if stood.unsure:
            self._variables.remove(event.obj, event.id, stood)
        elif not stood.doubted:
            words = f"klp_shadow_free of <{event.obj}, {event.id}> left {stood.variable} where it was"
            self._ledger.lacking(words, stood.number, number)

    def book(self, number: int, event: ev.ShadowFreed) -> FreedBy:
        """Return the call that freed a variable: one of its own, or else a free_all that is under way."""
        call = self._calls.pop(event.seq, None)
        if call and (call.obj, call.id) == (event.obj, event.id):
            return FreedBy(call.dtor, call.task.pid)
        own = [each for each in self._free_alls if each.event.id == event.id]
        if own:
            own[0].freed += 1
            if own[0].shared:
                return FreedBy()
            return FreedBy(own[0].event.dtor, own[0].event.task.pid)
        if self._free_alls:
            other = self._free_alls[0]
            words = f"klp_shadow_free_all({other.event.id}) freed <{event.obj}, {event.id}>"
            self._every.lacking(words, other.number, number)
        return FreedBy()

    def free_all(self, number: int, event: ev.ShadowFreeAll) -> None:
        """Note a klp_shadow_free_all that has begun."""
        opened = _FreeAll(number, event)
        for each in self._free_alls:
            if each.event.id == event.id:
                each.shared = opened.shared = True
        self._free_alls.append(opened)
        self._free_alls.sort(key=lambda each: each.until_ns)

    def pass_time(self, now_ns: int | None) -> None:
        """Judge each klp_shadow_free_all that returned before a moment (None: all)."""
        while self._free_alls and (now_ns is None or self._free_alls[0].until_ns < now_ns):
            self._done(self._free_alls.pop(0))

    def _done(self, done: _FreeAll) -> None:
        event = done.event
        for obj, id_, each in list(self._variables.unsure(event.id)):
            if each.ended_ns < event.ts_ns:
                self._variables.remove(obj, id_, each)
        words = f"klp_shadow_free_all({event.id}): {event.count} freed"
        kept = [
            (obj, each) for obj, _, each in self._variables.certain(event.id) if each.ended_ns < event.ts_ns
        ]
        for obj, _, each in self._variables.doubted(event.id):
            self._every.gap = f"{words}, and it was not seen whether {each.variable} of {obj} was left"
        if kept:
            numbers = (done.number, *(each.number for _, each in kept[:3]))
            self._every.lacking(f"{words}, {len(kept)} left: {kept[0][0]}", *numbers)
        elif done.freed != event.count and not done.shared:
            self._every.lacking(f"{words}, {done.freed} told", done.number)
        else:
            self._every.judge(True, words, done.number)

    def end(self) -> None:
        """Judge what is left at the end of the trace."""
        self.pass_time(None)
        for spared in self._spared.values():
            self._judge_spared(*spared)
