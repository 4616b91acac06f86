# SPDX-License-Identifier: Apache-2.0
"""What is not there any more is told, and fails where it is a loss of evidence."""

from __future__ import annotations

import msgspec
import pytest

from klp.analysis.compare.values import Grade, Kind
from klp.analysis.evidence import Verdict
from klp.analysis.recording import RecordedRun
from klp.analysis.result import Check
from klp.analysis.rules.rule import Needs, Rule, RuleVerdict
from tests.unit.comparisons import (
    bare_run,
    compared,
    life,
    often,
    only,
    regressions,
    run_of,
    told,
)
from tests.unit.runfolders import shadow
from tests.unit.traces import Trace


def with_transitions(patching: int, unpatching: int) -> RecordedRun:
    whole = run_of(life())
    one, other = whole.result.plans[0].transitions
    return run_of(life(), transitions=(one,) * patching + (other,) * unpatching)


WHOLE = with_transitions(1, 1)


@pytest.mark.parametrize("count", [1, 5])
def test_a_transition_that_is_not_seen_any_more(count: int) -> None:
    found = compared([WHOLE] * count, [with_transitions(1, 0)] * count)
    one = only(found, Kind.TRANSITIONS)
    assert (one.what, one.base, one.new) == ("unpatching", "1", "0")
    assert one.why == "always in the base, and not seen any more"
    none = compared([WHOLE] * count, [with_transitions(0, 0)] * count)
    assert {each.what for each in regressions(none, Kind.TRANSITIONS)} == {"patching", "unpatching"}


def test_one_that_is_missing_now_and_then() -> None:
    gone = with_transitions(1, 0)
    assert only(compared([WHOLE] * 5, [WHOLE] * 4 + [gone]), Kind.TRANSITIONS, Grade.TOLD)
    assert only(compared([WHOLE] * 5, [WHOLE] + [gone] * 4), Kind.TRANSITIONS)
    assert compared([WHOLE, gone], [gone, WHOLE]).findings == ()


def test_a_base_that_lacked_it_is_none() -> None:
    assert regressions(often(with_transitions(1, 0), WHOLE)) == []


def test_one_that_became_four_is_told() -> None:
    one = only(often(WHOLE, with_transitions(4, 1)), Kind.TRANSITIONS, Grade.TOLD)
    assert (one.what, one.base, one.new, one.why) == ("patching", "1", "4", "another number of transitions")


def test_a_run_that_was_cut_short_lacks_them_and_says_so_itself() -> None:
    cut = told(with_transitions(0, 0), error="the guest panicked")
    assert [each.kind for each in regressions(often(WHOLE, cut))] == [Kind.ENDED_EARLY]


def ruled(verdict: Verdict, *names: str) -> RecordedRun:
    rules = tuple(
        RuleVerdict(
            rule=Rule(id=name, text="t", source="s", needs=Needs(probes=(), symbols=())),
            verdict=verdict, observations=1, evidence=(), why="",
        )
        for name in names
    )  # fmt: skip
    return told(run_of(life()), rules=rules)


def test_rules_that_were_held_and_are_not_observed_any_more() -> None:
    held, unseen = (ruled(each, "T4", "S1") for each in (Verdict.HELD, Verdict.NOT_OBSERVED))
    lost = regressions(often(held, unseen), Kind.VERDICT)
    assert {each.what for each in lost} == {"rule T4", "rule S1"}
    assert {(each.base, each.new) for each in lost} == {("5 of 5 held", "5 of 5 not observed")}
    # Whether one trace shows a rule may be chance.
    once = compared(held, unseen)
    one = only(once, Kind.VERDICT, Grade.TOLD)
    assert (one.what, one.base, one.new) == ("rules T4, S1", "1 of 1 held", "1 of 1 not observed")
    assert regressions(compared([held] * 5, [held] * 4 + [unseen])) == []
    assert regressions(often(unseen, held)) == []


def test_a_rule_that_was_broken_and_is_not_observed_is_no_better() -> None:
    broken, held, unseen = (
        ruled(each, "T4") for each in (Verdict.VIOLATED, Verdict.HELD, Verdict.NOT_OBSERVED)
    )
    assert only(compared(broken, unseen), Kind.VERDICT, Grade.TOLD).why.endswith("not observed now")
    assert only(compared(broken, held), Kind.VERDICT, Grade.BETTER)


def checked(verdict: Verdict | None) -> RecordedRun:
    made = (Check(name="behaviour", verdict=verdict, evidence=""),) if verdict else ()
    return run_of(life(), checks=made)


def test_a_check_that_was_held_and_is_not_observed() -> None:
    held, unseen = checked(Verdict.HELD), checked(Verdict.NOT_OBSERVED)
    assert only(compared(held, unseen), Kind.VERDICT).what == "check 'behaviour'"
    assert regressions(compared([held, unseen], unseen)) == []
    # A run that was cut short does not say that it is not always held.
    cut = told(unseen, plans=(msgspec.structs.replace(unseen.result.plans[0], error="panicked"),))
    assert regressions(compared([held, held, cut], unseen), Kind.VERDICT)
    assert only(compared(held, checked(None)), Kind.VERDICT, Grade.TOLD).why == "not made any more"


# --- where events were lost ---------------------------------------------------------------------------


def leaky() -> Trace:
    return life(before=lambda trace: shadow(trace, "0xffff888000001000", freed_after_ms=None))


def test_a_leak_is_not_judged_where_events_were_lost() -> None:
    good, leaks = run_of(life()), run_of(leaky())
    assert regressions(compared(good, leaks), Kind.LEAK)
    unsure = told(leaks, lost_events=500)
    found = compared(good, unsure)
    assert [each for each in found.findings if each.kind is Kind.LEAK] == []
    assert any("lost 500 events in the new set" in each and "leak" in each for each in found.notes)
    # What is left judges: here one run without a loss has it.
    assert regressions(compared([good] * 2, [unsure, leaks]), Kind.LEAK)
    # And a base that lost events does not say that there was none.
    assert [
        each for each in compared(told(good, lost_events=9), leaks).findings if each.kind is Kind.LEAK
    ] == []


def test_nor_in_a_trace_with_a_hole() -> None:
    def bare(trace: Trace, lost: int) -> RecordedRun:
        return bare_run(trace, lost_events=lost)

    assert regressions(compared(bare(life(), 0), bare(leaky(), 0)), Kind.LEAK)
    assert regressions(compared(bare(life(), 0), bare(leaky(), 7)), Kind.LEAK) == []


def test_callbacks_that_are_missing_where_events_were_lost_are_told() -> None:
    whole = run_of(life())
    fewer = run_of(life(), callbacks=whole.result.plans[0].callbacks[:3])
    assert only(compared(whole, fewer), Kind.CALLBACKS)
    assert (
        only(compared(whole, told(fewer, lost_events=3)), Kind.CALLBACKS, Grade.TOLD).why
        == "events were lost"
    )


# --- one against one ----------------------------------------------------------------------------------


def test_one_against_one_says_that_it_cannot_tell() -> None:
    [note] = compared(WHOLE, WHOLE).notes
    assert note.startswith("one run against one cannot tell a change from chance")
    assert compared([WHOLE] * 2, [WHOLE] * 2).notes == ()
    assert compared([WHOLE] * 2, WHOLE).notes == ()


def test_but_a_fault_is_one_whatever_it_is_compared_with() -> None:
    broken = checked(Verdict.VIOLATED)
    assert regressions(compared(checked(Verdict.HELD), broken), Kind.VERDICT)
