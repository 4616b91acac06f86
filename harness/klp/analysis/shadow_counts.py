# SPDX-License-Identifier: Apache-2.0
"""What klpshadow counts in the kernel since it was armed; for a span of a trace, what the span adds."""

from __future__ import annotations

from typing import TypeVar

from msgspec.structs import replace

from klp.analysis.evidence import Tally
from klp.trace import events as ev

C = TypeVar("C", ev.ShadowGets, ev.ShadowTotals)
# The fields of an event with counts that are no counts.
_NO_COUNTS = {"probe", "seq", "ts_ns", "id"}


class KernelCounts:
    """Folds the counts of gets, and of all variables."""

    def __init__(self) -> None:
        self._gets: dict[int, tuple[int, ev.ShadowGets]] = {}
        self._gets_before: dict[int, ev.ShadowGets] = {}
        self._totals_before: ev.ShadowTotals | None = None
        self.totals: ev.ShadowTotals | None = None

    def take_before(self, event: ev.AnyEvent) -> None:
        """Add an event of before the span that is to be judged."""
        if isinstance(event, ev.ShadowGets):
            self._gets_before[event.id] = event
        elif isinstance(event, ev.ShadowTotals):
            self._totals_before = event

    def take(self, number: int, event: ev.ShadowGets | ev.ShadowTotals) -> None:
        """Add an event with counts."""
        if isinstance(event, ev.ShadowGets):
            self._gets[event.id] = (number, _since(event, self._gets_before.get(event.id)))
        else:
            self.totals = _since(event, self._totals_before)

    def judge(self, right: Tally, racing: Tally) -> None:
        """Judge the gets: S2 of those that ran beside no change, S9 of those that raced one."""
        for id_, (number, each) in sorted(self._gets.items()):
            words = f"klp_shadow_get of id {id_}: {each.found} found, {each.absent} absent"
            if each.wrong and not right.broken:
                right.breach(f"{words}, {each.wrong} wrong", number)
            if each.found + each.absent:
                right.good(each.found + each.absent - 1)
                right.judge(True, words, number)
            raced = each.raced_right + each.raced_wrong
            if raced:
                words = f"id {id_}: {raced} raced a change and were compared, {each.raced_wrong} wrong"
                racing.good(raced - 1)
                if not (each.raced_wrong and racing.broken):
                    racing.judge(not each.raced_wrong, words, number)


def _since(now: C, before: C | None) -> C:
    """Return what was counted since an earlier event of the same kind."""
    if before is None:
        return now
    names = [name for name in now.__struct_fields__ if name not in _NO_COUNTS]
    return replace(now, **{name: getattr(now, name) - getattr(before, name) for name in names})
