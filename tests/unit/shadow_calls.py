# SPDX-License-Identifier: Apache-2.0
"""Calls of the shadow variable functions, put into a trace as klpshadow would tell them."""

from __future__ import annotations

from typing import Any, Literal

from klp.trace import events as ev
from tests.unit.traces import Trace, task

Call = Literal["alloc", "get_or_alloc"]
Result = Literal["made", "found", "exists", "failed"]


def allocates(
    t: Trace, call: Call, result: Result, variable: str | None, *, obj: str = "0x1", id_: int = 7,
    pid: int = 100, begun_ns: int | None = None, duration_ns: int = 100, caller: str = "f+0x1 [p]",
    **changes: Any,
) -> None:  # fmt: skip
    """A klp_shadow_alloc or klp_shadow_get_or_alloc without constructor."""
    fields: dict[str, Any] = {
        "size": 8, "flags": 0, "ctor": False, "ctor_calls": 0, "ctor_result": None, "stack": None,
        "zeroed": True if result == "made" else None, **changes,
    }  # fmt: skip
    t.put(
        ev.ShadowAlloc, at=begun_ns, call=call, obj=obj, id=id_, result=result, variable=variable,
        caller=caller, duration_ns=duration_ns, task=task(pid), **fields,
    )  # fmt: skip
    t.now = max(t.now, (begun_ns or t.now) + duration_ns)


def frees(
    t: Trace, variable: str | None, *, obj: str = "0x1", id_: int = 7, pid: int = 100,
    age_ns: int | None = 5, caller: str = "g+0x1 [p]",
) -> None:  # fmt: skip
    """A klp_shadow_free; without `variable` it frees nothing."""
    own = {"obj": obj, "id": id_, "dtor": False}
    begun = t.now + 1
    if variable is not None:
        t.put(ev.ShadowFreed, **own, variable=variable, age_ns=age_ns, dtor_calls=0)
    freed = variable is not None
    t.put(ev.ShadowFree, at=begun, **own, freed=freed, caller=caller, task=task(pid))


def frees_all(t: Trace, id_: int, *freed: tuple[str, int, str], count: int | None = None) -> None:
    """A klp_shadow_free_all that frees variables, each given by object, id and address."""
    begun = t.now
    for obj, own_id, variable in freed:
        t.put(ev.ShadowFreed, obj=obj, id=own_id, variable=variable, age_ns=5, dtor=False, dtor_calls=0)
    t.put(
        ev.ShadowFreeAll, at=begun, id=id_, dtor=False, count=len(freed) if count is None else count,
        duration_ns=t.now - begun + 10, caller="g+0x9 [p]", task=task(100),
    )  # fmt: skip
    t.wait(1)


def gets(t: Trace, **counts: int) -> None:
    """What klpshadow counted of the klp_shadow_get calls of id 7."""
    none = dict.fromkeys(("found", "absent", "racing", "wrong", "unknown"), 0)
    t.put(ev.ShadowGets, id=7, **{**none, **counts})
