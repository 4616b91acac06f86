# SPDX-License-Identifier: Apache-2.0
"""What attempts to switch tasks cost, as a histogram by powers of two, the way BCC shows one."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence

import msgspec

from klp.analysis.legs import Leg
from klp.trace import events as ev


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """How many attempts with one result took from `low_ns` to less than twice that, nanoseconds."""

    result: str
    low_ns: int
    count: int


def attempt_costs(leg: Leg, attempts: Sequence[ev.Attempt]) -> tuple[Cost, ...]:
    """Return the histogram of a leg's calls of klp_try_switch_task, ordered by result and cost.

    Args:
        attempts: of the whole trace, in the order of time.
    """
    until = leg.last_ns if leg.ended_ns is None else leg.ended_ns
    first = bisect_left(attempts, leg.begun_ns, key=_moment)
    last = bisect_right(attempts, until, key=_moment)
    counts = Counter(
        (each.result, 1 << max(0, each.duration_ns.bit_length() - 1)) for each in attempts[first:last]
    )
    return tuple(
        Cost(result=result, low_ns=low, count=count) for (result, low), count in sorted(counts.items())
    )


def _moment(attempt: ev.Attempt) -> int:
    return attempt.ts_ns
