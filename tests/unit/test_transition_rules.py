# SPDX-License-Identifier: Apache-2.0
"""Rules T1 to T14 where they are easily wrong: what a kernel may do, and what losses swallow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from klp.analysis.evidence import Verdict
from klp.analysis.history import history
from klp.analysis.rules.registry import RuleVerdict, judge_all
from klp.analysis.transitions import transition_of
from klp.trace import events as ev
from klp.trace.observer import taint_letters
from tests.unit.everything import SLEEPING, everything, target_module
from tests.unit.traces import PROBES, Trace, task

HELD, VIOLATED, NOT_OBSERVED = Verdict.HELD, Verdict.VIOLATED, Verdict.NOT_OBSERVED
OTHERS = tuple(each for each in PROBES if each != "klptransition")


def verdicts(trace: Trace) -> dict[str, RuleVerdict]:
    return {each.rule.id: each for each in judge_all(history(trace.numbered()))}


def judged(trace: Trace, *names: str) -> dict[str, Verdict]:
    found = verdicts(trace)
    return {name: found[name].verdict for name in names}


def violated(trace: Trace) -> dict[str, str]:
    return {name: each.why for name, each in verdicts(trace).items() if each.verdict is VIOLATED}


def renumbered(trace: Trace) -> Trace:
    """Make the streams whole again after events were taken out or put in."""
    seq: Counter[str] = Counter()
    for place, each in enumerate(trace.events):
        trace.events[place] = msgspec.structs.replace(each, seq=seq[each.probe])
        seq[each.probe] += 1
    return trace


def places(trace: Trace, kind: type[ev.AnyEvent], **fields: Any) -> list[int]:
    return [
        place
        for place, each in enumerate(trace.events)
        if isinstance(each, kind) and all(getattr(each, name) == value for name, value in fields.items())
    ]


def change(trace: Trace, kind: type[ev.AnyEvent], where: dict[str, Any], **fields: Any) -> None:
    for place in places(trace, kind, **where):
        trace.events[place] = msgspec.structs.replace(trace.events[place], **fields)


def lose(trace: Trace, *gone: int) -> Trace:
    """Take events away as a full ring buffer does, which the probe tells."""
    first = trace.events[min(gone)]
    told = ev.Lost(probe="klptransition", seq=0, ts_ns=first.ts_ns, count=len(gone))
    kept = [(place, each) for place, each in enumerate(trace.events) if place not in gone]
    trace.events = [each for place, each in kept if place < min(gone)]
    trace.events += [told, *(each for place, each in kept if place > min(gone))]
    return renumbered(trace)


def complete(trace: Trace, patch: str = "p", target: int = 1) -> None:
    with trace.try_all(), trace.completing():
        if target:
            trace.callback(patch, "post_patch")
        else:
            trace.object(patch, action="unpatch")
            trace.callback(patch, "post_unpatch")
    trace.stacked("complete")


def lacking(trace: Trace, symbol: str) -> None:
    """Have the probe say that it has no probe point on a function, or no address of a variable."""
    place = places(trace, ev.Header, probe="klptransition")[0]
    missing = (ev.Missing(symbol=symbol, unseen="what it tells"),)
    trace.events[place] = msgspec.structs.replace(trace.events[place], missing=missing)


# --- losses that were told decide nothing -------------------------------------------------------------


def test_a_lost_reversal_is_no_violation() -> None:
    trace = everything()
    lose(trace, *places(trace, ev.Reverse))
    assert violated(trace) == {}
    assert judged(trace, "T4", "T5", "T8") == dict.fromkeys(("T4", "T5", "T8"), NOT_OBSERVED)


def test_a_lost_init_is_no_violation() -> None:
    """From the census after a completion to the next init: two transitions look like one."""
    trace = Trace()
    trace.enable("p")
    trace.wait(100)
    trace.disable("p")
    trace.end()
    [after, _] = places(trace, ev.Census, moment="completed")
    [_, init] = places(trace, ev.Init)
    lose(trace, *(n for n in range(after, init + 1) if trace.events[n].probe == "klptransition"))
    assert violated(trace) == {}
    assert judged(trace, "T2", "T3", "T4", "T5") == dict.fromkeys(("T2", "T3", "T4", "T5"), NOT_OBSERVED)


def test_a_module_that_comes_after_a_lost_end_is_no_violation() -> None:
    trace = Trace()
    trace.enable("p")
    trace.wait(1_000)
    target_module(trace)
    trace.end()
    lose(trace, *places(trace, ev.Census, moment="completed"))
    assert violated(trace) == {}
    assert judged(trace, "T3") == {"T3": NOT_OBSERVED}


def test_a_module_that_comes_after_an_end_that_no_probe_can_see_is_no_violation() -> None:
    trace = Trace()
    trace.enable("p")
    trace.wait(1_000)
    target_module(trace)
    trace.end()
    trace.events = [e for e in trace.events if not (isinstance(e, ev.Census) and e.moment == "completed")]
    lacking(renumbered(trace), "klp_complete_transition")
    assert judged(trace, "T3") == {"T3": NOT_OBSERVED}


@pytest.mark.parametrize("kind", [ev.Init, ev.Start, ev.Pass, ev.Complete, ev.Reverse, ev.Cancel, ev.Force])
def test_no_loss_of_one_event_is_a_violation(kind: type[ev.AnyEvent]) -> None:
    whole = everything()
    for place in places(whole, kind):
        trace = everything()
        lose(trace, place)
        mine = {name for name in violated(trace) if name.startswith("T")}
        assert not mine, f"without {trace.events[place]}"


def test_what_one_event_shows_by_itself_is_a_violation_in_spite_of_losses() -> None:
    trace = everything()
    place = places(trace, ev.Census, moment="completed")[0]
    trace.events[place] = msgspec.structs.replace(trace.events[place], pending=1)
    lose(trace, places(trace, ev.Switch)[0])
    assert set(violated(trace)) == {"T6"}


def test_a_counter_without_an_address_is_no_violation() -> None:
    trace = Trace()
    trace.begin_enabling("p")
    for _ in range(2):
        trace.try_once(SLEEPING)
        trace.wait(1_000)
    complete(trace)
    trace.end()
    lacking(trace, "klp_signals_cnt")
    for place in [n for n, each in enumerate(trace.events) if isinstance(each, ev.Pass)]:
        one = trace.events[place]
        core = msgspec.structs.replace(one.core, signals_cnt=0)
        trace.events[place] = msgspec.structs.replace(one, core=core)
    assert judged(trace, "T7") == {"T7": NOT_OBSERVED}


# --- a census that was cut short shows nothing --------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "rules"),
    [("before_start", ("T3", "T8", "T13")), ("forced", ("T9",)), ("before_complete", ("T4", "T13"))],
)
@pytest.mark.parametrize("cut", [True, False])
def test_a_census_that_was_cut_or_is_missing_holds_no_rule(
    moment: str, rules: tuple[str, ...], cut: bool
) -> None:
    trace = everything()
    assert set(judged(trace, *rules).values()) == {HELD}
    if cut:
        change(trace, ev.Census, {"moment": moment}, whole=False, pending=1)
    else:
        trace.events = [e for e in trace.events if not (isinstance(e, ev.Census) and e.moment == moment)]
        renumbered(trace)
    expected = dict.fromkeys(rules, NOT_OBSERVED)
    if not cut and "T4" in rules:
        expected.pop("T4")  # of each completion that was counted it is held still
    assert judged(trace, *expected) == expected


# --- T5: who switched it ------------------------------------------------------------------------------


def switching_itself(after: int, told: bool) -> Trace:
    """A task switches itself; told as that begins. It is delayed, and a pass tries it meanwhile."""
    trace = Trace()
    trace.begin_enabling("p")
    if told:
        trace.put(ev.Switch, task=task(2), path="exit", patch_state=1)
    with trace.try_all({2: ("running", None)}):
        place = places(trace, ev.Attempt, result="running")[0]
        trace.events[place] = msgspec.structs.replace(trace.events[place], after=after)
        trace.switched(2)
    trace.wait(1_000)
    complete(trace)
    return trace.end()


def test_a_switch_that_was_told_before_the_attempt_within_it_is_the_tasks_own() -> None:
    trace = switching_itself(1, told=True)
    assert violated(trace) == {}
    assert judged(trace, "T4", "T5", "T13") == {"T4": HELD, "T5": HELD, "T13": HELD}


def test_a_refused_attempt_that_switched_a_task_breaks_t5() -> None:
    assert "T5" in violated(switching_itself(1, told=False))


def test_a_switch_of_another_leg_excuses_no_attempt() -> None:
    trace = Trace()
    trace.begin_enabling("p")
    trace.switch(2, "exit")
    complete(trace)
    trace.begin_disabling("p")
    with trace.try_all({2: ("running", None)}):
        place = places(trace, ev.Attempt, result="running")[0]
        trace.events[place] = msgspec.structs.replace(trace.events[place], after=0)
    trace.switched(2)
    trace.wait(1_000)
    trace.finish_disabling("p")
    assert "T5" in violated(trace.end())


# --- T4, T13: exec by a thread whose leader has ended --------------------------------------------------


def exec_with_zombie_leader(seen_later: bool, leader: str = "switched") -> Trace:
    """Thread 101 of process 100, whose leader ended long ago, calls exec and goes on as 100."""
    trace = Trace()
    trace.tasks |= {100: -1, 101: -1}
    trace.begin_enabling("p")
    how = {
        "switched": {101: ("running", None)},
        "unreliable": {100: ("unreliable", None), 101: ("switched", None)},
    }[leader]
    with trace.try_all(how):
        pass
    for place in places(trace, ev.Attempt):
        one = trace.events[place]
        if one.task.pid == 101:
            trace.events[place] = msgspec.structs.replace(one, task=task(101, "multi", 100))
    del trace.tasks[101]
    trace.pending.discard(101)
    if leader == "switched":
        trace.put(ev.Switch, task=task(100, "sh"), path="exit", patch_state=1)
    else:
        trace.switched(100)
        trace.put(ev.Attempt, task=task(100, "sh"), result="already", errno=0, function=None,
                  patch_state=1, after=1, duration_ns=100)  # fmt: skip
    if seen_later:
        trace.put(ev.Exit, task=task(101, "multi", 100), patch_state=0, pending=True)
    trace.wait(1_000)
    complete(trace)
    return trace.end()


@pytest.mark.parametrize("leader", ["switched", "unreliable"])
def test_a_thread_may_take_over_the_id_of_a_leader_that_had_ended(leader: str) -> None:
    trace = exec_with_zombie_leader(seen_later=False, leader=leader)
    assert violated(trace) == {}
    assert judged(trace, "T4", "T13") == {"T4": HELD, "T13": HELD}
    [leg] = history(trace.numbered()).legs
    assert transition_of(leg).twice == ()


@pytest.mark.parametrize(("leader", "rule"), [("switched", "T4"), ("unreliable", "T13")])
def test_a_thread_that_is_seen_under_its_own_id_has_taken_over_none(leader: str, rule: str) -> None:
    assert rule in violated(exec_with_zombie_leader(seen_later=True, leader=leader))


# --- traces that leave out what was not asked for ------------------------------------------------------


def filtered(*filters: str, probe: str = "klptransition") -> dict[str, RuleVerdict]:
    trace = everything()
    change(trace, ev.Header, {"probe": probe}, filters=filters)
    return verdicts(trace)


def test_what_needs_all_tasks_is_not_observed_where_one_was_asked_for() -> None:
    """And what was told of the others all the same is judged."""
    every, some = verdicts(everything()), filtered("pid=181")
    hidden = {name for name, each in some.items() if each.verdict is not every[name].verdict}
    assert {"T4", "T5", "T11", "T13", "T14"} <= hidden
    assert all(some[name].verdict is NOT_OBSERVED for name in hidden)
    assert some["T4"].why == "klptransition was told to trace pid=181 alone"
    assert {some[name].verdict for name in ("T1", "T2", "T3", "T6")} == {HELD}


@pytest.mark.parametrize(
    ("probe", "filters"),
    [
        ("klptransition", ("patch=p",)),
        ("klptransition", ("patch=p", "pid=181")),
        ("klpshadow", ("id=1",)),
        ("klpstates", ("patch=p",)),
        ("klpcallbacks", ("pid=181",)),
    ],
)
def test_nothing_is_held_on_a_probe_that_told_of_one_livepatch_or_variable_alone(
    probe: str, filters: tuple[str, ...]
) -> None:
    found = filtered(*filters, probe=probe)
    needing = {name for name, each in found.items() if probe in each.rule.needs.probes}
    assert needing
    assert {found[name].verdict for name in needing} == {NOT_OBSERVED}


def test_no_cpu_is_missed_where_a_call_that_waits_could_not_be_probed() -> None:
    """T6: a wait that was told proves nothing of one at a call that has no probe."""
    trace = Trace()
    trace.begin_enabling("p")
    with trace.try_all(), trace.completing():
        trace.put(ev.Synchronize, duration_ns=10)
    trace.wait(1_000)
    trace.begin_enabling("q")
    with trace.try_all(), trace.completing():
        pass
    trace.end()
    assert "T6" in violated(trace)
    lacking(trace, "klp_synchronize_transition")
    assert "T6" not in violated(trace)


# --- T13: what a pass found switched is counted, but for those of whom there is news -------------------


def found_switched(awaited_as: int | None, *, ended: bool = False) -> Trace:
    """A task stays behind in the first pass, and the second finds it switched; nothing says how."""
    trace = Trace()
    trace.begin_enabling("p")
    trace.try_once({3: ("running", None)})
    trace.switched(3)
    if ended:
        trace.put(ev.Exit, task=task(3, "sh"), patch_state=1, pending=False)
    trace.put(ev.Attempt, task=task(3), result="already", errno=0, function=None, patch_state=1, after=1,
              duration_ns=100, awaited_as=awaited_as)  # fmt: skip
    trace.wait(1_000)
    complete(trace)
    return trace.end()


def test_the_very_task_that_stayed_behind_must_be_seen_to_switch() -> None:
    assert "T13" in violated(found_switched(3))
    # Not even where its leader's exit was seen: the probe knows it by its task_struct.
    assert len(history(found_switched(3, ended=True).numbered()).legs[0].unexplained) == 1


def test_a_task_that_took_over_an_id_is_not_the_one_that_had_stayed_behind() -> None:
    [leg] = history(found_switched(4).numbered()).legs
    assert leg.unexplained == ()


def test_a_pass_is_at_its_first_task_when_it_says_so() -> None:
    trace = Trace()
    trace.begin_enabling("p")
    trace.try_once({3: ("running", None)})
    place = places(trace, ev.Pass)[0]
    [leg] = history(trace.numbered()).legs
    assert leg.walks == (trace.events[places(trace, ev.Attempt)[0]].ts_ns,)
    told = msgspec.structs.replace(trace.events[place], first_ns=trace.events[place].ts_ns + 7)
    trace.events[place] = told
    [leg] = history(trace.numbered()).legs
    assert leg.walks == (told.ts_ns + 7,)


# --- T7: late, and who could tell why ------------------------------------------------------------------


def late(wait_ms: float, probes: tuple[str, ...] = PROBES) -> Trace:
    trace = Trace(probes=probes)
    trace.begin_enabling("p")
    trace.try_once(SLEEPING)
    trace.wait(wait_ms)
    complete(trace)
    trace.events = [each for each in trace.events if each.probe in (*probes, "klp")]
    return renumbered(trace).end()


def test_a_late_pass_is_judged_only_where_somebody_told_who_held_the_mutex() -> None:
    assert judged(late(12_000), "T7") == {"T7": VIOLATED}
    assert judged(late(12_000, ("klptransition",)), "T7") == {"T7": NOT_OBSERVED}
    assert judged(late(1_000, ("klptransition",)), "T7") == {"T7": HELD}


@pytest.mark.parametrize(
    ("heard_ms", "verdict"), [(0, NOT_OBSERVED), (15_000, VIOLATED)], ids=["silent", "heard"]
)
def test_no_pass_is_missed_after_a_probe_was_heard_last(heard_ms: float, verdict: Verdict) -> None:
    """A guest that dies tells no more, and klp itself goes on writing."""
    trace = Trace()
    trace.begin_enabling("p")
    trace.try_once(SLEEPING)
    trace.wait(heard_ms)
    for probe in PROBES:
        trace.put(ev.Mark, probe=probe, number=1)
    trace.wait(15_000)
    trace.step("disable", "p", errno=-110)
    assert judged(trace, "T7") == {"T7": verdict}


# --- T9: a force has an end ----------------------------------------------------------------------------


def replace(trace: Trace, new: str, old: str, force: bool) -> None:
    begun = trace.now
    trace.begin_enabling(new, True)
    if force:
        trace.try_once(SLEEPING)
        trace.put(ev.Force, patch=new, core=trace.core)
        trace.switch(3, "force")
        trace.census("forced")
        trace.wait(1_000)
    with trace.try_all(), trace.completing(True):
        trace.put(ev.Replaced, patch=old, by=new)
        trace.object(old, action="unpatch")
        trace.callback(new, "post_patch")
    trace.stacked("complete")
    trace.freed(old, force)
    trace.put(ev.Enable, at=begun, patch=new, replace=True, errno=0, duration_ns=trace.now - begun)
    trace.wait(1_000)


def test_a_force_pins_only_what_it_ended_itself() -> None:
    """z once replaced p in order, and later q by force; p comes and goes once more, in order."""
    trace = Trace()
    trace.enable("p")
    replace(trace, "z", "p", force=False)
    trace.disable("z")
    trace.enable("q")
    replace(trace, "z", "q", force=True)
    trace.enable("p")
    trace.disable("p")
    assert judged(trace.end(), "T9") == {"T9": HELD}


def test_a_livepatch_that_is_replaced_by_force_keeps_its_module() -> None:
    trace = Trace()
    trace.enable("q")
    replace(trace, "z", "q", force=True)
    change(trace, ev.PatchFree, {"patch": "q"}, forced=False, module_refs=0)
    assert judged(trace.end(), "T9") == {"T9": VIOLATED}


def test_a_later_life_of_a_forced_livepatch_is_not_pinned_by_it() -> None:
    trace = Trace()
    trace.enable("z")
    trace.begin_disabling("z")
    trace.try_once(SLEEPING)
    trace.put(ev.Force, patch="z", core=trace.core)
    trace.switch(3, "force")
    trace.census("forced")
    trace.wait(1_000)
    trace.finish_disabling("z", forced=True)
    trace.enable("z")
    trace.disable("z")
    assert judged(trace.end(), "T9") == {"T9": HELD}


# --- T13: the kernel has a scheduler's path, or not ----------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "told", "good"),
    [
        ("5.14.0-503.el9.x86_64", True, True),  # a vendor's, with the path taken back into it
        ("5.14.0-503.el9.x86_64", None, True),  # recorded before the probe told
        ("6.12.117", True, True),
        ("6.12.117", False, False),
        ("6.1.0", False, False),
    ],
)
def test_whether_the_scheduler_may_switch_tasks_is_told_by_the_kernel(
    kernel: str, told: bool | None, good: bool
) -> None:
    trace = Trace(kernel)
    change(trace, ev.Header, {"probe": "klptransition"}, scheduler_switch=told)
    trace.begin_enabling("p")
    trace.switch(2, "scheduler")
    complete(trace)
    assert judged(trace.end(), "T13") == {"T13": HELD if good else VIOLATED}


# --- T13: zombies --------------------------------------------------------------------------------------


def zombies(reaped: Callable[[Trace], None]) -> Trace:
    """Task 3 ended before the transition, and its parent waits for it after the start, if at all."""
    trace = Trace()
    trace.begin_enabling("p")
    reaped(trace)
    trace.wait(1_000)
    complete(trace)
    return trace.end()


def reap(trace: Trace) -> None:
    del trace.tasks[3]
    trace.pending.discard(3)


def tried_and_reaped(trace: Trace) -> None:
    trace.try_once({3: ("unreliable", None)})
    reap(trace)


def tried_and_switched_unseen(trace: Trace) -> None:
    trace.try_once({3: ("unreliable", None)})
    trace.switched(3)


@pytest.mark.parametrize(
    ("how", "verdict"),
    [(reap, HELD), (tried_and_reaped, HELD), (lambda trace: trace.switched(3), VIOLATED),
     (tried_and_switched_unseen, VIOLATED)],
)  # fmt: skip
def test_a_zombie_that_is_reaped_needs_no_switch(how: Callable[[Trace], None], verdict: Verdict) -> None:
    assert judged(zombies(how), "T13") == {"T13": verdict}


# --- T14: the number of passes -------------------------------------------------------------------------


@pytest.mark.parametrize(("without", "verdict"), [(2, VIOLATED), (10, HELD)])
def test_passes_are_counted_whoever_held_each_up(without: int, verdict: Verdict) -> None:
    """Nine passes are held up, each by another task's unreliable stack."""
    trace = Trace()
    trace.tasks |= dict.fromkeys(range(10, 20), -1)
    trace.begin_enabling("p")
    for pid in range(10, 19):
        trace.try_once({pid: ("unreliable", None)})
        trace.tasks[pid + 1] = 0  # its turn comes next
        trace.pending.add(pid + 1)
        trace.wait(1_000)
    complete(trace)
    trace.put(ev.Control, patch="p", target=1, passes=without, duration_ns=2_000_000_000)
    assert judged(trace.end(), "T14") == {"T14": verdict}


def test_a_pass_that_left_only_running_tasks_behind_is_chance() -> None:
    trace = Trace()
    trace.begin_enabling("p")
    for _ in range(2):
        trace.try_once({1: ("running", None)})
        trace.wait(1_000)
    complete(trace)
    trace.put(ev.Control, patch="p", target=1, passes=1, duration_ns=2_000_000_000)
    assert judged(trace.end(), "T14") == {"T14": HELD}


# --- L6: no taint is passed over -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "letters"),
    [
        (0, ""),
        (1 << 12 | 1 << 15, "OK"),
        (1 << 18, "N"),
        (1 << 19, "J"),
        (1 << 15 | 1 << 20 | 1 << 31, "K??"),
    ],
)
def test_every_taint_flag_is_told(mask: int, letters: str) -> None:
    """Those above a table that ends too soon were passed over, and L6 held."""
    assert taint_letters(mask) == letters
    trace = everything()
    trace.put(ev.Taint, flags=letters)
    assert judged(trace, "L6") == {"L6": HELD if set(letters) <= set("OK") else VIOLATED}
