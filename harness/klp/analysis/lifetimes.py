# SPDX-License-Identifier: Apache-2.0
"""Shadow variables one by one (kernel/livepatch/shadow.c): when each was made, and when it was freed."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from klp.trace import events as ev


class ShadowLifetime(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


class LifetimesBuilder:
    """Folds numbered events, in the order of time, to the variables' lifetimes.

    The allocator reuses addresses, so a free is that of the variable which was made last at its address and
    still stands: one that was made there earlier left without being seen. An allocation bears the time of
    its beginning: another CPU may free the variable before the call has ended, never before it began.
    """

    def __init__(self) -> None:
        self._over: list[ShadowLifetime] = []
        self._standing: dict[str, list[ShadowLifetime]] = {}
        # One text for all that one caller made: there may be a million.
        self._callers: dict[str, str] = {}

    def take(self, number: int, event: ev.AnyEvent) -> None:
        """Add one event; those that make or free no variable are passed by."""
        if isinstance(event, ev.ShadowFreed):
            self._over.append(self._freed(number, event))
        elif isinstance(event, ev.ShadowAlloc) and event.result == "made" and event.variable is not None:
            caller = self._callers.setdefault(event.caller, event.caller)
            made = _made(number, event, event.variable, caller)
            self._standing.setdefault(event.variable, []).append(made)

    def _freed(self, number: int, event: ev.ShadowFreed) -> ShadowLifetime:
        standing = self._standing.get(event.variable)
        if standing is None:
            return _older(number, event)
        made = standing.pop()
        if not standing:
            del self._standing[event.variable]
        return _freed(made, event.ts_ns)

    def built(self) -> tuple[ShadowLifetime, ...]:
        """Return every variable that was made or freed, in the order of their events."""
        left = (each for standing in self._standing.values() for each in standing)
        return tuple(sorted((*self._over, *left), key=_event))


def _event(lifetime: ShadowLifetime) -> int:
    return lifetime.event


def shadow_lifetimes(numbered: Iterable[tuple[int, ev.AnyEvent]]) -> tuple[ShadowLifetime, ...]:
    """Return every variable that was made or freed in numbered events, in the order of their events."""
    builder = LifetimesBuilder()
    for number, event in numbered:
        builder.take(number, event)
    return builder.built()


def _made(number: int, event: ev.ShadowAlloc, variable: str, caller: str) -> ShadowLifetime:
    return ShadowLifetime(
        obj=event.obj,
        id=event.id,
        variable=variable,
        size=event.size,
        made_ns=event.ts_ns,
        freed_ns=None,
        caller=caller,
        event=number,
    )


def _freed(one: ShadowLifetime, freed_ns: int) -> ShadowLifetime:
    return ShadowLifetime(
        obj=one.obj,
        id=one.id,
        variable=one.variable,
        size=one.size,
        made_ns=one.made_ns,
        freed_ns=freed_ns,
        caller=one.caller,
        event=one.event,
    )


def _older(number: int, event: ev.ShadowFreed) -> ShadowLifetime:
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
