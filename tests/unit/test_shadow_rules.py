# SPDX-License-Identifier: Apache-2.0
"""Rules of shadow variables: none holds what a broken kernel would write, or accuses a right one."""

from __future__ import annotations

import pytest

from klp.analysis.evidence import Verdict
from klp.analysis.history import history
from klp.analysis.rules.registry import judge_all
from klp.trace import events as ev
from tests.unit.shadow_calls import allocates, frees, frees_all, gets
from tests.unit.traces import SHELL, Trace, task

RULES = tuple(f"S{number}" for number in range(1, 10))
LARGEST = 2**64 - 1


def verdicts(t: Trace) -> dict[str, Verdict]:
    return {each.rule.id: each.verdict for each in judge_all(history(t.end().numbered()), RULES)}


def violated(t: Trace) -> set[str]:
    return {name for name, each in verdicts(t).items() if each is Verdict.VIOLATED}


@pytest.fixture
def t() -> Trace:
    return Trace()


# --- S1, S3: one variable of one object and id -------------------------------------------------------


@pytest.mark.parametrize("order", [("0xa1", "0xb1"), ("0xb1", "0xa1")])
@pytest.mark.parametrize("call", ["alloc", "get_or_alloc"])
def test_two_racing_calls_that_both_made_one(t: Trace, call: str, order: tuple[str, str]) -> None:
    begun = t.now
    allocates(t, "get_or_alloc", "made", "0xa1", begun_ns=begun + 10, duration_ns=1000, pid=1)
    allocates(t, call, "made", "0xb1", begun_ns=begun + 500, duration_ns=1000, pid=2)
    for variable in order:
        frees(t, variable)
    assert violated(t) == {"S1", "S3"}


def test_two_racing_calls_that_both_made_one_and_no_free_of_it(t: Trace) -> None:
    begun = t.now
    allocates(t, "get_or_alloc", "made", "0xa1", begun_ns=begun + 10, duration_ns=1000, pid=1)
    allocates(t, "get_or_alloc", "made", "0xb1", begun_ns=begun + 500, duration_ns=1000, pid=2)
    found = verdicts(t)
    assert {found[rule] for rule in ("S1", "S3", "S7")} == {Verdict.NOT_OBSERVED}


def racing_found_beside(t: Trace, *later: str) -> dict[str, Verdict]:
    """One call finds a variable that is older than the trace, while another makes one."""
    begun = t.now
    allocates(t, "get_or_alloc", "found", "0xa1", begun_ns=begun + 10, duration_ns=1000, pid=1)
    allocates(t, "get_or_alloc", "made", "0xb1", begun_ns=begun + 500, duration_ns=1000, pid=2)
    for variable in later:
        t.now += 1_000
        allocates(t, "get_or_alloc", "found", variable)
    return verdicts(t)


def test_a_racing_call_that_found_another_than_was_made_is_open_by_itself(t: Trace) -> None:
    assert racing_found_beside(t)["S3"] is Verdict.NOT_OBSERVED


@pytest.mark.parametrize("later", [("0xb1", "0xa1"), ("0xb1", "0xa1", "0xb1")])
def test_it_breaks_the_rule_once_both_are_found_again(t: Trace, later: tuple[str, ...]) -> None:
    """The one stood from before the other was found until after: no timing excuses that."""
    found = racing_found_beside(t, *later)
    assert (found["S1"], found["S3"]) == (Verdict.VIOLATED, Verdict.VIOLATED)


def test_one_that_left_unseen_is_not_found_again(t: Trace) -> None:
    assert racing_found_beside(t, "0xb1", "0xb1")["S3"] is Verdict.NOT_OBSERVED


def test_a_variable_that_was_made_while_another_stood_that_is_found_again(t: Trace) -> None:
    allocates(t, "get_or_alloc", "made", "0xa1", pid=1)
    t.now += 1_000
    allocates(t, "get_or_alloc", "made", "0xb1", pid=2)
    t.now += 1_000
    allocates(t, "get_or_alloc", "found", "0xa1", pid=1)
    assert violated(t) == {"S1", "S3"}


def test_racing_calls_of_which_one_made_what_another_had_freed(t: Trace) -> None:
    """The first is made, then freed, and only then the second is made; both calls are still open."""
    begun = t.now
    own = {"obj": "0x1", "id": 7, "dtor": False}
    t.put(ev.ShadowFreed, at=begun + 300, **own, variable="0xa1", age_ns=None, dtor_calls=0)
    t.put(ev.ShadowFree, at=begun + 200, **own, freed=True, caller="g+0x1 [p]", task=SHELL)
    allocates(t, "get_or_alloc", "made", "0xa1", begun_ns=begun + 10, duration_ns=1000, pid=1)
    allocates(t, "get_or_alloc", "made", "0xb1", begun_ns=begun + 100, duration_ns=1000, pid=2)
    frees(t, "0xb1")
    found = verdicts(t)
    assert {found[rule] for rule in ("S1", "S3", "S7")} <= {Verdict.HELD, Verdict.NOT_OBSERVED}
    assert found["S3"] is Verdict.HELD


def test_racing_callers_that_got_different_pointers(t: Trace) -> None:
    begun = t.now
    allocates(t, "get_or_alloc", "made", "0xa1", begun_ns=begun + 10, duration_ns=1000, pid=1)
    allocates(t, "get_or_alloc", "found", "0xc1", begun_ns=begun + 500, duration_ns=1000, pid=2)
    frees(t, "0xa1")
    assert violated(t) == {"S3"}


@pytest.mark.parametrize(
    ("call", "result", "variable", "rule"),
    [("get_or_alloc", "found", "0xa1", "S3"), ("alloc", "exists", None, "S1")],
)
def test_what_was_freed_is_there_for_nobody(
    t: Trace, call: str, result: str, variable: str | None, rule: str
) -> None:
    allocates(t, "alloc", "made", "0xa1")
    frees(t, "0xa1")
    allocates(t, call, result, variable)
    assert violated(t) == {rule}


def test_what_is_just_being_freed_may_still_be_found(t: Trace) -> None:
    """The free is told under the lock, before the variable leaves the hash; a look-up takes no lock."""
    allocates(t, "alloc", "made", "0xa1")
    frees(t, "0xa1", pid=1)
    allocates(t, "get_or_alloc", "found", "0xa1", pid=2)
    assert not violated(t)


def test_a_lost_event_may_be_of_the_variable_that_was_found(t: Trace) -> None:
    allocates(t, "alloc", "made", "0xa1")
    frees(t, "0xa1")
    t.put(ev.Lost, probe="klpshadow", count=1)
    allocates(t, "get_or_alloc", "found", "0xa1")
    assert verdicts(t)["S3"] is Verdict.NOT_OBSERVED


def test_one_older_than_the_trace_is_found_again_and_no_other(t: Trace) -> None:
    allocates(t, "get_or_alloc", "found", "0xa1")
    allocates(t, "alloc", "exists", None)
    allocates(t, "get_or_alloc", "found", "0xa1")
    frees(t, "0xa1", age_ns=None)
    whole = history(t.numbered())
    assert (whole.ledger.left, whole.ledger.strays) == ((), 1)
    assert not violated(t)


def test_one_older_than_the_trace_gives_way_to_no_other(t: Trace) -> None:
    allocates(t, "get_or_alloc", "found", "0xa1")
    allocates(t, "get_or_alloc", "found", "0xb1")
    assert violated(t) == {"S3"}


# --- S6: every variable of one id, and no other --------------------------------------------------------


@pytest.mark.parametrize("other", [7 + 2**16, 7 + 2**32, 7 + 2**63, LARGEST])
def test_free_all_of_an_id_frees_none_that_is_equal_in_part(t: Trace, other: int) -> None:
    allocates(t, "alloc", "made", "0xa1", obj="0x1")
    allocates(t, "alloc", "made", "0xa2", obj="0x2", id_=other)
    frees_all(t, 7, ("0x1", 7, "0xa1"), ("0x2", other, "0xa2"))
    assert violated(t) == {"S6"}


# --- S7: freed once, never twice; none is left behind --------------------------------------------------


def test_one_freed_twice_as_the_probe_tells_it(t: Trace) -> None:
    """The probe forgets an age as the variable is freed: the second free has none."""
    allocates(t, "alloc", "made", "0xa1")
    frees(t, "0xa1", age_ns=100)
    frees(t, "0xa1", age_ns=None)
    assert violated(t) == {"S7"}


def test_an_address_may_be_used_again(t: Trace) -> None:
    for _ in range(3):
        allocates(t, "alloc", "made", "0xa1")
        frees(t, "0xa1")
    assert verdicts(t)["S7"] is Verdict.HELD


def test_one_that_a_free_left_and_a_later_free_took(t: Trace) -> None:
    allocates(t, "alloc", "made", "0xa1")
    frees(t, None)
    frees(t, "0xa1")
    assert violated(t) == {"S7"}


def test_a_free_that_came_too_late_left_nothing(t: Trace) -> None:
    """It waited for the lock while another one freed the variable."""
    allocates(t, "alloc", "made", "0xa1")
    frees(t, None, pid=2)
    frees(t, "0xa1", pid=1)
    frees(t, None, pid=2)
    assert verdicts(t)["S7"] is Verdict.HELD


def test_a_free_that_waited_for_the_lock_takes_what_was_made_meanwhile(t: Trace) -> None:
    """While it waits, a klp_shadow_free_all with a destructor frees what stood; then another is made."""
    allocates(t, "alloc", "made", "0xa1")
    begun, own = t.now, {"obj": "0x1", "id": 7}
    t.put(ev.ShadowFreed, at=begun + 300, **own, variable="0xa1", age_ns=5, dtor=True, dtor_calls=1)
    t.put(ev.ShadowFreeAll, at=begun + 100, id=7, dtor=True, count=1, duration_ns=300, caller="g+0x9 [p]",
          task=task(1))  # fmt: skip
    allocates(t, "alloc", "made", "0xb1", begun_ns=begun + 500, pid=3)
    t.put(ev.ShadowFreed, at=begun + 900, **own, variable="0xb1", age_ns=5, dtor=False, dtor_calls=0)
    t.put(ev.ShadowFree, at=begun + 200, **own, dtor=False, freed=True, caller="g+0x1 [p]", task=task(2))
    found = verdicts(t)
    assert {found[rule] for rule in ("S1", "S5", "S6", "S7")} == {Verdict.HELD}


def test_a_free_that_came_too_late_left_not_what_was_made_at_the_same_address(t: Trace) -> None:
    allocates(t, "alloc", "made", "0xa1")
    frees(t, None, pid=2)
    frees(t, "0xa1", pid=1)
    allocates(t, "alloc", "made", "0xa1", pid=1)
    frees(t, "0xa1", pid=2)
    assert verdicts(t)["S7"] is Verdict.HELD


def test_one_older_than_the_trace_is_freed_while_another_is_made_at_its_address(t: Trace) -> None:
    begun = t.now
    frees(t, "0xa1", age_ns=None, pid=1)
    allocates(t, "alloc", "made", "0xa1", begun_ns=begun, duration_ns=50_000, pid=2)
    frees(t, "0xa1", pid=1)
    assert verdicts(t)["S7"] is Verdict.HELD


def goes(t: Trace, name: str) -> None:
    t.disable(name)
    t.module(name, "going", livepatch=True)
    t.wait(10)


def leaks(t: Trace, **fields: str) -> None:
    """One is left and one is freed, so that there is something to hold."""
    allocates(t, "alloc", "made", "0xa1", **fields)
    allocates(t, "alloc", "made", "0xa2", obj="0x2", **fields)
    frees(t, "0xa2", obj="0x2")


def test_a_leak_beside_a_livepatch_that_stays_is_not_held(t: Trace) -> None:
    for name in ("other", "p"):
        t.enable(name)
    leaks(t)
    goes(t, "p")
    assert verdicts(t)["S7"] is Verdict.NOT_OBSERVED


def test_a_leak_beside_a_livepatch_that_goes_too(t: Trace) -> None:
    for name in ("other", "p"):
        t.enable(name)
    leaks(t)
    goes(t, "p")
    goes(t, "other")
    assert violated(t) == {"S7"}


@pytest.mark.parametrize("found", [True, False])
def test_what_another_livepatch_takes_over_and_frees_is_no_leak(t: Trace, found: bool) -> None:
    for name in ("p", "q"):
        t.enable(name)
    allocates(t, "alloc", "made", "0xa1")
    if found:
        allocates(t, "get_or_alloc", "found", "0xa1", caller="f+0x1 [q]")
    goes(t, "p")
    frees(t, "0xa1", caller="g+0x1 [q]")
    goes(t, "q")
    assert verdicts(t)["S7"] is Verdict.HELD


def test_a_leak_of_one_whose_module_has_no_name_is_not_held(t: Trace) -> None:
    t.enable("p")
    leaks(t, caller="0xffffffffc0123456")
    goes(t, "p")
    assert verdicts(t)["S7"] is Verdict.NOT_OBSERVED


def test_a_leak_made_for_a_livepatch_by_the_kernel_is_told_by_its_stack(t: Trace) -> None:
    t.enable("p")
    t.put(ev.Callers, stack=0, frames=("kernel_helper+0x9", "fixed+0x2 [p]", "vfs_read+0x1"))
    allocates(t, "alloc", "made", "0xa1", caller="kernel_helper+0x9", stack=0)
    goes(t, "p")
    assert violated(t) == {"S7"}


def test_a_leak_made_by_a_module_that_the_livepatch_changes(t: Trace) -> None:
    t.enable("p")
    leaks(t, caller="helper+0x1 [driver]")
    t.module("driver", "going")
    goes(t, "p")
    assert violated(t) == {"S7"}


def test_no_leak_is_excluded_where_nobody_saw_what_went() -> None:
    t = Trace(probes=("klpshadow", "klptransition"))
    leaks(t)
    found = verdicts(t)
    assert found["S7"] is Verdict.NOT_OBSERVED
    assert found["S1"] is Verdict.HELD


def test_no_leak_is_told_where_the_livepatch_that_took_it_over_may_be_lost(t: Trace) -> None:
    t.enable("p")
    leaks(t)
    t.put(ev.Lost, probe="klpstates", count=1)
    goes(t, "p")
    assert verdicts(t)["S7"] is Verdict.NOT_OBSERVED


def test_one_that_is_not_seen_to_leave_is_no_leak(t: Trace) -> None:
    """Another was made in its place, so what is missing is the event of its free."""
    t.enable("p")
    allocates(t, "alloc", "made", "0xa1")
    allocates(t, "alloc", "made", "0xb1")
    frees(t, "0xb1")
    frees_all(t, 7)
    goes(t, "p")
    found = verdicts(t)
    assert {found[rule] for rule in ("S1", "S6", "S7")} == {Verdict.NOT_OBSERVED}


# --- S2, S9: gets ----------------------------------------------------------------------------------------


def test_racing_gets_whose_answers_nobody_compared_hold_nothing(t: Trace) -> None:
    gets(t, racing=1000)
    assert verdicts(t)["S9"] is Verdict.NOT_OBSERVED


def test_racing_gets_that_were_compared(t: Trace) -> None:
    gets(t, racing=1, raced_right=999)
    assert verdicts(t)["S9"] is Verdict.HELD


@pytest.mark.parametrize("raced", [True, False])
def test_a_wrong_get_breaks_the_rule_of_its_kind(t: Trace, raced: bool) -> None:
    t.put(
        ev.ShadowGetWrong, obj="0x1", id=7, returned="0xb1", expected="0xa1", caller="f+0x1 [p]",
        task=SHELL, raced=raced,
    )  # fmt: skip
    gets(t, found=5, raced_right=3, **{"raced_wrong" if raced else "wrong": 1})
    assert violated(t) == {"S9" if raced else "S2"}


# --- large ids, many variables ---------------------------------------------------------------------------


def test_ids_are_as_large_as_the_kernels(t: Trace) -> None:
    for id_ in (0, 2**63, LARGEST):
        allocates(t, "alloc", "made", "0xa1", id_=id_)
        frees(t, "0xa1", id_=id_)
    found = verdicts(t)
    assert (found["S1"], found["S7"]) == (Verdict.HELD, Verdict.HELD)
