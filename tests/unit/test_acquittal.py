# SPDX-License-Identifier: Apache-2.0
"""A check's own verdict: held only where everything was seen, and otherwise the headlines say why not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from io import StringIO
from itertools import product
from pathlib import Path
from xml.etree import ElementTree as Et

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from klp.analysis.acquittal import judged
from klp.analysis.calls import FunctionCalls, TaskCalls
from klp.analysis.checked import COULD_NOT_BE_TRIED, NOT_TRIED, CheckResult, ScenarioOutcome
from klp.analysis.compare.values import Kind
from klp.analysis.evidence import Verdict
from klp.analysis.exercised import exercised
from klp.analysis.recording import RecordedCheck
from klp.cli.check import exit_of
from klp.cli.main import klp
from klp.drive.ending import ended_verdict
from klp.records.encoding import decode_check, encode
from klp.report.check_junit import EVERY_FUNCTION, check_junit
from klp.report.check_table import check_closing, check_problems, check_table, check_totals
from klp.report.runs import brief, runs_table
from tests.unit.comparisons import check_of, compared, outcome
from tests.unit.runfolders import result_of, sample, write_run

HELD, VIOLATED, UNSEEN = Verdict.HELD, Verdict.VIOLATED, Verdict.NOT_OBSERVED


def calls(new: str, *tasks: tuple[str, int, int], **changes: object) -> FunctionCalls:
    own = tuple(TaskCalls(task=task, pid=pid, calls=count) for task, pid, count in tasks)
    whole = FunctionCalls(object="vmlinux", old=new.removeprefix("livepatch_"), new=new, tasks=own)
    return msgspec.structs.replace(whole, **changes)


RAN = (calls("livepatch_show", ("cat", 7, 3)),)
IDLE = (calls("livepatch_show"),)
HIDDEN = (calls("livepatch_show", uncounted="its object gone was never loaded"),)


def life(verdict: Verdict = HELD, *reasons: str, **changes: object) -> ScenarioOutcome:
    return outcome("life", verdict, **{"reasons": reasons, "calls": RAN, **changes})


def printed(result: CheckResult) -> list[str]:
    console = Console(width=120, record=True, file=StringIO())
    console.print(check_table(result))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_calls_of_all_scenarios_are_put_together() -> None:
    found = exercised("6.12", "fix", [
        ("life", (calls("f", ("cat", 7, 2), ("sh", 8, 1)), calls("g"))),
        ("cycles", (calls("f", ("cat", 7, 1_235), dropped=2), calls("g", ("cat", 7, 4)))),
        ("under-load", (calls("f"), calls("g", uncounted="its text is gone"), calls("h", uncounted="why"))),
    ])  # fmt: skip
    f, g, h = found.functions
    assert (f.calls, f.tasks, f.callers, f.scenarios) == (
        1_240, 3, {"cat": 1_237, "sh": 1}, ("life", "cycles")
    )  # fmt: skip
    assert (g.calls, g.tasks, g.scenarios, g.why_not) == (4, 1, ("cycles",), "")
    assert (h.calls, h.why_not) == (0, "why")
    # The cat of one guest called both f and g there: it is one task, and that of another guest another.
    assert found.told() == "exercised 2 of 3 functions, 1,244 calls by 3 tasks (why)"
    assert found.never_ran == (h,)
    assert not found.seen


def test_all_that_ran_in_all_scenarios_is_held() -> None:
    found = check_of(outcome("build", folder=""), life())
    assert (found.verdict, found.headlines) == (HELD, ("exercised 1 of 1 function, 3 calls by 1 task",))
    assert check_closing(found) == "held: exercised 1 of 1 function, 3 calls by 1 task"


@pytest.mark.parametrize(
    ("own", "headline"),
    [
        (IDLE, "livepatch_show never ran on 6.12: nothing is known of what it does"),
        (HIDDEN, "livepatch_show never ran on 6.12: nothing is known of what it does "
                 "(its object gone was never loaded)"),
        ((calls("", old="show", uncounted="its name is not known"),), "the new show never ran on 6.12: "),
        ((), "no new function of fix was seen to run on 6.12: nothing is known of what it does"),
        ((*RAN, *(calls("livepatch_other"),)), "livepatch_other never ran on 6.12: nothing is known of"),
    ],
)  # fmt: skip
def test_what_never_ran_is_not_acquitted(own: tuple[FunctionCalls, ...], headline: str) -> None:
    found = check_of(life(calls=own), outcome("cycles", calls=own))
    assert found.verdict is UNSEEN
    assert found.headlines[0].startswith(headline)
    assert printed(found)[0] == "not observed"
    assert printed(found)[1].strip().startswith(headline[:60])
    assert check_closing(found) == f"not observed: {found.headlines[0]}"


def test_it_has_to_run_on_each_kernel_and_in_any_scenario() -> None:
    other = {"kernel": "7.2", "folder": "7.2/fix/life"}
    found = check_of(life(), life(calls=IDLE, **other))
    assert found.verdict is UNSEEN
    assert found.headlines == (
        "livepatch_show never ran on 7.2: nothing is known of what it does",
        "on 6.12: exercised 1 of 1 function, 3 calls by 1 task",
        "on 7.2: exercised 0 of 1 function",
    )
    again = outcome("cycles", calls=RAN, kernel="7.2", folder="7.2/fix/cycles")
    assert check_of(life(), life(calls=IDLE, **other), again).verdict is HELD
    both = check_of(life(calls=IDLE), life(calls=IDLE, **other))
    assert both.headlines[0] == "livepatch_show never ran on 6.12, 7.2: nothing is known of what it does"


def test_a_livepatch_that_changes_no_function_needs_no_calls() -> None:
    found = check_of(life(calls=(), callbacks_only=True))
    assert (found.verdict, found.headlines) == (HELD, ("changes no function: it has callbacks alone",))


def test_a_lost_guest_is_told_first_whatever_else_there_is() -> None:
    gone = outcome("cycles", UNSEEN, reasons=("QEMU was killed",), lost=True)
    found = check_of(life(), gone)
    assert (found.verdict, found.words) == (UNSEEN, "guest lost")
    assert found.headlines[0] == "guest lost: cycles on 6.12: QEMU was killed"
    assert printed(found)[:2] == ["guest lost", "  guest lost: cycles on 6.12: QEMU was killed"]
    assert check_closing(found) == "guest lost: cycles on 6.12: QEMU was killed"
    assert check_totals(found) == "1 guest lost: 1 held, 0 violated, 1 not observed"
    [(_, text)] = check_problems(found, "/runs")
    assert text.startswith("fix cycles on 6.12: guest lost\n  QEMU was killed\n  again: ")
    worse = check_of(life(VIOLATED, "it leaks"), gone)
    assert (worse.verdict, worse.words) == (VIOLATED, "guest lost, violated")
    assert worse.headlines[:2] == (
        "guest lost: cycles on 6.12: QEMU was killed", "1 scenario found a fault: life on 6.12"
    )  # fmt: skip
    # It says nothing of whether the livepatch is for that kernel.
    [ran] = check_of(life(UNSEEN, "gone", lost=True)).exercised
    assert ran.applies
    # As it would be if a scenario had held before its guest went.
    assert check_of(life(lost=True)).verdict is UNSEEN


def test_scenarios_that_do_not_apply_are_no_shortcoming_and_those_not_tried_are() -> None:
    alone = outcome("target-absent", UNSEEN, reasons=("it changes nothing but vmlinux",), calls=RAN)
    assert check_of(life(), alone).verdict is HELD
    for reason in (f"{COULD_NOT_BE_TRIED}no compiler", f"{NOT_TRIED}its transition does not end"):
        found = check_of(life(), msgspec.structs.replace(alone, reasons=(reason,)), alone)
        assert found.verdict is UNSEEN
        assert found.headlines[0] == f"target-absent on 6.12: {reason}"
    assert check_of(life(), msgspec.structs.replace(alone, reasons=())).verdict is UNSEEN


def test_a_kernel_that_it_is_not_for_needs_no_calls_but_some_kernel_does() -> None:
    why = "built for 6.12.1, and this kernel is 6.1.9"
    other = {"kernel": "6.1", "folder": "", "reasons": (why,)}
    beside = (outcome("build", kernel="6.1", folder=""), outcome("life", UNSEEN, **other))
    found = check_of(outcome("build", folder=""), life(), *beside)
    assert found.verdict is HELD
    assert f"on 6.1: not tried: {why}" in found.headlines
    assert check_of(*beside).verdict is UNSEEN


def test_a_check_that_is_cut_short_or_tried_nothing_holds_nothing() -> None:
    cut = check_of(life(), complete=False, error="interrupted")
    assert (cut.verdict, cut.headlines[0]) == (UNSEEN, "not complete: interrupted")
    assert check_of(outcome("build", folder="")).verdict is UNSEEN
    assert judged(msgspec.structs.replace(check_of(life()), outcomes=())).verdict is UNSEEN


def test_several_livepatches_are_told_by_name() -> None:
    other = outcome("life", livepatch="other", folder="6.12/other/life", calls=IDLE)
    found = check_of(life(VIOLATED, "it leaks"), other)
    assert found.headlines == (
        "1 scenario found a fault: fix life on 6.12",
        "livepatch_show of other never ran on 6.12: nothing is known of what it does",
        "fix: exercised 1 of 1 function, 3 calls by 1 task",
        "other: exercised 0 of 1 function",
    )


_LIVES = [
    life(verdict, *reasons, lost=lost, calls=own)
    for verdict, reasons, lost, own in product(
        Verdict, ((), ("it is not for it",), (f"{NOT_TRIED}x",)), (False, True), ((), RAN, IDLE, HIDDEN)
    )
    if verdict is not HELD or not reasons
]


def generated() -> Iterator[CheckResult]:
    """Every pair of outcomes of two scenarios; and many larger checks, by a seed."""
    for one, two in product(_LIVES, _LIVES):
        second = msgspec.structs.replace(two, scenario="cycles", folder="6.12/fix/cycles")
        yield check_of(one, second)
    chance = random.Random(16)
    for _ in range(2_000):
        own = [
            msgspec.structs.replace(
                chance.choice(_LIVES), kernel=kernel, livepatch=livepatch, scenario=name
            )
            for kernel, livepatch, name in product(("6.1", "6.12"), ("a", "b"), ("life", "cycles"))
            if chance.random() < 0.9
        ]
        if own:
            yield check_of(*own, complete=chance.random() < 0.8)


def test_held_is_only_what_was_seen() -> None:
    held = 0
    for found in generated():
        pairs = {each.key[:2]: [] for each in found.outcomes}
        for each in found.outcomes:
            pairs[each.key[:2]].append(each)
        if found.verdict is HELD:
            held += 1
            assert found.complete
            assert not any(each.lost for each in found.outcomes)
            assert all(each.verdict is HELD or each.inapplicable for each in found.outcomes)
            for own in pairs.values():
                ran = any(one.calls for each in own for one in each.calls)
                assert ran or all(each.inapplicable for each in own)
            assert any(one.calls for each in found.outcomes for one in each.calls)
        assert (found.verdict is VIOLATED) is any(each.verdict is VIOLATED for each in found.outcomes)
        if found.lost:
            assert found.headlines[0].startswith("guest lost: ")
            assert found.words.startswith("guest lost")
            assert check_closing(found).startswith("guest lost")
        assert decode_check(encode(found)) == found
    assert held > 10


def test_an_earlier_check_json_is_read_and_holds_nothing() -> None:
    found = check_of(life(calls=()))
    fields = msgspec.json.decode(encode(found))
    for name in ("verdict", "headlines", "exercised"):
        del fields[name]
    for each in fields["outcomes"]:
        del each["calls"], each["callbacks_only"]
    earlier = decode_check(msgspec.json.encode({**fields, "schema": 1}))
    assert earlier == found
    assert earlier.verdict is UNSEEN
    assert earlier.headlines[0].startswith("no new function of fix was seen to run")


def test_the_list_of_runs_says_guest_lost() -> None:
    def cell(found: CheckResult) -> str:
        console = Console(width=200, record=True, file=StringIO())
        console.print(runs_table([brief(RecordedCheck("a-check", "", found))]))
        return console.export_text().splitlines()[1].rstrip().split("  ")[-1].strip()

    assert cell(check_of(life())) == "held"
    assert cell(check_of(life(calls=IDLE))) == "not observed"
    assert cell(check_of(life(UNSEEN, "gone", lost=True))) == "guest lost"
    assert cell(check_of(life(VIOLATED, "bad", lost=True))) == "guest lost, violated"


def junit(found: CheckResult, *, strict: bool = False) -> dict[str | None, list[tuple[str, str]]]:
    [suite] = Et.fromstring(check_junit(found, strict=strict))
    return {
        case.get("name"): [(each.tag, each.get("message") or each.text or "") for each in case]
        for case in suite.iter("testcase")
    }


def test_junit_has_a_case_for_what_ran() -> None:
    told = "exercised 1 of 1 function, 3 calls by 1 task"
    assert junit(check_of(life()))[EVERY_FUNCTION] == [("system-out", told)]
    idle = check_of(life(calls=IDLE), outcome("cycles", UNSEEN, reasons=(f"{COULD_NOT_BE_TRIED}no",)))
    [(tag, words)] = junit(idle)[EVERY_FUNCTION]
    assert (tag, "livepatch_show never ran: nothing is known" in words) == ("skipped", True)
    strictly = junit(idle, strict=True)
    assert strictly[EVERY_FUNCTION] == [("failure", "exercised 0 of 1 function")]
    assert (junit(idle)["cycles"][0][0], strictly["cycles"][0][0]) == ("skipped", "failure")
    gone = check_of(life(UNSEEN, "QEMU was killed", lost=True))
    assert junit(gone)["life"] == [("error", "guest lost: QEMU was killed")]
    inapplicable = outcome("target-absent", UNSEEN, reasons=("vmlinux alone",))
    assert junit(check_of(life(), inapplicable), strict=True)["target-absent"][0][0] == "skipped"


def kinds(base: CheckResult, new: CheckResult) -> list[tuple[str, str, str]]:
    found = compared(RecordedCheck("base", "", base), RecordedCheck("new", "", new))
    return [(each.grade.value, each.place.scenario, each.what) for each in found.findings
            if each.kind is Kind.CALLS]  # fmt: skip


def test_a_function_that_does_not_run_any_more_is_worse() -> None:
    ran, idle = check_of(life()), check_of(life(calls=IDLE))
    what = ("life together", "calls of livepatch_show of vmlinux")
    assert kinds(ran, idle) == [("regression", *what)]
    assert kinds(idle, ran) == [("better", *what)]
    # In which scenario, how often, and a function that the base has not: none of it is worse.
    elsewhere = (outcome("cycles", calls=RAN), life())
    assert kinds(check_of(outcome("cycles"), life()), check_of(*elsewhere)) == []
    assert kinds(ran, check_of(life(calls=(*RAN, calls("livepatch_new"))))) == []
    assert kinds(idle, idle) == []
    # Nor is it that fewer scenarios were tried, or that an earlier klp counted nothing.
    assert kinds(check_of(life(), outcome("cycles")), idle) == []
    assert kinds(check_of(life(calls=())), idle) == []


@pytest.mark.parametrize(
    ("found", "worse", "usual", "strictly"),
    [
        (check_of(life()), False, 0, 0),
        (check_of(life()), True, 1, 1),
        (check_of(life(calls=IDLE)), False, 0, 1),
        (check_of(life(), complete=False), False, 0, 1),
        (check_of(life(VIOLATED, "it leaks")), False, 1, 1),
        (check_of(life(UNSEEN, "gone", lost=True)), False, 3, 3),
        (check_of(life(VIOLATED, "it died", lost=True)), False, 1, 1),
    ],
)
def test_the_exit_code(found: CheckResult, worse: bool, usual: int, strictly: int) -> None:
    assert exit_of(found, worse=worse) == usual
    assert exit_of(found, worse=worse, strict=True) == strictly


@pytest.mark.parametrize(
    ("error", "plans", "verdict"),
    [
        (None, (HELD,), HELD),
        (None, (), UNSEEN),
        ("QEMU was killed", (UNSEEN,), UNSEEN),
        ("the guest is lost: oops", (VIOLATED,), VIOLATED),
        ("the guest is lost: oops", (HELD,), VIOLATED),
        ("it failed", (), VIOLATED),
    ],
)
def test_the_run_of_a_lost_guest_is_never_held(
    error: str | None, plans: tuple[Verdict, ...], verdict: Verdict
) -> None:
    [plan] = result_of(sample()).plans
    own = [msgspec.structs.replace(plan, verdict=each) for each in plans]
    assert ended_verdict(error, own) is verdict


def test_analyze_says_first_that_a_run_ended_early(tmp_path: Path) -> None:
    lost = write_run(tmp_path / "lost", sample(), error="QEMU was killed by signal 9", verdict=UNSEEN)
    shown = CliRunner().invoke(klp, ["analyze", str(lost)], catch_exceptions=False).stdout
    assert shown.startswith("not observed, ended early: QEMU was killed by signal 9\n")
    whole = write_run(tmp_path / "whole", sample())
    assert "ended early" not in CliRunner().invoke(klp, ["analyze", str(whole)]).stdout
