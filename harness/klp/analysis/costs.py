# SPDX-License-Identifier: Apache-2.0
"""What attempts to switch tasks cost, as a histogram by powers of two, the way BCC shows one."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from typing import get_args, get_type_hints

import msgspec

from klp.analysis.legs import Leg
from klp.trace import events as ev

_RESULTS: tuple[str, ...] = get_args(get_type_hints(ev.Attempt)["result"])
_PLACE = {result: place for place, result in enumerate(_RESULTS)}


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """How many attempts with one result took from `low_ns` to less than twice that, nanoseconds."""

    result: str
    low_ns: int
    count: int


class CostsBuilder:
    """Keeps ten bytes of each attempt, in the order of time: there may be a million."""

    def __init__(self) -> None:
        self._times = array("q")
        self._results = bytearray()
        self._powers = bytearray()

    def take(self, attempt: ev.Attempt) -> None:
        """Add one call of klp_try_switch_task."""
        self._times.append(attempt.ts_ns)
        self._results.append(_PLACE[attempt.result])
        self._powers.append(max(0, attempt.duration_ns.bit_length() - 1))

    def of(self, leg: Leg) -> tuple[Cost, ...]:
        """Return the histogram of a leg's attempts, ordered by result and cost."""
        until = leg.last_ns if leg.ended_ns is None else leg.ended_ns
        first = bisect_left(self._times, leg.begun_ns)
        last = bisect_right(self._times, until)
        counts = Counter(zip(self._results[first:last], self._powers[first:last], strict=True))
        ordered = sorted((_RESULTS[place], 1 << power, count) for (place, power), count in counts.items())
        return tuple(Cost(result=result, low_ns=low, count=count) for result, low, count in ordered)
