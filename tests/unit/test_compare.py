# SPDX-License-Identifier: Apache-2.0
"""What became worse is found, kind by kind; what is equal or better is no regression."""

from __future__ import annotations

import msgspec
import pytest

from klp.analysis.compare.normal import message, task_name
from klp.analysis.compare.repetition import repetitions
from klp.analysis.compare.values import COMPARISON_SCHEMA, Grade, Kind, Place
from klp.analysis.evidence import Verdict
from klp.analysis.plan_checks import SURVIVES
from klp.analysis.recording import RecordedRun
from klp.analysis.result import Check
from klp.analysis.rules.rule import Needs, Rule, RuleVerdict
from klp.klog.lines import without_stamp
from klp.trace import events as ev
from tests.unit.comparisons import (
    HELD,
    RUNNING,
    bare_run,
    check_of,
    check_run,
    compared,
    life,
    often,
    only,
    outcome,
    regressions,
    run_of,
    swap_callbacks,
    told,
    with_plans,
    with_results,
)
from tests.unit.everything import everything
from tests.unit.runfolders import PATCH, sample, shadow
from tests.unit.traces import Trace


def test_a_run_is_not_worse_than_itself() -> None:
    for run in (run_of(sample()), bare_run(everything())):
        found = compared([run] * 6, [run] * 6)
        assert found.findings == ()
        assert [(each.base, each.new) for each in found.compared][-1] == (6, 6)
        assert found.schema == COMPARISON_SCHEMA


# --- stragglers ---------------------------------------------------------------------------------------


def test_a_new_straggler_is_told_with_task_function_and_path() -> None:
    found = often(run_of(life()), run_of(life(HELD), "worse"))
    one = only(found, Kind.STRAGGLER)
    assert one.what == "patching held up by task3 sleeping in cmdline_proc_show"
    assert one.base == "0 of 5"
    assert one.new == "5 of 5: task3[3] for 1.00 s, switched by retry pass"
    assert (one.why, one.runs) == ("significant", ("worse",))


def test_a_straggler_is_a_note_once_and_a_regression_as_a_rate() -> None:
    """Whether a stack can be read, or where a task sleeps just then, is chance."""
    calm = run_of(life())
    for held in (HELD, {3: ("unreliable", None)}):
        once = run_of(life(held))
        assert only(compared([calm] * 5, [calm] * 4 + [once]), Kind.STRAGGLER, Grade.TOLD)
        assert only(compared([calm] * 5, [calm] + [once] * 4), Kind.STRAGGLER).why == "significant"


def test_a_straggler_that_the_base_has_too_is_none_and_neither_is_one_that_went() -> None:
    held = run_of(life(HELD))
    assert regressions(compared(held, held)) == []
    assert regressions(compared(held, run_of(life()))) == []


def test_another_reason_is_new_for_the_same_task() -> None:
    other = run_of(life({3: ("sleeping", "another_show")}))
    one = only(often(run_of(life(HELD)), other), Kind.STRAGGLER)
    assert "another_show" in one.what


def test_one_of_a_kind_stands_for_all_of_it() -> None:
    def named(comm: str) -> Trace:
        trace = life(HELD)
        for number, each in enumerate(trace.events):
            if isinstance(each, ev.Attempt | ev.Switch) and each.task.pid == 3:
                own = msgspec.structs.replace(each.task, comm=comm)
                trace.events[number] = msgspec.structs.replace(each, task=own)
        return trace

    one, other, third = (run_of(named(comm)) for comm in ("kworker/0:1", "kworker/1:12", "kswapd0"))
    assert compared(one, other).findings == ()
    assert "kswapd0" in only(often(one, third), Kind.STRAGGLER).what


def test_a_task_that_happened_to_run_is_told_and_no_regression() -> None:
    calm, ran = run_of(life()), run_of(life(RUNNING))
    for count in (1, 4):
        one = only(compared([calm] * count, [ran] * count), Kind.STRAGGLER, Grade.TOLD)
        assert one.what == "patching held up by task2 running on a CPU"
        few = "too few repetitions for a test"
        assert one.why == ("one against one cannot tell a change from chance" if count == 1 else few)
    assert only(compared([calm] * 5, [calm] * 4 + [ran]), Kind.STRAGGLER, Grade.TOLD)


def test_but_one_that_runs_every_time_is_a_regression() -> None:
    calm, ran = run_of(life()), run_of(life(RUNNING))
    one = only(compared([calm] * 5, [ran] * 5), Kind.STRAGGLER)
    assert one.why == "significant"
    assert one.p == pytest.approx(1 / 252)  # of the ways to choose five of ten
    assert one.effect == 1


def test_a_straggler_that_comes_oftener_needs_a_test() -> None:
    calm, held = run_of(life()), run_of(life(HELD))
    rare, common = [held] + [calm] * 9, [held] * 9 + [calm]
    assert only(compared(rare, common), Kind.STRAGGLER).why == "significant"
    assert regressions(compared(rare, rare[:8] + [held] * 2), Kind.STRAGGLER) == []


# --- passes -----------------------------------------------------------------------------------


def test_more_passes_count_without_a_test_from_two_on() -> None:
    none, one, three = (run_of(life(*[RUNNING] * count)) for count in (0, 1, 3))
    assert only(compared(none, one), Kind.PASSES, Grade.TOLD).new == "2"
    worse = only(compared([none] * 2, [three] * 2), Kind.PASSES)
    assert (worse.what, worse.base, worse.new) == ("patching", "1", "4")
    assert worse.why == "at least 3 more"
    assert regressions(compared([none] * 2, [three] * 2, passes=4), Kind.PASSES) == []
    assert regressions(compared([three] * 2, [none] * 2), Kind.PASSES) == []
    # One of each may have met a task that happened to run, and the other not.
    assert only(compared(none, three), Kind.PASSES, Grade.TOLD).why.startswith("one against one")


def test_one_pass_more_every_time_is_significant() -> None:
    none, one = run_of(life()), run_of(life(RUNNING))
    found = only(compared([none] * 5, [one] * 5), Kind.PASSES)
    assert (found.why, found.effect) == ("significant", 1)
    assert found.p
    assert found.p_adjusted
    assert found.p <= found.p_adjusted < 0.05
    assert regressions(compared([none] * 5, [none] * 3 + [one] * 2), Kind.PASSES) == []


def test_a_small_effect_is_told_however_sure_it_is() -> None:
    none, one = run_of(life()), run_of(life(RUNNING))
    base, new = [none] * 20 + [one] * 20, [none] * 10 + [one] * 30
    found = only(compared(base, new), Kind.PASSES, Grade.TOLD)
    assert (found.why, found.effect) == ("too small an effect", pytest.approx(0.25))
    assert only(compared(base, new, effect=0.2), Kind.PASSES)


# --- outcome, early end, verdicts ---------------------------------------------------------------------


def unfinished() -> Trace:
    trace = Trace()
    trace.begin_enabling(PATCH)
    trace.try_once(HELD)
    return trace


@pytest.mark.parametrize("part", ["unfinished", "took signals", "forced", "reversed"])
def test_a_transition_that_ended_worse(part: str) -> None:
    def signalled(trace: Trace) -> None:
        trace.put(ev.Signals, patch=PATCH, core=trace.core)

    def reverse(trace: Trace) -> None:
        trace.put(ev.Reverse, patch=PATCH, target=0, core=trace.core)
        trace.set_core(target_state=0)
        trace.start()

    def force(trace: Trace) -> None:
        trace.put(ev.Force, patch=PATCH, core=trace.core)

    traces = {
        "unfinished": unfinished(), "took signals": life(before=signalled),
        "forced": life(before=force), "reversed": life(before=reverse),
    }  # fmt: skip
    worse = run_of(traces[part])
    found = regressions(often(run_of(life()), worse), Kind.OUTCOME)
    assert f"patching {part}" in [each.what for each in found]
    assert regressions(compared(worse, worse)) == []
    assert regressions(compared(worse, run_of(life())), Kind.OUTCOME) == []


def test_a_run_that_ended_early() -> None:
    good = run_of(life())
    one = only(compared(good, told(good, error="the guest panicked")), Kind.ENDED_EARLY)
    assert one.new == "1 of 1: the guest panicked"
    assert compared(told(good, error="lost"), good).findings == ()


def checked(verdict: Verdict) -> tuple[Check, ...]:
    return (Check(name="enabled: cat x", verdict=verdict, evidence="says 'y'"),)


def test_verdicts_that_changed() -> None:
    runs = {each: run_of(life(), checks=checked(each), verdict=each) for each in Verdict}
    held, broken, unseen = (runs[each] for each in Verdict)
    found = compared(held, broken)
    assert {each.what for each in regressions(found)} == {"as a whole", "check 'enabled: cat x'"}
    assert "says 'y'" in " ".join(each.new for each in found.findings)
    assert {each.grade for each in compared(broken, held).findings} == {Grade.BETTER}
    assert compared(broken, broken).findings == ()
    assert regressions(compared(unseen, broken))


def test_a_check_that_is_made_only_where_something_failed() -> None:
    failed = run_of(life(), checks=checked(Verdict.VIOLATED))
    assert only(compared(run_of(life(), checks=()), failed), Kind.VERDICT).what == "check 'enabled: cat x'"


def ruled(verdict: Verdict) -> RuleVerdict:
    rule = Rule(id="T4", text="t", source="s", needs=Needs(probes=(), symbols=()))
    return RuleVerdict(rule=rule, verdict=verdict, observations=1, evidence=(), why="task 3 twice")


def test_a_rule_that_is_broken_now() -> None:
    good = told(run_of(life()), rules=(ruled(Verdict.HELD),))
    one = only(compared(good, told(good, rules=(ruled(Verdict.VIOLATED),))), Kind.VERDICT)
    assert (one.what, one.new) == ("rule T4", "1 of 1 violated: task 3 twice")
    assert one.place.plan == ""


@pytest.mark.parametrize(
    ("now", "grade"), [(Verdict.VIOLATED, Grade.REGRESSION), (None, Grade.TOLD), (Verdict.HELD, None)]
)
def test_a_rule_that_a_plan_breaks_now_is_one_of_rules(now: Verdict | None, grade: Grade | None) -> None:
    def with_rule(verdict: Verdict | None) -> RecordedRun:
        own = [Check(name="rule S7", verdict=verdict, evidence="left behind")] if verdict else []
        return run_of(life(), checks=tuple(own))

    found = compared(with_rule(Verdict.HELD), with_rule(now)).findings
    assert [(each.what, each.grade) for each in found] == ([("rule S7", grade)] if grade else [])


def test_the_console_of_a_lost_guest_is_no_kernel_log() -> None:
    survives = Check(name=SURVIVES, verdict=Verdict.VIOLATED, evidence="panicked")
    tail = ("[  9.1]  ? ktime_get+0x3a/0xd0", "[  9.1] RIP: 0010:f+0x1/0x2", "[  9.2] WARNING: x")
    gone = run_of(life(), checks=(survives,), transitions=(), callbacks=(), log=tail, error="panicked")
    found = regressions(compared(run_of(life()), gone))
    assert [(each.kind, each.what) for each in found] == [(Kind.VERDICT, "check 'guest survives'")]
    scenario = outcome("life", Verdict.VIOLATED, lost=True, reasons=("panicked",))
    checks = [with_results("a", check_of(each), {each.folder: gone.result}) for each in (scenario,)]
    good = check_run(check_of(outcome("life")), life=life())
    assert [each.kind for each in regressions(compared(good, checks))] == [Kind.VERDICT]


# --- callbacks, leaks ---------------------------------------------------------------------------------


def test_callbacks_in_another_order() -> None:
    good = run_of(life())
    one = only(compared(good, run_of(swap_callbacks(life()))), Kind.CALLBACKS)
    assert one.what == "callbacks differ from number 1 on"
    assert one.base.startswith("pre-patch of vmlinux, post-patch of vmlinux")
    assert one.new.startswith("1 of 1: post-patch of vmlinux, pre-patch of vmlinux")


def test_callbacks_that_are_missing_and_such_as_are_new() -> None:
    whole = run_of(life())
    fewer = run_of(life(), callbacks=whole.result.plans[0].callbacks[:3])
    assert only(compared(whole, fewer), Kind.CALLBACKS).what == "callbacks differ from number 4 on"
    assert only(compared(fewer, whole), Kind.CALLBACKS, Grade.TOLD)


def test_a_callback_that_is_refused_now() -> None:
    whole = run_of(life())
    first, *rest = whole.result.plans[0].callbacks
    refused = run_of(life(), callbacks=(msgspec.structs.replace(first, result=-16), *rest))
    assert "returned -16" in only(compared(whole, refused), Kind.CALLBACKS).new


def leaking(count: int) -> Trace:
    def leak(trace: Trace) -> None:
        for number in range(count):
            shadow(trace, f"0xffff88800000{number:04x}", freed_after_ms=None)

    return life(before=leak)


def test_a_leak_and_more_of_it() -> None:
    none, one, three = (run_of(leaking(count)) for count in (0, 1, 3))
    found = only(compared(none, one), Kind.LEAK)
    assert (found.what, found.base, found.new) == ("id 1 made by f [m]", "0", "1")
    assert only(compared(one, three), Kind.LEAK).new == "3"
    assert regressions(compared(three, one)) == []
    assert regressions(compared(one, one)) == []
    # Now and then one more, as the base has them, too.
    assert regressions(compared([one, three], [three, one])) == []


# --- the kernel log -----------------------------------------------------------------------------------

WARNING = (
    "[   3.0] ------------[ cut here ]------------",
    "[   3.0] WARNING: CPU: 1 PID: 77 at kernel/livepatch/core.c:123 klp_x+0x10/0x20",
    "[   3.0] Modules linked in: a b",
    "[   3.0] Call Trace:",
    "[   3.0]  klp_y+0x1/0x2",
    "[   3.0] ---[ end trace 0000000000000000 ]---",
)
LINES = ("[   12.1] livepatch: enabling patch 'livepatch_sample'",)


def test_a_new_kernel_message_and_a_report_as_one() -> None:
    good = run_of(life(), log=LINES)
    one = only(often(good, run_of(life(), log=(*LINES, "[ 1.0] fix: cannot get it, -12"))), Kind.MESSAGE)
    assert one.what == "fix: cannot get it, -12"
    found = only(compared([good] * 3, [good] * 2 + [run_of(life(), log=(*LINES, *WARNING))]), Kind.MESSAGE)
    assert found.what == "WARNING: CPU: N PID: N at kernel/livepatch/core.c:N klp_x"
    assert found.new.endswith("WARNING: CPU: 1 PID: 77 at kernel/livepatch/core.c:123 klp_x+0x10/0x20")


def test_a_message_that_comes_now_and_then_is_told() -> None:
    good, chatty = run_of(life(), log=LINES), run_of(life(), log=(*LINES, "[ 1.0] something else"))
    assert only(compared([good] * 3, [good, good, chatty]), Kind.MESSAGE, Grade.TOLD)
    # Where three runs in ten have it, so has one of two new ones and none of the base often enough.
    assert only(compared([good] * 2, [chatty] * 2), Kind.MESSAGE, Grade.TOLD)
    assert regressions(compared([good, chatty], [chatty, chatty])) == []
    assert compared(chatty, good).findings == ()


def test_messages_that_never_count() -> None:
    slow = run_of(life(), log=(*LINES, "[ 1.0] hrtimer: interrupt took 5 ns"))
    assert regressions(often(run_of(life(), log=LINES), slow))
    assert often(run_of(life(), log=LINES), slow, ignore="hrtimer: ").findings == ()


def test_a_report_that_a_test_expects_is_no_message() -> None:
    def warned(expected: str | None) -> Trace:
        def log(trace: Trace) -> None:
            for each in WARNING:
                trace.put(ev.LoggedLine, text=without_stamp(each), expected=expected)

        return life(before=log)

    good = bare_run(life())
    assert only(compared(good, bare_run(warned(None))), Kind.MESSAGE)
    assert compared(good, bare_run(warned("on purpose"))).findings == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[    1.2] a: dummy @ 00000000b94e5ece", "[   99.2] a: dummy @ 000000007dad4ac6"),
        ("[    1.2][  T12] x", "[    1.3][ C0] x"),
        ("cleanup: jiffies = ffffc4c0", "cleanup: jiffies = ffffca60"),
        ("foo[123]: bar", "foo[45]: bar"),
        ("PID: 12 Comm: sh", "PID: 13 Comm: sh"),
        ("took 12.5ms", "took 3ms"),
        ("f+0x12/0x34 [m]", "f+0x56/0x78 [m]"),
        ("kworker/1:2 waits", "kworker/0:11 waits"),
        ("'fix': patching complete", "'fix_v2': patching complete"),
    ],
)
def test_messages_that_are_the_same(one: str, other: str) -> None:
    assert message(one, "fix") == message(other, "fix_v2")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("error -12", "error -16"),
        ("errno=-2", "errno=-22"),
        ("x86_64", "x86_32"),
        ("test1 done", "test2 done"),
        ("'a': patching complete", "'b': patching complete"),
    ],
)
def test_messages_that_are_not(one: str, other: str) -> None:
    assert message(one, "fix") != message(other, "fix")


def test_names_of_tasks() -> None:
    assert task_name("kworker/u4:1") == "kworker/N:N"
    assert task_name("klp_sleep/0") == "klp_sleep/N"
    assert task_name("md5sum") == "md5sum"


# --- what is compared with what -----------------------------------------------------------------------


def of_kernel(kernel: str, *, held: bool = False) -> object:
    run = run_of(life(*[HELD] * held))
    where = msgspec.structs.replace(run.result.provenance, kernel=f"{kernel}.1", kernel_name=kernel)
    return told(run, provenance=where)


def test_kernels_are_compared_by_name_and_single_ones_with_each_other() -> None:
    assert only(often(of_kernel("6.1"), of_kernel("7.2", held=True)), Kind.STRAGGLER).place.kernel == "7.2"
    base = [of_kernel("6.1"), of_kernel("7.2", held=True)]
    found = compared(base * 5, [of_kernel("6.1", held=True), of_kernel("7.2", held=True)] * 5)
    assert only(found, Kind.STRAGGLER).place.kernel == "6.1"
    assert compared(base * 2, [of_kernel("7.2")] * 2).notes == (
        "only in the base: 6.1 the whole trace", "only in the base: 6.1 livepatch-sample",
    )  # fmt: skip


def test_plans_likewise_whatever_their_livepatch_is_called() -> None:
    old, new = run_of(life()), run_of(life(HELD), livepatch="fix_v2", name="fix-v2")
    renamed = tuple(
        msgspec.structs.replace(each, patch="fix_v2") for each in new.result.plans[0].transitions
    )
    new = run_of(life(HELD), livepatch="fix_v2", name="fix-v2", transitions=renamed)
    found = often(old, new)
    assert only(found, Kind.STRAGGLER).what == "patching held up by task3 sleeping in cmdline_proc_show"
    two = with_plans(old, *old.result.plans, *new.result.plans)
    assert "only in the base: 6.12 fix-v2" in compared(two, old).notes


def test_nothing_is_compared_where_no_plan_is_in_both() -> None:
    whole = run_of(life())
    [plan] = whole.result.plans
    a, b, c, d = (msgspec.structs.replace(plan, name=name) for name in "abcd")
    assert compared(with_plans(whole, a, b), with_plans(whole, c, d)).compared == ()
    assert len(compared(with_plans(whole, a, b), with_plans(whole, b, d)).compared) == 2


def test_tests_are_known_by_their_names() -> None:
    assert [each.place.plan for each in repetitions(bare_run(sample()))] == ["livepatch-sample"]


def test_scenarios_of_a_check_are_compared_one_by_one() -> None:
    result = check_of(outcome("life"), outcome("reverse"))
    base = check_run(result, life=life(), reverse=life())
    found = often(base, check_run(result, life=life(HELD), reverse=life()))
    place = Place(kernel="6.12", livepatch="fix", scenario="life")
    assert only(found, Kind.STRAGGLER).place == place
    assert regressions(found, Kind.STRAGGLER)[0].runs == ("a-check/6.12/fix/life",)
    assert compared(base, base).findings == ()
    fewer = check_run(check_of(outcome("life")), life=life())
    assert often(base, fewer).notes == ("only in the base: 6.12 fix reverse",)


def test_a_scenario_that_fails_now_with_its_reasons() -> None:
    good, bad = (
        check_run(check_of(outcome("static", verdict, folder="", reasons=reasons, rules={"T4": verdict})))
        for verdict, reasons in ((Verdict.HELD, ()), (Verdict.VIOLATED, ("no licence", "long name")))
    )
    told = {each.what: each.new for each in regressions(compared(good, bad), Kind.VERDICT)}
    assert told == {"as a whole": "1 of 1 violated: no licence; long name", "rule T4": "1 of 1 violated"}
    assert {each.grade for each in compared(bad, good).findings} == {Grade.BETTER}


def test_a_check_that_ended_early() -> None:
    good = check_run(check_of(outcome("life")))
    early = check_run(check_of(outcome("life"), error="interrupted", complete=False))
    assert only(compared(good, early), Kind.ENDED_EARLY).new == "1 of 1: interrupted"
    assert compared(good, check_run(check_of(outcome("other")))).compared == ()


def test_a_livepatch_and_its_next_version_are_compared() -> None:
    old = check_run(check_of(outcome("life")))
    new = check_run(check_of(outcome("life", Verdict.VIOLATED, livepatch="fix-v2")))
    assert only(compared(old, new), Kind.VERDICT).place.livepatch == "fix-v2"


def test_repetitions_of_a_scenario_are_a_set() -> None:
    folders = [f"6.12/fix/life.{number}" for number in range(1, 6)]
    result = check_of(*(outcome("life", repetition=int(each[-1]), folder=each) for each in folders))
    calm, ran = (dict.fromkeys(folders, run_of(life(*held)).result) for held in ((), (RUNNING,)))
    found = compared(with_results("a", result, calm), with_results("b", result, ran))
    assert only(found, Kind.STRAGGLER).why == only(found, Kind.PASSES).why == "significant"


def test_lost_events_are_noted() -> None:
    good = run_of(life())
    [note] = compared([good] * 2, told(good, lost_events=7)).notes
    assert "lost 7 events in the new set" in note
