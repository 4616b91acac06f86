# SPDX-License-Identifier: Apache-2.0
"""A plan is judged on its span of the trace: by every rule, knowing of what came before what it must."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from klp.analysis.evidence import Verdict, overall
from klp.analysis.history import history
from klp.analysis.rule_checks import plan_verdicts, rule_checks, rule_name
from klp.analysis.rules.registry import RULES, RuleVerdict, judge_all
from klp.trace import events as ev
from klp.trace.reading import read_events
from tests.unit.runfolders import shadow
from tests.unit.traces import Trace, task

RECORDINGS = Path(__file__).parents[1] / "data/events/real"
Numbered = list[tuple[int, ev.AnyEvent]]


def judged(span: Numbered, before: Numbered) -> dict[str, RuleVerdict]:
    return {each.rule.id: each for each in plan_verdicts(history(span, before))}


def violated(verdicts: dict[str, RuleVerdict]) -> dict[str, str]:
    return {name: each.why for name, each in verdicts.items() if each.verdict is Verdict.VIOLATED}


class Spans:
    """A trace by hand, judged in spans that end where it stands."""

    def __init__(self) -> None:
        self.trace = Trace()
        self._begun = 0

    def begin(self) -> Spans:
        self._mark()
        self._begun = len(self.trace.events)
        return self

    def _mark(self) -> None:
        for probe in ("klptransition", "klpshadow", "klpcallbacks", "klpstates", "klpconsistency"):
            self.trace.put(ev.Mark, probe=probe, number=1)

    def judge(self, *, knowing: bool = True) -> dict[str, RuleVerdict]:
        """Judge the span, knowing of what came before it or not."""
        self._mark()
        numbered = list(enumerate(self.trace.events, 1))
        span = sorted(numbered[self._begun :], key=lambda each: each[1].ts_ns)
        return judged(span, numbered[: self._begun] if knowing else [])

    def taint(self, flags: str) -> None:
        self.trace.put(ev.Taint, flags=flags)

    def leak(self) -> None:
        """A variable that its module leaves behind as it goes."""
        shadow(self.trace, "0xffff888000001000", freed_after_ms=None)
        self.trace.module("m", "going")


@pytest.fixture
def spans() -> Spans:
    return Spans()


# --- a fault makes its plan violated, and no other ----------------------------------------------------


def test_a_leaking_shadow_variable_makes_its_plan_violated(spans: Spans) -> None:
    spans.begin().leak()
    verdicts = spans.judge()
    assert set(violated(verdicts)) == {"S7"}
    checks = rule_checks(tuple(verdicts.values()))
    [leak] = [each for each in checks if each.name == rule_name("S7")]
    assert leak.verdict is Verdict.VIOLATED
    assert "left behind by m" in leak.evidence
    assert overall(each.verdict for each in checks) is Verdict.VIOLATED


def test_the_plan_after_a_leak_is_not_to_blame(spans: Spans) -> None:
    spans.begin().leak()
    spans.begin().trace.enable("q")
    spans.trace.disable("q")
    assert violated(spans.judge()) == {}


def test_a_task_that_switches_twice_makes_its_plan_violated(spans: Spans) -> None:
    spans.begin().trace.begin_enabling("p")
    spans.trace.try_once({3: ("sleeping", "cmdline_proc_show")})
    for _ in range(2):
        spans.trace.wait(10)
        spans.trace.put(ev.Switch, task=task(1), path="exit", patch_state=1)
    with spans.trace.try_all(), spans.trace.completing():
        pass
    assert "T4" in violated(spans.judge())


def test_a_warning_makes_its_plan_violated_and_taints_no_later_one(spans: Spans) -> None:
    spans.begin().trace.put(ev.LoggedLine, text="WARNING: CPU: 0 PID: 1 at x", expected=None)
    spans.taint("OWK")
    assert set(violated(spans.judge())) == {"L6"}
    spans.begin().trace.put(ev.LoggedLine, text="livepatch: enabling patch 'q'", expected=None)
    spans.taint("OWK")
    assert spans.judge()["L6"].verdict is Verdict.HELD
    spans.begin().taint("OWKD")
    assert violated(spans.judge()) == {"L6": "taint OWKD"}


# --- what must be known of what came before -----------------------------------------------------------


def test_what_the_probes_cannot_see_is_known_in_every_span(spans: Spans) -> None:
    spans.begin().trace.enable("p")
    spans.trace.disable("p")
    assert spans.judge()["T4"].verdict is Verdict.HELD
    blind = spans.judge(knowing=False)
    assert blind["T4"].verdict is Verdict.NOT_OBSERVED
    assert blind["T4"].why == "klptransition was not running"


def test_counts_that_go_on_from_span_to_span_are_no_hole(spans: Spans) -> None:
    def totals(made: int) -> None:
        spans.trace.put(ev.ShadowTotals, made=made, found=0, exists=0, failed=0, freed=made)
        spans.trace.put(ev.ShadowGets, id=1, found=made, absent=0, racing=0, wrong=0, unknown=0)

    spans.begin()
    for variable in ("0xffff888000001000", "0xffff888000002000"):
        shadow(spans.trace, variable)
    totals(2)
    first = spans.judge()
    assert (first["S7"].verdict, first["S7"].observations) == (Verdict.HELD, 2)
    spans.begin()
    shadow(spans.trace, "0xffff888000003000")
    totals(3)
    second = spans.judge()
    assert (second["S7"].verdict, second["S7"].observations) == (Verdict.HELD, 1)
    assert second["S2"].observations == 1
    spans.begin()
    totals(5)
    third = spans.judge()
    assert "klpshadow counted 4 variables" in third["S7"].why


@pytest.mark.parametrize(("made_before", "good"), [(True, True), (False, False)])
def test_a_variable_that_is_older_than_the_span_may_be_freed_in_it(
    spans: Spans, made_before: bool, good: bool
) -> None:
    trace = spans.begin().trace
    trace.wait(1 if made_before else 30)
    trace.put(ev.ShadowFreed, obj="0xa", id=1, variable="0x10", age_ns=20_000_000, dtor=False, dtor_calls=0)
    assert ("S7" not in violated(spans.judge())) is good


# --- as real kernels did ------------------------------------------------------------------------------


def spans_of(file: Path) -> Iterator[tuple[str, Numbered, Numbered]]:
    """Yield name, span and what came before of each plan that a recorded run has."""
    numbered = sorted(read_events(file), key=lambda each: each[0])
    begun = 0
    for number, event in numbered:
        if isinstance(event, ev.Plan) and event.moment == "begin":
            begun = number - 1
        elif isinstance(event, ev.Plan):
            span = sorted(numbered[begun:number], key=lambda each: each[1].ts_ns)
            yield event.name, span, numbered[:begun]


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.2"])
def test_the_plans_of_a_recorded_run_show_what_the_run_shows(kernel: str, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(gzip.decompress((RECORDINGS / f"samples-{kernel}.jsonl.gz").read_bytes()))
    whole = {each.rule.id: each for each in judge_all(history(read_events(file)))}
    plans = {name: judged(span, before) for name, span, before in spans_of(file)}
    assert len(plans) == 8
    assert [violated(verdicts) for verdicts in plans.values()] == [{}] * len(plans)
    held = {
        rule
        for verdicts in plans.values()
        for rule, each in verdicts.items()
        if each.verdict is Verdict.HELD
    }
    assert held | {"T14"} >= {rule for rule, each in whole.items() if each.verdict is Verdict.HELD}
    assert {verdicts["L6"].verdict for verdicts in plans.values()} == {Verdict.HELD}


def test_the_rule_that_compares_whole_runs_is_judged_of_no_plan(spans: Spans) -> None:
    spans.begin().trace.enable("p")
    assert RULES.keys() - spans.judge().keys() == {"T14"}
