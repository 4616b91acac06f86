# SPDX-License-Identifier: Apache-2.0
"""Events of klpshadow (kernel/livepatch/shadow.c)."""

from __future__ import annotations

from typing import Literal

from klp.trace.events.base import Event, Nanoseconds, Task, Unsigned


class ShadowAlloc(Event, frozen=True, kw_only=True, tag="shadow_alloc"):
    """klp_shadow_alloc or klp_shadow_get_or_alloc; `call` says which.

    `result`: ``made``; ``found`` (get_or_alloc of an existing one); ``exists`` (alloc of one, an
    error); ``failed`` (no memory, or the constructor refused). `variable` is the data's address, null
    where there is none. `ctor` tells whether a constructor was given, `ctor_calls` how often it ran in
    this call, `ctor_result` what it returned at last. `zeroed`, of one made without a constructor: all
    of the data's first 64 bytes were 0 (null where that was not looked at). `caller` is
    ``function+0xOFFSET [module]``; `stack` is the number of a `Callers` event, null where there is none.
    """

    call: Literal["alloc", "get_or_alloc"]
    obj: str
    id: Unsigned
    size: Unsigned
    flags: int
    ctor: bool
    ctor_calls: int
    ctor_result: int | None
    result: Literal["made", "found", "exists", "failed"]
    variable: str | None
    zeroed: bool | None
    caller: str
    stack: int | None
    duration_ns: Nanoseconds
    task: Task


class Callers(Event, frozen=True, kw_only=True, tag="callers"):
    """A kernel stack, told once, before the first event that names it; innermost frame first."""

    stack: int
    frames: tuple[str, ...]


class ShadowFree(Event, frozen=True, kw_only=True, tag="shadow_free"):
    """klp_shadow_free, with the time of its call; `freed` tells whether there was such a variable."""

    obj: str
    id: Unsigned
    dtor: bool
    freed: bool
    caller: str
    task: Task


class ShadowFreeAll(Event, frozen=True, kw_only=True, tag="shadow_free_all"):
    """klp_shadow_free_all, with the time of its call: `count` variables of `id` were freed by it."""

    id: Unsigned
    dtor: bool
    count: int
    duration_ns: Nanoseconds
    caller: str
    task: Task


class ShadowFreed(Event, frozen=True, kw_only=True, tag="shadow_freed"):
    """klp_shadow_free_struct: one variable left the hash; `age_ns` is null if older than the trace.

    `dtor` tells whether a destructor was given, `dtor_calls` how often it ran for this variable.
    """

    obj: str
    id: Unsigned
    variable: str
    age_ns: Nanoseconds | None
    dtor: bool
    dtor_calls: int


class ShadowGets(Event, frozen=True, kw_only=True, tag="shadow_gets"):
    """klp_shadow_get calls of one id since the trace began, counted in the kernel.

    `found` returned the variable that was there; `absent` NULL where there was none; `wrong` something
    else, told one by one in `ShadowGetWrong`; `unknown` found one that is older than the trace. Beside a
    change of that variable NULL and a variable of this object and id are both right: `raced_right`, else
    `raced_wrong`, told as the wrong ones are; `racing` are those whose answer was not compared.
    """

    id: Unsigned
    found: int
    absent: int
    racing: int
    wrong: int
    unknown: int
    raced_right: int = 0
    raced_wrong: int = 0


class ShadowGetWrong(Event, frozen=True, kw_only=True, tag="shadow_get_wrong"):
    """A klp_shadow_get that returned something else than the variable that was there; null is NULL.

    If it `raced` a change of that variable, what it returned was no variable of this object and id.
    """

    obj: str
    id: Unsigned
    returned: str | None
    expected: str | None
    caller: str
    task: Task
    raced: bool = False


class ShadowTotals(Event, frozen=True, kw_only=True, tag="shadow_totals"):
    """What the kernel side counted since the trace began: exact even where events were lost."""

    made: int
    found: int
    exists: int
    failed: int
    freed: int
