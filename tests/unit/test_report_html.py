# SPDX-License-Identifier: Apache-2.0
"""What the report page is made of, without a browser."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from html import unescape

import msgspec
import pytest

from klp.analysis.calls import FunctionCalls, TaskCalls
from klp.analysis.checked import ScenarioOutcome
from klp.analysis.costs import attempt_costs
from klp.analysis.curve import tasks_left
from klp.analysis.evidence import Verdict
from klp.analysis.history import history
from klp.analysis.recording import RecordedCheck, RecordedRun, guest_trace
from klp.report import html_data
from klp.report.against import SinceBase
from klp.report.comparison import closing, difference_cells
from klp.report.html import report_page
from klp.report.html_check import check_view
from klp.report.html_data import MOST_BARS, MOST_FIGURES, counted_reasons, run_view, seconds
from klp.trace import events as ev
from tests.unit.comparisons import check_of, compared, outcome
from tests.unit.runfolders import PATCH, result_of, sample
from tests.unit.traces import Trace


def shown(trace: Trace, name: str = "a run", pending: str = "", **changes: object) -> RecordedRun:
    guest = guest_trace(name, trace.numbered())
    return RecordedRun(name, "", result_of(trace, **changes), guests=(guest,), pending=pending)


def figures(text: str) -> dict[str, dict[str, object]]:
    found = re.search(r'id="figures">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])


def attempts_of(numbered: Iterable[tuple[int, ev.AnyEvent]]) -> list[ev.Attempt]:
    return [each for _, each in numbered if isinstance(each, ev.Attempt)]


def test_tasks_left_fall_at_each_switch() -> None:
    leg = history(sample().numbered()).legs[0]
    points = tasks_left(leg)
    assert points[0][1] == len(leg.tasks) == 8
    assert [left for _, left in points[-3:]] == [2, 1, 0]
    assert points[-2][0] == next(each.at_ns for each in leg.tasks if each.pid == 2)
    assert [ts for ts, _ in points] == sorted({ts for ts, _ in points})


def test_a_task_born_switched_is_none_to_wait_for_and_one_left_pending_stays() -> None:
    trace = Trace()
    trace.begin_enabling(PATCH)
    trace.try_once({3: ("running", None), 2: ("running", None)})
    for pid, state in ((50, 1), (51, 0)):
        trace.put(
            ev.Fork, child=ev.Task(pid=pid, tgid=pid, comm="new"), child_state=state,
            child_pending=not state, parent=ev.Task(pid=1, tgid=1, comm="task1"), parent_state=1,
            parent_pending=False,
        )  # fmt: skip
    trace.switch(2)
    points = tasks_left(history(trace.numbered()).legs[0])
    assert (points[0][1], points[-1][1]) == (5, 2)


def test_costs_are_binned_by_powers_of_two() -> None:
    trace = Trace()
    trace.begin_enabling(PATCH)
    for duration in (0, 1, 2, 3, 1023, 1024, 2047):
        trace.put(
            ev.Attempt, task=ev.Task(pid=9, tgid=9, comm="t"), result="running", errno=-16, function=None,
            patch_state=0, after=0, duration_ns=duration,
        )  # fmt: skip
    numbered = trace.numbered()
    costs = attempt_costs(history(numbered).legs[0], attempts_of(numbered))
    assert [(each.low_ns, each.count) for each in costs] == [(1, 2), (2, 2), (512, 1), (1024, 2)]


def test_attempts_are_counted_in_their_own_transition_only() -> None:
    numbered = sample().numbered()
    legs = history(numbered).legs
    told = [sum(each.count for each in attempt_costs(leg, attempts_of(numbered))) for leg in legs]
    assert told == [8 + 1 + 1, 8]


def test_a_figure_shows_no_more_bars_than_can_be_drawn() -> None:
    [plan] = run_view("run1", shown(sample(tasks=MOST_BARS + 50))).plans
    figure = plan.transitions[0].figure
    assert figure
    assert (len(figure.tasks), figure.seen) == (MOST_BARS, MOST_BARS + 54)
    assert figure.tasks[0].label == "task3[3]"
    text = report_page([shown(sample(tasks=MOST_BARS + 50))])
    assert f"Drawn are the {MOST_BARS} of {MOST_BARS + 54} tasks" in text


def test_nothing_of_a_run_can_end_the_script_it_stands_in() -> None:
    trace = sample()
    evil = "</script><script>alert(1)</script>"
    trace.put(ev.ShadowFreed, obj=evil, id=1, variable="0x1", age_ns=None, dtor=False, dtor_calls=0)
    text = report_page([shown(trace, evil, pending=evil)])
    assert "<script>alert" not in text
    assert evil in json.dumps(figures(text))
    assert evil in unescape(re.sub(r"<script.*", "", text, flags=re.S))


def test_a_transition_that_the_trace_lacks_is_told_without_a_figure() -> None:
    whole = shown(sample())
    bare = RecordedRun("bare", "", whole.result)
    text = report_page([bare])
    assert text.count("The trace does not hold this transition.") == 2
    assert figures(text) == {}


def test_a_transition_of_no_plan_is_shown_beside_them() -> None:
    whole = shown(sample(), plans=())
    assert [each.transition.patch for each in run_view("run1", whole).others] == [PATCH, PATCH]
    assert "2 transitions of livepatches that a plan needs" in report_page([whole])
    assert run_view("run1", shown(sample())).others == ()


def test_a_run_that_ended_early_says_why() -> None:
    text = report_page([shown(sample(), error="the guest panicked: <oops>", plans=())])
    assert "the guest panicked: &lt;oops&gt;" in text


def test_stacks_of_who_held_a_transition_are_in_it() -> None:
    assert "[<0>] schedule+0x1/0x2" in unescape(
        report_page([shown(sample(), pending="[<0>] schedule+0x1/0x2")])
    )


def test_a_task_born_switched_is_drawn_as_a_moment() -> None:
    trace = Trace()
    trace.begin_enabling(PATCH)
    trace.put(
        ev.Fork, child=ev.Task(pid=50, tgid=50, comm="new"), child_state=1, child_pending=False,
        parent=ev.Task(pid=1, tgid=1, comm="task1"), parent_state=1, parent_pending=False,
    )  # fmt: skip
    trace.try_once()
    [plan] = run_view("run1", shown(trace)).plans
    figure = plan.transitions[0].figure
    assert figure
    [born] = [bar for bar in figure.tasks if bar.kind == "fork"]
    assert born.begin_s == born.end_s > 0
    assert figure.tasks[-1] == born  # it waited for nothing, so it stands below those that did


def test_what_became_worse_since_the_base() -> None:
    old, new = shown(sample(hold=False), "old"), shown(sample(), "new")
    found = compared(old, new)
    text = unescape(report_page([new], [SinceBase("new", "old", found)]))
    assert "new beside old" in text
    for each in found.findings:
        assert f'class="finding {each.grade}"' in text
        for words in difference_cells(each):
            assert words in text
    assert closing(found) in text
    same = compared(old, old)
    assert "No difference." in report_page([old], [SinceBase("old", "base", same)])
    nothing = msgspec.structs.replace(same, compared=(), notes=("x", "y"))
    assert "Nothing is in both: x; y." in report_page([old], [SinceBase("old", "base", nothing)])


def test_repetitions_of_a_plan_share_a_row() -> None:
    whole = shown(sample())
    [plan] = whole.result.plans
    plans = [msgspec.structs.replace(plan, repetition=number) for number in (1, 2, 3)]
    plans[0] = msgspec.structs.replace(plans[0], verdict=Verdict.HELD)
    again = dataclasses.replace(
        whole, name="again", result=msgspec.structs.replace(whole.result, plans=tuple(plans))
    )
    text = report_page([again])
    assert (
        '<a href="#run1-plan2"><span class="verdict violated">violated</span></a> <small>2/3</small>'
        in text
    )
    assert "livepatch-sample, repetition 3" in text


def test_a_transition_is_drawn_from_its_own_guest() -> None:
    first, second = sample(tasks=4), sample(tasks=30)
    guests = (*shown(first).guests, *shown(second).guests)
    [plan] = shown(second).result.plans
    result = msgspec.structs.replace(
        shown(second).result, plans=(msgspec.structs.replace(plan, guest=2, repetition=2),)
    )
    [drawn] = run_view("run1", RecordedRun("two", "", result, guests=guests)).plans
    assert drawn.transitions[0].figure
    assert drawn.transitions[0].figure.seen == 34


def test_of_many_transitions_those_are_drawn_that_took_longest() -> None:
    whole = shown(sample())
    [plan] = whole.result.plans
    many = tuple(
        msgspec.structs.replace(each, ended_ns=each.begun_ns + number)
        for number, each in enumerate(plan.transitions * 20)
    )
    result = msgspec.structs.replace(whole.result, plans=(msgspec.structs.replace(plan, transitions=many),))
    [told] = run_view("run1", RecordedRun("many", "", result, guests=whole.guests)).plans
    drawn = [each.transition.duration_ns for each in told.transitions if each.figure]
    assert drawn == list(range(40 - MOST_FIGURES, 40))
    text = report_page([RecordedRun("many", "", result, guests=whole.guests)])
    assert text.count(f"Drawn are the {MOST_FIGURES} of 40 transitions") == 40 - MOST_FIGURES


def checked(*outcomes: ScenarioOutcome, **changes: object) -> RecordedCheck:
    """A check, with the same run for each scenario that has a folder."""
    runs = {each.folder: shown(sample(), each.folder) for each in outcomes if each.folder}
    return RecordedCheck("a-check", "", check_of(*outcomes, **changes), runs=runs)


def test_a_check_is_a_matrix_and_a_section_for_each_cell() -> None:
    bad = outcome(
        "life", Verdict.VIOLATED, kernel="7.2", folder="7.2/fix/life", reasons=("<b>held</b> up",)
    )
    check = checked(
        outcome("build", folder=""), outcome("life"), bad, outcome("again", Verdict.NOT_OBSERVED)
    )
    text = report_page([check])
    for one in check.result.outcomes:
        key = f"check1-{one.kernel}-fix-{one.scenario}-1"
        assert f'<article id="{key}"' in text
        assert f'<a href="#{key}">' in text
        assert unescape(text).count(one.command) >= 1
    assert "<li>&lt;b&gt;held&lt;/b&gt; up</li>" in text
    assert len(figures(text)) == 3 * 3  # two transitions and the shadow variables of each run
    assert text.count("<td>\N{EN DASH}</td>") == 2  # what was not run on 7.2


def test_repetitions_of_a_scenario_share_a_cell() -> None:
    verdicts = (Verdict.HELD, Verdict.VIOLATED, Verdict.HELD, Verdict.VIOLATED)
    outcomes = [
        outcome("life", each, repetition=number, folder=f"6.12/fix/life.{number}", lost=number == 2)
        for number, each in enumerate(verdicts, 1)
    ]
    [matrix] = check_view("check1", checked(*outcomes)).matrices
    [(_, [cell])] = matrix.rows
    assert (cell.verdict, cell.same, cell.of, cell.lost, cell.seconds) == (
        Verdict.VIOLATED,
        2,
        4,
        True,
        6.0,
    )
    assert cell.key == "check1-6.12-fix-life-2"


def test_a_check_that_is_not_complete_says_so() -> None:
    text = report_page([checked(outcome("life"), complete=False, error="interrupted")])
    assert "The check is not complete: interrupted." in text
    assert "The check ended early: interrupted" in text


def test_a_kernel_that_is_a_folder_makes_an_anchor() -> None:
    tree = outcome("life", kernel="/home/me/linux tree", folder="")
    text = report_page([checked(tree)])
    key = "check1-_home_me_linux_tree-fix-life-1"
    assert f'id="{key}"' in text
    assert f'href="#{key}"' in text


@pytest.mark.parametrize(
    ("ns", "told"), [(None, "not ended"), (2_000_400_000, "2.000"), (70_000, "0.000070"), (0, "0.000000")]
)
def test_seconds(ns: int | None, told: str) -> None:
    assert seconds(ns) == told


def test_reasons() -> None:
    assert counted_reasons({"running on a CPU": 1, "sleeping in f": 3}) == (
        "running on a CPU (1 time), sleeping in f (3 times)"
    )
    assert html_data.PENDING == "left pending"


def test_a_check_says_its_own_verdict_first_with_the_calls_it_rests_on() -> None:
    ran = FunctionCalls(
        object="vmlinux", old="show", new="livepatch_<show>",
        tasks=(TaskCalls(task="<cat>", pid=7, calls=1_240),),
    )  # fmt: skip
    idle = FunctionCalls(object="gone", old="f", new="livepatch_f", uncounted="its object is not loaded")
    check = checked(outcome("life", calls=(ran, idle)), outcome("cycles", Verdict.HELD, calls=(ran,)))
    text = report_page([check])
    head = text[text.index('id="check1-verdict"') : text.index('class="matrix"')]
    assert '<span class="verdict not-observed">not observed</span>' in head
    for line in check.result.headlines:
        assert f"<li>{line}</li>" in unescape(head)
    cells = re.findall(r'data-number="(\w+)">([^<]*)<', head)
    assert cells == [("calls", "2,480"), ("tasks", "2"), ("calls", "0"), ("tasks", "0")]
    assert "<cat> 2,480" in unescape(head)
    assert "livepatch_<show>" in unescape(head)
    assert "never ran</span>: its object is not loaded" in head


def test_a_lost_guest_is_told_before_all_else() -> None:
    text = report_page([checked(outcome("life", Verdict.NOT_OBSERVED, lost=True, reasons=("killed",)))])
    badge = '<span class="verdict not-observed">guest lost</span>'
    assert badge in text[: text.index("<form")]
    assert text.index("<li>guest lost: life on 6.12: killed</li>") < text.index('class="matrix"')
    assert '<p class="error">Guest lost.</p>' in text
    died = report_page([checked(outcome("life", Verdict.VIOLATED, lost=True, reasons=("died",)))])
    assert '<span class="verdict violated">guest lost, violated</span>' in died
