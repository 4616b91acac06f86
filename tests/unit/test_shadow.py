# SPDX-License-Identifier: Apache-2.0
"""The ledger of shadow variables: what was made is either freed, or said to be left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from klp.analysis.shadow import LedgerBuilder, ShadowLedger, ShadowVariable
from klp.trace import events as ev

TASK = ev.Task(pid=1, tgid=1, comm="insmod")


def alloc(ts_ns: int, obj: str, number: int = 1, result: Any = "made") -> ev.ShadowAlloc:
    return ev.ShadowAlloc(
        probe="klpshadow", seq=ts_ns, ts_ns=ts_ns, call="alloc", obj=obj, id=number, size=8, flags=0,
        ctor=False, ctor_calls=0, ctor_result=None, zeroed=None, stack=None, duration_ns=0,
        result=result, variable=None if result in ("failed", "exists") else "0x10", caller="f+0x1 [m]",
        task=TASK,
    )  # fmt: skip


def freed(ts_ns: int, obj: str, number: int = 1) -> ev.ShadowFreed:
    return ev.ShadowFreed(
        probe="klpshadow",
        seq=ts_ns,
        ts_ns=ts_ns,
        obj=obj,
        id=number,
        variable="0x10",
        age_ns=None,
        dtor=False,
        dtor_calls=0,
    )


def shadow_ledger(events: Iterable[ev.AnyEvent]) -> ShadowLedger:
    builder = LedgerBuilder()
    for number, event in enumerate(events, 1):
        builder.take(number, event)
    return builder.built().ledger


def test_nothing() -> None:
    ledger = shadow_ledger([])
    assert (ledger.allocated, ledger.freed, ledger.left) == (0, 0, ())


def test_what_is_freed_is_not_left() -> None:
    ledger = shadow_ledger([alloc(1, "0xa"), alloc(2, "0xb"), freed(3, "0xa"), freed(4, "0xb")])
    assert (ledger.allocated, ledger.freed, ledger.strays, ledger.left) == (2, 2, 0, ())


def test_what_is_left_is_named() -> None:
    ledger = shadow_ledger([alloc(1, "0xa"), alloc(2, "0xb", 7), freed(3, "0xa")])
    assert ledger.left == (ShadowVariable(obj="0xb", id=7, size=8, made_ns=2, caller="f+0x1 [m]", event=2),)


def test_variables_are_told_apart_by_object_and_id() -> None:
    ledger = shadow_ledger([
        alloc(1, "0xa", 1), alloc(2, "0xa", 2), alloc(3, "0xb", 1), freed(4, "0xa", 1),
    ])  # fmt: skip
    assert {(each.obj, each.id) for each in ledger.left} == {("0xa", 2), ("0xb", 1)}
    assert ledger.strays == 0


def test_the_same_place_may_be_used_again() -> None:
    ledger = shadow_ledger([alloc(1, "0xa"), freed(2, "0xa"), alloc(3, "0xa")])
    assert (ledger.allocated, ledger.freed) == (2, 1)
    assert [each.made_ns for each in ledger.left] == [3]


def test_a_second_free_is_a_stray() -> None:
    ledger = shadow_ledger([alloc(1, "0xa"), freed(2, "0xa"), freed(3, "0xa")])
    assert (ledger.freed, ledger.strays) == (2, 1)


def test_one_that_was_made_before_is_a_stray() -> None:
    ledger = shadow_ledger([freed(1, "0xa")])
    assert (ledger.allocated, ledger.freed, ledger.strays) == (0, 1, 1)


@pytest.mark.parametrize("result", ["exists", "failed"])
def test_a_refused_allocation_makes_nothing(result: str) -> None:
    ledger = shadow_ledger([alloc(1, "0xa", result=result)])
    assert (ledger.allocated, ledger.refused, ledger.left) == (0, 1, ())


def test_one_that_was_found_is_not_another() -> None:
    ledger = shadow_ledger([alloc(1, "0xa"), alloc(2, "0xa", result="found"), freed(3, "0xa")])
    assert (ledger.allocated, ledger.found, ledger.left) == (1, 1, ())
    assert shadow_ledger([alloc(1, "0xa", result="found")]).left == ()


def test_freeing_is_seen_where_it_happens_not_where_it_is_asked_for() -> None:
    asked = ev.ShadowFree(
        probe="klpshadow", seq=2, ts_ns=2, obj="0xa", id=1, dtor=False, freed=True, caller="f", task=TASK
    )
    every = ev.ShadowFreeAll(
        probe="klpshadow", seq=3, ts_ns=3, id=1, dtor=False, count=1, duration_ns=1, caller="f", task=TASK
    )
    ledger = shadow_ledger([alloc(1, "0xa"), asked, every])
    assert ledger.freed == 0
    assert len(ledger.left) == 1


def test_an_address_that_comes_again_proves_nothing_of_a_trace_that_lost_events() -> None:
    builder = LedgerBuilder()
    second = msgspec.structs.replace(alloc(2, "0xa"), variable="0x20")
    # Between them stands what was lost: both were freed, and the first one's address was used again.
    for number, event in enumerate((alloc(1, "0xa"), second, freed(9, "0xa")), 1):
        builder.take(number, event)
    found = builder.built().findings["S1"]
    assert not found.broken
    # In a trace that is whole, that was two at once.
    assert "0x10 stood beside 0x20" in found.lacking[0].words
