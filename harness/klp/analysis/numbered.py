# SPDX-License-Identifier: Apache-2.0
"""Events with their numbers, in order of time: found by when they happened."""

from __future__ import annotations

from bisect import bisect_left
from typing import TypeVar

from klp.trace import events as ev

_E = TypeVar("_E", bound=ev.AnyEvent)


def began(numbered: tuple[int, ev.AnyEvent]) -> int:
    """Return the time of an event."""
    return numbered[1].ts_ns


def between(
    numbered: tuple[tuple[int, _E], ...], from_ns: int, until_ns: int | None
) -> tuple[tuple[int, _E], ...]:
    """Return the events, of some in order of time, from a moment on and before another (None: the end)."""
    end = len(numbered) if until_ns is None else bisect_left(numbered, until_ns, key=began)
    return numbered[bisect_left(numbered, from_ns, key=began) : end]
