# SPDX-License-Identifier: Apache-2.0
"""What is legitimate is no alarm; a trace with a hole holds no rule that depends on it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from klp.analysis.evidence import Verdict
from klp.analysis.history import History, history
from klp.analysis.rules.registry import RULES, RuleVerdict, judge_all, merged
from klp.analysis.words import stories
from klp.trace import events as ev
from tests.unit.everything import everything
from tests.unit.traces import PROBES, Trace, task


def verdicts(trace: Trace) -> dict[str, RuleVerdict]:
    return {each.rule.id: each for each in judge_all(history(trace.numbered()))}


def violated(trace: Trace) -> dict[str, str]:
    return {name: each.why for name, each in verdicts(trace).items() if each.verdict is Verdict.VIOLATED}


def without(trace: Trace, gone: Callable[[ev.AnyEvent], bool]) -> Trace:
    trace.events = [each for each in trace.events if not gone(each)]
    return trace


# --- no false alarm -----------------------------------------------------------------------------------


def test_an_empty_trace_holds_nothing() -> None:
    assert {each.verdict for each in judge_all(history([]))} == {Verdict.NOT_OBSERVED}


def test_nothing_but_headers_holds_nothing() -> None:
    found = verdicts(Trace().end())
    assert list(found) == list(RULES)
    for each in found.values():
        assert (each.verdict, each.observations) == (Verdict.NOT_OBSERVED, 0)
        assert each.why


def test_a_trace_that_begins_within_a_transition() -> None:
    trace = Trace()
    trace.begin_enabling("p")
    with trace.try_all(), trace.completing():
        trace.callback("p", "post_patch")
    begun = next(number for number, each in enumerate(trace.events) if isinstance(each, ev.Start))
    trace.events = [*trace.events[: len(PROBES)], *trace.events[begun:]]
    trace.disable("p")
    assert violated(trace.end()) == {}
    assert [each.target for each in history(trace.numbered()).legs] == [0]


def one_transition(within: Callable[[Trace], None]) -> Trace:
    """A transition that waits for task 3, with something happening meanwhile."""
    trace = Trace()
    trace.begin_enabling("p")
    trace.try_once({3: ("sleeping", "cmdline_proc_show")})
    within(trace)
    trace.wait(1_000)
    with trace.try_all(), trace.completing():
        trace.callback("p", "post_patch")
    return trace.end()


def ended(trace: Trace) -> None:
    trace.put(ev.Exit, task=task(3), patch_state=trace.tasks.pop(3), pending=True)
    trace.pending.discard(3)


def dies_and_is_still_switched(trace: Trace) -> None:
    """A dying task is on the list until it is reaped, and a pass switches it."""
    trace.put(ev.Exit, task=task(3), patch_state=0, pending=True)


def thread_id_is_used_again(trace: Trace) -> None:
    """A task switches and ends; a child of one that has not switched gets its thread id, and switches."""
    trace.put(ev.Exit, task=task(1), patch_state=1, pending=False)
    trace.put(ev.Fork, child=task(1), child_state=0, child_pending=True, parent=task(3), parent_state=0,
              parent_pending=True)  # fmt: skip
    trace.tasks[1] = 0
    trace.pending.add(1)


def exec_takes_the_leaders_id(trace: Trace) -> None:
    """A thread calls exec: the leader ends, the thread goes on under its id, and is switched."""
    trace.put(ev.Exit, task=task(3), patch_state=0, pending=True)
    trace.switch(3, "exit")


def born_switched(trace: Trace) -> None:
    trace.put(ev.Fork, child=task(9), child_state=1, child_pending=False, parent=task(1), parent_state=1,
              parent_pending=False)  # fmt: skip
    trace.tasks[9] = 1


def switches_while_it_is_tried(trace: Trace) -> None:
    """It was running when it was tried, and on its way out when the attempt returned."""
    begun = trace.now + 1_000
    trace.switch(3, "exit")
    trace.put(ev.Attempt, at=begun - 500, task=task(3), result="running", errno=-16, function=None,
              patch_state=0, after=1, duration_ns=2_000)  # fmt: skip


@pytest.mark.parametrize(
    "within",
    [ended, dies_and_is_still_switched, thread_id_is_used_again, exec_takes_the_leaders_id, born_switched,
     switches_while_it_is_tried],
)  # fmt: skip
def test_what_tasks_may_do_in_a_transition(within: Callable[[Trace], None]) -> None:
    trace = one_transition(within)
    assert violated(trace) == {}
    assert verdicts(trace)["T13"].verdict is Verdict.HELD


@pytest.mark.parametrize(("late_ns", "good"), [(400, True), (600, False)])
def test_a_task_may_switch_itself_while_an_attempt_waits_for_its_run_queue(
    late_ns: int, good: bool
) -> None:
    trace = Trace()
    trace.begin_enabling("p")
    with trace.try_all(), trace.completing():
        attempt = next(each for each in trace.events if isinstance(each, ev.Attempt) and each.task.pid == 3)
        trace.put(ev.Switch, at=attempt.ts_ns + late_ns, task=attempt.task, path="exit", patch_state=1)
    [leg] = history(trace.numbered()).legs
    assert (leg.twice == ()) is good


@pytest.mark.parametrize(("seen_between", "good"), [(False, True), (True, False)])
def test_a_task_told_to_switch_itself_may_be_found_unswitched(seen_between: bool, good: bool) -> None:
    """It was preempted between the probe and its own switch; not once a pass has found it switched."""
    trace = Trace()
    trace.begin_enabling("p")
    trace.put(ev.Switch, at=trace.now, task=task(3), path="exit", patch_state=1)
    if seen_between:
        trace.put(ev.Attempt, at=trace.now, task=task(3), result="already", errno=0, function=None,
                  patch_state=1, after=1, duration_ns=100)  # fmt: skip
    with trace.try_all(), trace.completing():
        pass
    [leg] = history(trace.numbered()).legs
    assert (leg.twice == ()) is good


def test_a_task_may_switch_the_old_way_until_a_reversal_has_cleared_the_flags() -> None:
    trace = Trace()
    trace.begin_enabling("p")
    trace.try_once({2: ("running", None), 3: ("running", None)})
    trace.put(ev.Reverse, patch="p", target=0, core=trace.core)
    trace.switch(2, "exit")  # to the old target
    trace.pending.clear()
    trace.set_core(target_state=0, enabled=False)
    trace.start()
    trace.wait(900)
    trace.finish_disabling("p")
    assert violated(trace.end()) == {}
    first, second = history(trace.numbered()).legs
    assert {each.path for each in second.tasks if each.pid in (1, 2)} == {"first pass"}
    assert first.twice == second.twice == ()


def test_a_module_that_is_loaded_holds_up_the_next_pass() -> None:
    trace = one_transition(lambda trace: trace.wait(30_000))
    assert set(violated(trace)) == {"T7"}
    late = one_transition(lambda trace: (trace.wait(100), trace.module("m", "coming"), trace.wait(30_000)))
    assert violated(late) == {}


def test_a_variable_may_be_freed_before_its_allocation_has_returned() -> None:
    trace = Trace()
    begun = trace.now
    trace.put(ev.ShadowFreed, at=begun + 70, obj="0x1", id=1, variable="0xa", age_ns=1, dtor=False,
              dtor_calls=0)  # fmt: skip
    trace.put(
        ev.ShadowFree, at=begun + 60, obj="0x1", id=1, dtor=False, freed=True, caller="f", task=task(1)
    )
    trace.put(ev.ShadowAlloc, at=begun, call="alloc", obj="0x1", id=1, size=8, flags=0, ctor=False,
              ctor_calls=0, ctor_result=None, result="made", variable="0xa", zeroed=None, caller="f",
              stack=None, duration_ns=1_000, task=task(2))  # fmt: skip
    found = history(trace.end().numbered())
    assert violated(trace) == {}
    assert (found.ledger.allocated, found.ledger.freed, found.ledger.left) == (1, 1, ())


# --- holes --------------------------------------------------------------------------------------------


def needing(probe: str, symbol: str = "") -> set[str]:
    return {
        name
        for name, each in RULES.items()
        if probe in each.needs.probes and (not symbol or symbol in each.needs.symbols)
    }


@pytest.mark.parametrize("probe", PROBES)
def test_what_a_probe_lost_is_held_by_no_rule(probe: str) -> None:
    trace = everything()
    trace.put(ev.Lost, probe=probe, at=trace.now - 20_000, count=3)
    found = verdicts(trace)
    unheld = {name for name, each in found.items() if each.verdict is not Verdict.HELD}
    assert unheld == needing(probe)
    assert all("lost 3 events" in found[name].why for name in unheld)


@pytest.mark.parametrize("probe", PROBES)
def test_what_a_probe_would_have_seen_is_held_by_no_rule(probe: str) -> None:
    found = verdicts(without(everything(), lambda each: each.probe == probe))
    assert all(found[name].verdict is Verdict.NOT_OBSERVED for name in needing(probe))
    assert not [each for each in found.values() if each.verdict is Verdict.VIOLATED]


@pytest.mark.parametrize(
    ("probe", "symbol"),
    [
        ("klptransition", "klp_update_patch_state"),
        ("klpshadow", "klp_shadow_get"),
        ("klpstates", "klp_get_prev_state"),
    ],
)
def test_a_missing_probe_point_is_a_hole_for_those_who_need_it(probe: str, symbol: str) -> None:
    trace = everything()
    place = next(n for n, each in enumerate(trace.events) if each.probe == probe)
    lacking = (ev.Missing(symbol=f"{symbol}.part.0", unseen="what it does"),)
    trace.events[place] = msgspec.structs.replace(trace.events[place], missing=lacking)
    found = verdicts(trace)
    unheld = {name for name, each in found.items() if each.verdict is not Verdict.HELD}
    assert unheld == needing(probe, symbol)


@pytest.mark.parametrize(
    ("met", "stays", "verdict"),
    [(0, 0, Verdict.HELD), (1, 0, Verdict.VIOLATED), (0, 1, Verdict.VIOLATED)],
)
def test_a_task_that_no_pass_meets_was_a_zombie_if_it_is_gone_at_the_end(
    met: int, stays: int, verdict: Verdict
) -> None:
    trace = everything()
    place = next(
        n
        for n, each in enumerate(trace.events)
        if isinstance(each, ev.Census) and each.moment == "before_start"
    )
    first = next(n for n, each in enumerate(trace.events) if n > place and isinstance(each, ev.Pass))
    start, made = trace.events[place], trace.events[first]
    # Some tasks more in the state that is to be left, which no event tells more of.
    due, more = "unpatched" if start.unpatched > start.patched else "patched", 5
    trace.events[place] = msgspec.structs.replace(
        start, tasks=start.tasks + more, **{due: getattr(start, due) + more}
    )
    trace.events[first] = msgspec.structs.replace(made, attempts=made.attempts + more * met)
    last = next(
        n
        for n, each in enumerate(trace.events)
        if isinstance(each, ev.Census) and each.moment == "before_complete"
    )
    end = trace.events[last]
    trace.events[last] = msgspec.structs.replace(
        end, tasks=end.tasks + more * stays, patched=end.patched + more * stays
    )
    assert verdicts(trace)["T13"].verdict is verdict


def test_a_census_cut_short_holds_nothing() -> None:
    trace = everything()
    trace.events = [
        msgspec.structs.replace(each, whole=False) if isinstance(each, ev.Census) else each
        for each in trace.events
    ]
    found = verdicts(trace)
    for name in ("T2", "T4", "T6", "T13"):
        assert (found[name].verdict, "cut short" in found[name].why) == (Verdict.NOT_OBSERVED, True)


def test_what_is_proven_by_events_stays_violated_in_a_trace_with_holes() -> None:
    trace = everything()
    trace.events = [
        msgspec.structs.replace(each, child_state=1) if isinstance(each, ev.Fork) else each
        for each in trace.events
    ]
    trace.put(ev.Lost, probe="klptransition", at=trace.now - 20_000, count=3)
    found = violated(trace)
    assert set(found) == {"T11"}  # not T4 or T13: what they miss may be among the lost


def test_uncounted_variables_are_a_hole() -> None:
    trace = everything()
    trace.events = [
        msgspec.structs.replace(each, made=9) if isinstance(each, ev.ShadowTotals) else each
        for each in trace.events
    ]
    assert "counted 5 variables" in verdicts(trace)["S7"].why


# --- words --------------------------------------------------------------------------------------------


def held_up() -> History:
    return history(everything().numbered())


def test_a_stragglers_story() -> None:
    first = held_up().legs[0]
    assert stories(first)[0] == (
        "p patching held up 16.0 s by task3[3] sleeping in cmdline_proc_show, "
        "which this livepatch changes; switched when it was tried again after 16 attempts"
    )
    assert stories(first)[1].endswith(
        "by task2[2] running on a CPU; switched on its way to user space after 1 attempt"
    )


def test_phases_add_up_to_the_whole() -> None:
    for leg in held_up().legs:
        [one] = [each for each in held_up().transitions if each.begun_ns == leg.begun_ns]
        assert sum(each.duration_ns for each in one.phases) >= (one.duration_ns or 0)
        assert all(each.duration_ns >= 0 for each in one.phases)
    names = [each.name for each in held_up().transitions[0].phases]
    assert names[:3] == ["init", "patching", "first pass"]
    assert "signal" in names
    assert names[-1] == "completion"


# --- several guests -----------------------------------------------------------------------------------


def test_traces_of_several_guests_are_judged_together() -> None:
    good = judge_all(history(everything().numbered()), ("T11",))
    bad_trace = everything()
    bad_trace.events = [
        msgspec.structs.replace(each, child_state=1) if isinstance(each, ev.Fork) else each
        for each in bad_trace.events
    ]
    bad = judge_all(history(bad_trace.numbered()), ("T11",))
    none = judge_all(history([]), ("T11",))
    assert merged([("events.jsonl", good)]) == good
    assert merged([("a", good), ("b", none)])[0].verdict is Verdict.HELD
    [worst] = merged([("a", good), ("b", bad)])
    assert worst.verdict is Verdict.VIOLATED
    assert worst.evidence[0].words.startswith("b: ")
