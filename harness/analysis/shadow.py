# SPDX-License-Identifier: Apache-2.0
"""Events to a ledger of shadow variables (kernel/livepatch/shadow.c)."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from harness.trace import events as ev


class ShadowVariable(msgspec.Struct, frozen=True, kw_only=True):
    """A variable that is still there: object and id it hangs on, bytes, when and by whom it was made."""

    obj: str
    id: int
    size: int
    made_ns: int
    caller: str


class ShadowLedger(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the shadow variables in a span of events.

    Attributes:
        allocated: variables made.
        found: get_or_alloc calls that found one.
        refused: allocations that gave none: it existed, or there was no memory, or no construction.
        freed: variables freed.
        strays: variables freed that were not seen being made.
        left: made in this span and not freed in it.
    """

    allocated: int
    found: int
    refused: int
    freed: int
    strays: int
    left: tuple[ShadowVariable, ...]


def shadow_ledger(events: Iterable[ev.AnyEvent]) -> ShadowLedger:
    """Return the ledger of `events`, which are ordered by time."""
    alive: dict[tuple[str, int], ShadowVariable] = {}
    counts = {"made": 0, "found": 0, "exists": 0, "failed": 0}
    freed = strays = 0
    for event in events:
        if isinstance(event, ev.ShadowAlloc):
            counts[event.result] += 1
            if event.result == "made":
                alive[event.obj, event.id] = ShadowVariable(
                    obj=event.obj, id=event.id, size=event.size, made_ns=event.ts_ns, caller=event.caller
                )
        elif isinstance(event, ev.ShadowFreed):
            freed += 1
            if alive.pop((event.obj, event.id), None) is None:
                strays += 1
    return ShadowLedger(
        allocated=counts["made"],
        found=counts["found"],
        refused=counts["exists"] + counts["failed"],
        freed=freed,
        strays=strays,
        left=tuple(alive.values()),
    )
