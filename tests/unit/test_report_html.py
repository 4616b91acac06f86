# SPDX-License-Identifier: Apache-2.0
"""What the report page is made of, without a browser."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from html import unescape
from html.parser import HTMLParser

import msgspec

from klp.analysis.calls import FunctionCalls, TaskCalls
from klp.analysis.checked import ScenarioOutcome
from klp.analysis.costs import CostsBuilder
from klp.analysis.curve import tasks_left
from klp.analysis.evidence import Verdict
from klp.analysis.history import history
from klp.analysis.recording import RecordedCheck, RecordedRun, guest_trace
from klp.report.against import SinceBase
from klp.report.comparison import closing, difference_cells
from klp.report.html import report_page
from klp.report.html_check import check_view
from klp.report.html_data import MOST_DRAWN, run_view
from klp.trace import events as ev
from tests.unit.comparisons import check_of, compared, outcome
from tests.unit.runfolders import PATCH, result_of, sample
from tests.unit.traces import Trace


def shown(trace: Trace, name: str = "a run", pending: str = "", **changes: object) -> RecordedRun:
    guest = guest_trace(name, trace.numbered())
    return RecordedRun(name, "", result_of(trace, **changes), guests=(guest,), pending=pending)


def costs_of(numbered: Iterable[tuple[int, ev.AnyEvent]]) -> CostsBuilder:
    costs = CostsBuilder()
    for _, each in numbered:
        if isinstance(each, ev.Attempt):
            costs.take(each)
    return costs


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
    costs = costs_of(numbered).of(history(numbered).legs[0])
    assert [(each.low_ns, each.count) for each in costs] == [(1, 2), (2, 2), (512, 1), (1024, 2)]


def test_attempts_are_counted_in_their_own_transition_only() -> None:
    numbered = sample().numbered()
    legs = history(numbered).legs
    told = [sum(each.count for each in costs_of(numbered).of(leg)) for leg in legs]
    assert told == [8 + 1 + 1, 8]


class _Visible(HTMLParser):
    """Collects the text that a reader meets as the page is opened: nothing that is folded away.

    What the kernel logged is quoted, and no word of the page's own.
    """

    def __init__(self, *, folded: bool) -> None:
        super().__init__()
        self._folded = folded
        self._hidden: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        closed = tag == "details" and "open" not in dict(attrs) and not self._folded
        hidden = closed or tag in ("style", "script", "pre") or self._hidden
        if hidden and tag not in ("meta", "link", "br", "input", "wbr", "path"):
            self._hidden.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._hidden and tag == self._hidden[-1]:
            self._hidden.pop()

    def handle_data(self, data: str) -> None:
        # Of what is folded, the line that unfolds it is seen.
        line = self._hidden.count("details") == 1 and "summary" in self._hidden
        if not self._hidden or line:
            self.text.append(data)


def words_of(page: str, *, folded: bool = False) -> str:
    """Return a page's text as it is read; with what is folded, if that is asked for."""
    reader = _Visible(folded=folded)
    reader.feed(page)
    return re.sub(r"\s+", " ", "".join(reader.text))


def in_order(text: str, *parts: str) -> None:
    places = [text.index(each) for each in parts]
    assert places == sorted(places), dict(zip(parts, places, strict=True))


def busy() -> Trace:
    """A run in which one new function ran, and one did not."""
    return sample(tasks=30)


RAN = FunctionCalls(
    object="vmlinux", old="cmdline_proc_show", new="livepatch_cmdline_proc_show",
    tasks=(TaskCalls(task="cat", pid=300, calls=1_240), TaskCalls(task="sh", pid=301, calls=2)),
)  # fmt: skip
IDLE = FunctionCalls(object="gone", old="f", new="livepatch_f", uncounted="its object is not loaded")


def with_calls(whole: RecordedRun, *calls: FunctionCalls) -> RecordedRun:
    [plan] = whole.whole().plans
    plans = (msgspec.structs.replace(plan, calls=calls),)
    return dataclasses.replace(whole, result=msgspec.structs.replace(whole.whole(), plans=plans))


def test_the_story_of_a_run_comes_first_and_in_order() -> None:
    text = words_of(report_page([with_calls(shown(busy()), RAN, IDLE)]))
    in_order(
        text, "violated", "transitions, longest first", "task by task", "What was exercised",
        "What was left behind", "Details", "patched:",
    )  # fmt: skip
    told = unescape(text)
    assert "task3[3], 2.0" in told.replace("\xa0", " ")
    assert "sleeping in cmdline_proc_show (2 times); switched in a later pass" in told
    assert "1,240" in told
    assert "never ran: its object is not loaded" in told
    assert "livepatch-sample: 1 shadow variable, made by f+0x1 [m]" in told
    assert "Kernel log" not in text  # folded, with all else


def test_what_is_left_of_nothing_is_told_in_a_line() -> None:
    trace = Trace()
    trace.enable(PATCH)
    trace.disable(PATCH)
    text = words_of(report_page([shown(trace.end())]))
    assert "Nothing: all 2 transitions ended." in text
    assert "no task held it up" in text


def test_a_transition_that_did_not_end_is_told_first_and_left_behind() -> None:
    trace = Trace()
    trace.enable("klp_other")
    trace.begin_enabling(PATCH)
    trace.try_once({3: ("sleeping", "f"), 2: ("sleeping", "f")})
    text = words_of(report_page([shown(trace)]))
    in_order(text, "did not end patching livepatch_sample", "patching klp_other")
    assert "2 tasks (task2[2], task3[3])" in text
    assert "did not end: 2 tasks (task2[2], task3[3]) never switched" in text


def test_tasks_that_did_the_same_are_one_row() -> None:
    text = report_page([shown(busy())])
    story = text[: text.index('id="rest"')]
    rows = re.findall(
        r'<li class="lane [^"]*" data-task="[^"]*" data-path="([^"]*)" data-count="(\d+)"', story
    )
    assert rows == [("retry pass", "1"), ("exit", "1"), ("first pass", "32")]
    assert "<strong>32 tasks</strong> switched in the first pass" in story


def test_the_axis_of_a_timeline_stands_above_its_rows() -> None:
    text = report_page([shown(busy())])
    for part in text.split('class="timeline"')[1:]:
        in_order(part, 'class="axis"', 'class="lanes"')


JARGON = (
    "by idle", "by exit", "to twice that", "Path", "plan", "canary", "None", "retry pass", "init ",
    "Provenance", "tcg", "mutex",
)  # fmt: skip


def test_no_word_of_the_page_is_one_that_only_its_authors_know() -> None:
    other = checked(outcome("life", calls=(RAN, IDLE)), outcome("build", folder=""))
    page = report_page([shown(busy()), shown(sample("6.1.192"), "another"), other])
    # The rules speak as the kernel's documentation does.
    page = re.sub(r'<details class="rules".*?</details>', "", page, flags=re.S)
    text = words_of(page, folded=True)
    assert len(text) > 1_000
    found = [each for each in JARGON if re.search(rf"\b{each}", text)]
    assert found == []


def test_nothing_on_a_page_is_empty() -> None:
    bare = Trace()
    bare.put(ev.Plan, name="livepatch-sample", livepatch="", moment="begin")
    [plan] = shown(busy()).whole().plans
    quiet = msgspec.structs.replace(plan, log=(), checks=(), callbacks=(), transitions=())
    pages = [
        report_page([shown(busy())]),
        report_page([shown(busy(), plans=(quiet,), rules=())]),
        report_page([shown(bare.end())]),
        report_page([checked(outcome("build", folder=""))]),
    ]
    void = r"<(section|details|article|ul|ol|dl|table|tbody|pre|p|h\d|li)\b[^>]*>\s*</\1>"
    alone = r"<(section|details)\b[^>]*>\s*<(h\d|summary)\b[^>]*>[^<]*</\2>\s*</\1>"
    for text in pages:
        assert re.findall(void, text) == []
        assert re.findall(alone, text) == []
        # Nor does a heading stand without anything below it.
        assert re.findall(r"</h[34]>\s*(?:</|<h[1-4])", text) == []


def test_numbers_have_as_many_digits_as_tell_something() -> None:
    text = words_of(report_page([with_calls(shown(busy()), RAN)]), folded=True)
    assert re.findall(r"\d\.\d{4,}", text) == []


def test_a_page_asks_for_nothing_and_is_small() -> None:
    text = report_page([shown(busy())])
    assert len(text) < 150_000
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)


def test_a_transition_of_no_plan_is_shown_beside_them() -> None:
    whole = shown(sample(), plans=())
    assert [each.transition.patch for each in run_view("run1", whole).others] == [PATCH, PATCH]
    assert "2 transitions of livepatches that had to be loaded before" in report_page([whole])
    assert run_view("run1", shown(sample())).others == ()


def test_nothing_of_a_run_can_end_the_element_it_stands_in() -> None:
    trace = sample()
    evil = "</script><script>alert(1)</script>"
    trace.put(ev.ShadowFreed, obj=evil, id=1, variable="0x1", age_ns=None, dtor=False, dtor_calls=0)
    text = report_page([shown(trace, evil, pending=evil)])
    assert "<script>alert" not in text
    assert text.count("&lt;/script&gt;&lt;script&gt;alert(1)") >= 3


def test_a_transition_that_the_trace_lacks_is_told_without_a_timeline() -> None:
    whole = shown(sample())
    text = report_page([RecordedRun("bare", "", whole.result)])
    assert text.count("The trace does not hold this transition.") == 2
    assert 'class="timeline"' not in text


def test_a_transition_is_drawn_from_its_own_guest() -> None:
    first, second = sample(tasks=4), sample(tasks=30)
    guests = (*shown(first).guests, *shown(second).guests)
    [plan] = shown(second).result.plans
    result = msgspec.structs.replace(
        shown(second).result, plans=(msgspec.structs.replace(plan, guest=2, repetition=2),)
    )
    [drawn] = run_view("run1", RecordedRun("two", "", result, guests=guests)).plans
    assert drawn.transitions[0].timeline
    assert sum(each.count for each in drawn.transitions[0].timeline.lanes) == 34


def test_of_many_transitions_those_are_drawn_that_took_longest() -> None:
    whole = shown(sample())
    [plan] = whole.result.plans
    many = tuple(
        msgspec.structs.replace(each, ended_ns=each.begun_ns + number)
        for number, each in enumerate(plan.transitions * 20)
    )
    result = msgspec.structs.replace(whole.result, plans=(msgspec.structs.replace(plan, transitions=many),))
    [told] = run_view("run1", RecordedRun("many", "", result, guests=whole.guests)).plans
    drawn = [each.transition.duration_ns for each in told.transitions if each.timeline]
    assert drawn == list(range(40 - MOST_DRAWN, 40))
    text = report_page([RecordedRun("many", "", result, guests=whole.guests)])
    assert text.count(f"Drawn are the {MOST_DRAWN} of 40 transitions") == 40 - MOST_DRAWN


def test_a_run_that_ended_early_says_why() -> None:
    text = report_page([shown(sample(), error="the guest panicked: <oops>", plans=())])
    assert "the guest panicked: &lt;oops&gt;" in text


def test_stacks_of_who_held_a_transition_are_in_it() -> None:
    assert "[<0>] schedule+0x1/0x2" in unescape(
        report_page([shown(sample(), pending="[<0>] schedule+0x1/0x2")])
    )


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
    badge = '<span class="verdict violated">violated</span>'
    assert f'<a href="#run1-plan2">{badge}</a> <small class="share">2/3</small>' in text
    assert "livepatch-sample, repetition 3" in text


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
        unfolded = " open" if one.verdict is Verdict.VIOLATED else ""
        [found] = re.findall(rf'<details class="card outcome" id="{re.escape(key)}"[^>]*>', text)
        assert found.endswith(f'"{unfolded}>')
        assert f'<a href="#{key}">' in text
        assert unescape(text).count(one.command) >= 1
    assert "<li>&lt;b&gt;held&lt;/b&gt; up</li>" in text
    assert text.count("<td>\N{EN DASH}</td>") == 2  # what was not run on 7.2


def test_a_check_leads_with_the_first_faults_reason_and_the_matrix() -> None:
    bad = outcome("life", Verdict.VIOLATED, reasons=("held up 2.0 s by task3[3]", "see `build`"))
    page = report_page([checked(outcome("build", folder=""), bad)])
    assert '<a href="#check1-6.12-fix-life-1"><strong>fix, life on 6.12</strong></a>' in page
    assert "<li>see <code>build</code></li>" in page
    text = words_of(page)
    in_order(
        text, "a-check: violated", "fix, life on 6.12: held up 2.0 s by task3[3]", "scenario", "build",
        "1 scenario found a fault", "transitions", "Details",
    )  # fmt: skip
    assert "found a fault" not in text[: text.index("build")]


def test_a_check_that_is_not_complete_says_so() -> None:
    text = report_page([checked(outcome("life"), complete=False, error="interrupted")])
    assert "ended early" not in text
    assert "The check is not complete: interrupted." in text


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


def test_a_kernel_that_is_a_folder_makes_an_anchor() -> None:
    tree = outcome("life", kernel="/home/me/linux tree", folder="")
    text = report_page([checked(tree)])
    key = "check1-_home_me_linux_tree-fix-life-1"
    assert f'id="{key}"' in text
    assert f'href="#{key}"' in text


def test_a_check_says_its_own_verdict_first_with_the_calls_it_rests_on() -> None:
    ran = FunctionCalls(
        object="vmlinux", old="show", new="livepatch_<show>",
        tasks=(TaskCalls(task="<cat>", pid=7, calls=1_240),),
    )  # fmt: skip
    check = checked(outcome("life", calls=(ran, IDLE)), outcome("cycles", Verdict.HELD, calls=(ran,)))
    text = report_page([check])
    head = text[text.index('id="check1-verdict"') : text.index('id="rest"')]
    assert '<span class="verdict not-observed">not observed</span>' in head
    for line in check.result.headlines:
        assert f"<li>{line}</li>" in unescape(head)
    assert re.findall(r'data-number="calls">([^<]*)<', head) == ["2,480", "0"]
    assert re.findall(r'data-number="tasks">([^<]*)<', head)[-1] == "2 tasks"
    read = words_of(text)
    assert "<cat> 2,480" in read
    assert "livepatch_<show>" in read
    assert "never ran: its object is not loaded" in read


def test_a_lost_guest_is_told_before_all_else() -> None:
    text = report_page([checked(outcome("life", Verdict.NOT_OBSERVED, lost=True, reasons=("killed",)))])
    badge = '<span class="verdict not-observed">guest lost</span>'
    assert badge in text[: text.index('class="matrix"')]
    in_order(
        words_of(text), "life on 6.12: guest lost: killed", "scenario", "guest lost: life on 6.12: killed"
    )
    assert '<p class="error">Guest lost.</p>' in text
    died = report_page([checked(outcome("life", Verdict.VIOLATED, lost=True, reasons=("died",)))])
    assert '<span class="verdict violated">guest lost, violated</span>' in died
