# SPDX-License-Identifier: Apache-2.0
"""What attempts to switch tasks cost, as a histogram by powers of two, the way BCC shows one."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from klp.analysis.legs import Leg
from klp.trace import events as ev


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """How many attempts with one result took from `low_ns` to less than twice that, nanoseconds."""

    result: str
    low_ns: int
    count: int


def attempt_costs(leg: Leg, numbered: Iterable[tuple[int, ev.AnyEvent]]) -> tuple[Cost, ...]:
    """Return the histogram of a leg's calls of klp_try_switch_task, ordered by result and cost."""
    until = leg.last_ns if leg.ended_ns is None else leg.ended_ns
    counts: dict[tuple[str, int], int] = {}
    for _, event in numbered:
        if isinstance(event, ev.Attempt) and leg.begun_ns <= event.ts_ns <= until:
            key = (event.result, 1 << max(0, event.duration_ns.bit_length() - 1))
            counts[key] = counts.get(key, 0) + 1
    return tuple(
        Cost(result=result, low_ns=low, count=count) for (result, low), count in sorted(counts.items())
    )
