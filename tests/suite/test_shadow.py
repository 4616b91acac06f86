# SPDX-License-Identifier: Apache-2.0
"""What the interface of shadow variables promises, counted by its caller and by the trace."""

from __future__ import annotations

import pytest

from klp import events as ev
from klp import wait_until
from tests.suite.edges import COUNTS, IDS, SIZES, orders, parameter


@pytest.mark.everywhere
@pytest.mark.klp_rules("S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "L6")
def test_every_variable_is_told_and_counted_exactly(shadow_cases, trace):
    cases = ("alloc", "race", "read", "ctor", "dtor", "free", "free_all", "sizes", "load")
    edges = f"{parameter('ids', IDS)} {parameter('sizes', SIZES)}"
    counts = shadow_cases(*cases, parameters=f"count=20 {edges}")
    assert counts.broken == "nothing"
    told = trace.history().ledger
    assert (told.allocated, told.freed) == (counts.made, counts.freed)
    assert (told.found, told.refused) == (counts.found, counts.refused)
    assert (told.strays, told.left) == (0, ())
    seen = trace.events()
    assert sum(each.ctor_calls for each in seen if isinstance(each, ev.ShadowAlloc)) == counts.ctors
    assert sum(each.dtor_calls for each in seen if isinstance(each, ev.ShadowFreed)) == counts.dtors


@pytest.mark.klp_rules("S9")
def test_a_get_beside_a_free_is_answered_rightly(shadow_cases, guest, trace):
    """It is read until the trace tells of one whose answer could be judged: when that is, is chance."""
    assert shadow_cases("read").broken == "nothing"

    def judged() -> bool:
        guest.run("echo read >/sys/module/klp_shadow_cases/parameters/play").must("reading")
        gets = [each for each in trace.events() if isinstance(each, ev.ShadowGets)]
        assert not any(each.raced_wrong for each in gets)
        return any(each.raced_right for each in gets)

    wait_until(judged, what="get beside a free", timeout_s=300, every_s=0.1)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("ids", orders(IDS)[1:], ids=["from-the-end", "from-the-middle"])
@pytest.mark.klp_rules("S2", "S5", "S6", "S7")
def test_what_is_freed_is_the_variable_of_that_id_alone(shadow_cases, trace, ids, count):
    counts = shadow_cases("free", "free_all", parameters=f"count={count} {parameter('ids', ids)}")
    assert counts.broken == "nothing"
    told = trace.history().ledger
    assert told.allocated == told.freed == (count + 1) * len(ids)
    assert {each.id for each in trace.events() if isinstance(each, ev.ShadowFreed)} == set(ids)


@pytest.mark.klp_rules("S1", "S2", "S4", "S7", "L6")
@pytest.mark.klp_expects("Duplicate shadow variable", reason="the variable is there already")
def test_what_exists_is_not_allocated_again(shadow_cases, trace):
    counts = shadow_cases("double")
    assert counts.broken == "nothing"
    told = trace.history().ledger
    assert (told.allocated, told.refused, told.freed) == (1, 1, 1)
    [made, again] = [each for each in trace.events() if isinstance(each, ev.ShadowAlloc)]
    assert (made.result, again.result) == ("made", "exists")


@pytest.mark.klp_rules("S3", "S4", "S6", "S7")
def test_threads_that_race_get_the_same_variable(shadow_cases, trace):
    counts = shadow_cases("race", parameters="count=200 threads=6")
    assert counts.broken == "nothing"
    told = trace.history().ledger
    assert (told.allocated, told.found, told.freed) == (200, 5 * 200, 200)
    assert counts.found == told.found


@pytest.mark.klp_rules("S2", "S4")
def test_a_constructor_that_fails_registers_nothing(shadow_cases, trace):
    counts = shadow_cases("ctor")
    assert counts.broken == "nothing"
    told = trace.history().ledger
    assert (told.allocated, told.refused) == (0, 2)
    failed = [each for each in trace.events() if isinstance(each, ev.ShadowAlloc)]
    assert {(each.result, each.ctor_calls) for each in failed} == {("failed", 1)}


@pytest.mark.klp_breaks("S7", reason="the module makes variables and never frees them")
def test_what_a_module_leaves_behind_is_named(shadow_cases, module, trace):
    shadow_cases("leak", parameters="count=3")
    trace.mark()  # a caller's name is looked up when its event is written: the module must be there
    module("patches/shadow-cases").unload()
    left = trace.history().ledger.left
    assert len(left) == 3
    assert all(each.caller.endswith("[klp_shadow_cases]") for each in left)
    [leak, *_] = trace.verdicts()["S7"].evidence
    assert leak.words.startswith("left behind by klp_shadow_cases: <")


@pytest.mark.klp_rules("S2", "S3", "S4", "S5", "S6", "S7", "S8", "L3", "L4", "L5")
def test_a_structure_is_extended_across_versions(guest, module, livepatch, trace):
    module("patches/shadow-extension", "klp_ext").load("items=1")
    one = livepatch("patches/shadow-extension", "klp_ext_one")
    two = livepatch("patches/shadow-extension", "klp_ext_two")
    one.load()
    guest.run("echo 2 >/sys/module/klp_ext/parameters/items").must("making an item")
    one.observe("cat /proc/klp_ext", "^item 1\nitem 2 reads 1$")
    two.load()
    two.observe("cat /proc/klp_ext", "^item 1 reads 1 last cat\nitem 2 reads 2 last cat$")
    one.wait_gone()
    one.unload()
    guest.run("echo 1 >/sys/module/klp_ext/parameters/items").must("freeing an item")
    two.disable()
    two.observe("cat /proc/klp_ext", "^item 1$")
    two.unload()
    told = trace.history().ledger
    assert (told.allocated, told.freed, told.left) == (4, 4, ())


@pytest.mark.klp_rules("S1", "S6", "S7", "L6")
def test_paths_that_look_alike_are_told_apart(module, trace):
    """They have one caller, and go down the stack as far: another function lies there."""
    module("tests/faults", "klp_shadow_paths").load()
    seen = trace.events()
    frames = {each.stack: each.frames for each in seen if isinstance(each, ev.Callers)}
    made = [(each.id, frames[each.stack]) for each in seen if isinstance(each, ev.ShadowAlloc)]
    assert [number for number, _ in made] == [1, 2, 1, 2]
    for number, path in made:
        own = [name for name in ("klp_first", "klp_second") if any(each.startswith(name) for each in path)]
        assert own == [("klp_first", "klp_second")[number - 1]]
    assert {each.caller.partition("+")[0] for each in seen if isinstance(each, ev.ShadowAlloc)} == {
        "klp_make"
    }
