# SPDX-License-Identifier: Apache-2.0
"""Shadow variables one by one (kernel/livepatch/shadow.c): when each was made, and when it was freed."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from klp.trace import events as ev

_Free = tuple[int, ev.ShadowFreed]


class ShadowLifetime(msgspec.Struct, frozen=True, kw_only=True):
    """One shadow variable.

    Attributes:
        obj, id: what it hangs on; `variable` is the address of its data.
        size: bytes; None where it was made before the trace.
        made_ns, freed_ns: guest's monotonic clock; None where that was not seen.
        caller: who made it, ``function+0xOFFSET [module]``; None as for `size`.
        event: number of the event that made it, or else freed it.
    """

    obj: str
    id: int
    variable: str
    size: int | None
    made_ns: int | None
    freed_ns: int | None
    caller: str | None
    event: int


def shadow_lifetimes(numbered: Iterable[tuple[int, ev.AnyEvent]]) -> tuple[ShadowLifetime, ...]:
    """Return every variable that was made or freed in numbered events, in the order of their events."""
    whole = list(numbered)
    earlier: dict[str, list[_Free]] = {}
    for number, event in whole:
        if isinstance(event, ev.ShadowFreed):
            earlier.setdefault(event.variable, []).append((number, event))
    # The allocator reuses addresses, so allocations are paired with frees from the last one backwards, each
    # with the first free left after it. An allocation bears the time of its beginning: another CPU may free
    # the variable before the call has ended, never before it began.
    later: dict[str, list[_Free]] = {}  # frees after the allocation that is looked at, the first one last
    lifetimes = []
    for number, event in reversed(whole):
        if isinstance(event, ev.ShadowAlloc) and event.result == "made" and event.variable is not None:
            before, after = earlier.get(event.variable, []), later.setdefault(event.variable, [])
            while before and before[-1][1].ts_ns >= event.ts_ns:
                after.append(before.pop())
            freed_ns = after.pop()[1].ts_ns if after else None
            lifetimes.append(_made(number, event, event.variable, freed_ns))
    orphans = [
        _orphan(number, each) for frees in (*earlier.values(), *later.values()) for number, each in frees
    ]
    return tuple(sorted([*lifetimes, *orphans], key=lambda each: each.event))


def _made(number: int, event: ev.ShadowAlloc, variable: str, freed_ns: int | None) -> ShadowLifetime:
    return ShadowLifetime(
        obj=event.obj,
        id=event.id,
        variable=variable,
        size=event.size,
        made_ns=event.ts_ns,
        freed_ns=freed_ns,
        caller=event.caller,
        event=number,
    )


def _orphan(number: int, event: ev.ShadowFreed) -> ShadowLifetime:
    return ShadowLifetime(
        obj=event.obj,
        id=event.id,
        variable=event.variable,
        size=None,
        made_ns=None,
        freed_ns=event.ts_ns,
        caller=None,
        event=number,
    )
