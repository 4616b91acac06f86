# SPDX-License-Identifier: Apache-2.0
"""Callbacks, layers and states: what breaks their rules is noticed, and what is right is not accused."""

from __future__ import annotations

import pytest

from klp.analysis.evidence import Verdict
from klp.analysis.history import history
from klp.analysis.rules.registry import RuleVerdict, judge_all
from klp.trace import events as ev
from tests.unit.traces import SHELL, Trace

ALL_CALLBACKS = ("pre_patch", "post_patch", "pre_unpatch", "post_unpatch")


def judged(trace: Trace, *rules: str) -> dict[str, Verdict]:
    return {each.rule.id: each.verdict for each in verdicts(trace, *rules)}


def verdicts(trace: Trace, *rules: str) -> tuple[RuleVerdict, ...]:
    return judge_all(history(trace.end().numbered()), rules)


def shown(
    trace: Trace, *names: str, enabled: bool = True, transition: bool = False, replace: bool = False
) -> None:
    """Put what sysfs shows, read by klp in the hundredth of a millisecond before."""
    patches = tuple(
        ev.SysfsPatch(name=name, enabled=enabled, transition=transition, replace=replace, stack_order=None,
                      objects={"vmlinux": enabled})
        for name in names
    )  # fmt: skip
    trace.put(ev.Sysfs, patches=patches, begun_ns=trace.now - 10, ended_ns=trace.now)


# --- L1: what sysfs shows ------------------------------------------------------------------------------


def test_a_freed_livepatch_that_sysfs_still_shows_breaks_l1() -> None:
    trace = Trace()
    trace.enable("p")
    trace.wait(100)
    trace.disable("p")
    trace.wait(3000)
    shown(trace, "p", enabled=False)
    assert judged(trace, "L1") == {"L1": Verdict.VIOLATED}


def test_a_livepatch_that_was_loaded_again_may_be_shown() -> None:
    trace = Trace()
    for _ in range(2):
        trace.enable("p")
        trace.wait(100)
        shown(trace, "p")
        trace.disable("p")
        trace.wait(100)
    trace.enable("p")
    trace.wait(100)
    shown(trace, "p")
    assert judged(trace, "L1") == {"L1": Verdict.HELD}


def test_a_livepatch_that_is_being_enabled_again_may_be_shown() -> None:
    trace = Trace()
    trace.enable("p")
    trace.disable("p")
    trace.wait(100)
    trace.begin_enabling("p")
    shown(trace, "p", transition=True)
    assert judged(trace, "L1")["L1"] is not Verdict.VIOLATED


def test_a_livepatch_that_left_before_its_enabling_was_seen_need_not_be_shown() -> None:
    trace = Trace()
    trace.stack.append("p")
    trace.stacked("complete")
    trace.freed("p")
    trace.wait(100)
    shown(trace)
    assert judged(trace, "L1")["L1"] is not Verdict.VIOLATED


def test_a_reversal_of_what_the_trace_did_not_see_begin_says_nothing_of_replace() -> None:
    trace = Trace()
    trace.set_core(target_state=0, transition_patch="p", enabled=False)
    trace.tasks = {0: 0, 1: 0, 2: 0, 3: 1}
    trace.put(ev.Reverse, patch="p", target=1, core=trace.core)
    trace.set_core(target_state=1, enabled=True)
    trace.put(ev.Synchronize, duration_ns=10)
    trace.start()
    with trace.try_all(), trace.completing(replace=True):
        pass
    trace.wait(100)
    shown(trace, "p", replace=True)
    assert judged(trace, "L1")["L1"] is not Verdict.VIOLATED


# --- L3: functions of one name, builds of one name -----------------------------------------------------


def replaced(trace: Trace, **fields: object) -> None:
    """Let z replace p; `fields` are those of z's object."""
    trace.wait(100)
    trace.begin_enabling("z", replace=True, **fields)
    with trace.try_all(), trace.completing(replace=True):
        trace.put(ev.Replaced, patch="p", by="z")
        trace.object("p", action="unpatch")
        trace.callback("z", "post_patch")
    trace.stacked("complete")
    trace.freed("p")


def test_functions_of_one_name_are_told_apart_by_their_position() -> None:
    trace = Trace()
    trace.enable("p", functions=("show,1", "show,2"))
    replaced(trace, functions=("show,1",))
    assert judged(trace, "L3") == {"L3": Verdict.VIOLATED}
    trace = Trace()
    trace.enable("p", functions=("show,1", "show,2"))
    replaced(trace, functions=("show,1", "show,2"), nops=("show,2",))
    assert judged(trace, "L3") == {"L3": Verdict.HELD}


def test_what_an_earlier_build_of_a_name_changed_is_not_asked_of_a_later_one() -> None:
    trace = Trace()
    trace.enable("p", functions=("one", "two"))
    trace.wait(100)
    trace.disable("p", functions=("one", "two"))
    trace.enable("p", functions=("one",))
    replaced(trace, functions=("one",))
    assert judged(trace, "L3") == {"L3": Verdict.HELD}


def test_an_object_that_an_earlier_build_kept_patched_is_not_the_laters() -> None:
    trace = Trace()
    trace.enable("p", name="other")
    trace.stack.remove("p")
    trace.stacked("free")
    trace.put(ev.PatchFree, patch="p", forced=False, module_refs=0)
    trace.enable("p")
    replaced(trace)
    assert judged(trace, "L3") == {"L3": Verdict.HELD}


# --- L4: loading again -----------------------------------------------------------------------------------


def test_a_second_load_and_a_removal_while_it_is_enabled_again_are_refused_by_right() -> None:
    trace = Trace()
    trace.enable("p")
    trace.disable("p")
    trace.wait(1)
    trace.step("unload", "p")
    trace.enable("p")
    trace.step("load", "p")
    trace.wait(1)
    trace.step("load", "p", errno=17)
    trace.step("unload", "p", errno=16)
    assert judged(trace, "L4") == {"L4": Verdict.HELD}


def test_a_livepatch_that_cannot_be_loaded_again_breaks_l4() -> None:
    trace = Trace()
    trace.enable("p")
    trace.disable("p")
    trace.wait(1)
    trace.step("unload", "p")
    trace.step("load", "p", errno=12)
    assert judged(trace, "L4") == {"L4": Verdict.VIOLATED}


# --- C1, C2: callbacks ------------------------------------------------------------------------------


def life(trace: Trace, skipped: str = "", has: tuple[str, ...] | None = ALL_CALLBACKS) -> None:
    """Enable and disable p, whose object has callbacks; one of them does not run."""

    def run(kind: str) -> None:
        if kind != skipped:
            trace.callback("p", kind)

    trace.stack.append("p")
    trace.stacked("enable")
    trace.init("p", 1)
    run("pre_patch")
    trace.object("p", callbacks=has)
    trace.start()
    with trace.try_all(), trace.completing():
        run("post_patch")
    trace.wait(100)
    trace.init("p", 0)
    run("pre_unpatch")
    trace.start()
    with trace.try_all(), trace.completing():
        trace.object("p", action="unpatch", callbacks=has)
        run("post_unpatch")
    trace.stacked("complete")
    trace.freed("p")


def test_callbacks_that_all_ran_break_nothing() -> None:
    trace = Trace()
    life(trace)
    assert judged(trace, "C1", "C2") == {"C1": Verdict.HELD, "C2": Verdict.HELD}


@pytest.mark.parametrize("skipped", ALL_CALLBACKS)
def test_a_callback_that_simply_did_not_run_breaks_c1(skipped: str) -> None:
    trace = Trace()
    life(trace, skipped)
    assert judged(trace, "C1")["C1"] is Verdict.VIOLATED


@pytest.mark.parametrize("skipped", ALL_CALLBACKS)
def test_a_callback_that_the_object_does_not_have_need_not_run(skipped: str) -> None:
    trace = Trace()
    life(trace, skipped, tuple(kind for kind in ALL_CALLBACKS if kind != skipped))
    assert judged(trace, "C1")["C1"] is Verdict.HELD


def test_a_trace_that_does_not_tell_which_callbacks_there_are_accuses_nobody() -> None:
    trace = Trace()
    life(trace, "post_patch", None)
    assert judged(trace, "C1")["C1"] is Verdict.HELD


def test_a_callback_whose_event_may_be_lost_is_not_missed() -> None:
    trace = Trace()
    life(trace, "post_patch")
    trace.put(ev.Lost, probe="klpcallbacks", count=1)
    assert judged(trace, "C1")["C1"] is Verdict.NOT_OBSERVED


def test_a_reversed_enabling_runs_post_unpatch_alone() -> None:
    trace = Trace()
    trace.stack.append("p")
    trace.stacked("enable")
    trace.init("p", 1)
    trace.callback("p", "pre_patch")
    trace.object("p", callbacks=ALL_CALLBACKS)
    trace.start()
    trace.try_once({3: ("sleeping", "cmdline_proc_show")})
    trace.wait(500)
    trace.put(ev.Reverse, patch="p", target=0, core=trace.core)
    trace.pending.clear()
    trace.set_core(target_state=0, enabled=False)
    trace.put(ev.Synchronize, duration_ns=10)
    trace.start()
    trace.wait(800)
    with trace.try_all(), trace.completing():
        trace.object("p", action="unpatch", callbacks=ALL_CALLBACKS)
        trace.callback("p", "post_unpatch")
    trace.stacked("complete")
    trace.freed("p")
    assert judged(trace, "C1", "C5") == {"C1": Verdict.HELD, "C5": Verdict.HELD}


@pytest.mark.parametrize(("gone", "verdict"), [(True, Verdict.NOT_OBSERVED), (False, Verdict.VIOLATED)])
def test_a_module_that_has_gone_needs_no_post_patch_as_a_disabling_is_reversed(
    gone: bool, verdict: Verdict
) -> None:
    trace = Trace()
    trace.stack.append("p")
    trace.init("p", 1)
    trace.object("p", "target", callbacks=("post_patch",))
    trace.start()
    with trace.try_all(), trace.completing():
        trace.callback("p", "post_patch", "target")
    trace.wait(100)
    if gone:
        trace.object("p", "target", "unpatch", callbacks=("post_patch",), transition=False)
        trace.module("target", "going")
    trace.init("p", 0)
    trace.start()
    trace.try_once({3: ("sleeping", "cmdline_proc_show")})
    trace.wait(500)
    trace.put(ev.Reverse, patch="p", target=1, core=trace.core)
    trace.pending.clear()
    trace.set_core(target_state=1, enabled=True)
    trace.put(ev.Synchronize, duration_ns=10)
    trace.start()
    trace.wait(800)
    with trace.try_all(), trace.completing():
        pass
    trace.stacked("complete")
    assert judged(trace, "C8") == {"C8": verdict}


def shared(trace: Trace, also: str) -> None:
    """One function is post-patch and another callback of p's object: klpcallbacks cannot tell which ran."""
    trace.put(ev.Callback, patch="p", object="vmlinux", kind="post_patch", function="both", result=None,
              duration_ns=200, task=SHELL, also=(also,))  # fmt: skip


def test_one_function_as_two_callbacks_breaks_nothing() -> None:
    trace = Trace()
    trace.begin_enabling("p")
    with trace.try_all(), trace.completing():
        shared(trace, "pre_unpatch")
    trace.stacked("complete")
    trace.wait(100)
    trace.init("p", 0)
    shared(trace, "pre_unpatch")
    trace.start()
    trace.finish_disabling("p")
    found = judged(trace, "C1", "C2")
    assert found["C1"] is Verdict.HELD
    assert found["C2"] is not Verdict.VIOLATED


def test_one_function_as_two_callbacks_that_runs_at_neithers_time_breaks_c1() -> None:
    trace = Trace()
    trace.begin_enabling("p")
    shared(trace, "pre_unpatch")
    with trace.try_all(), trace.completing():
        shared(trace, "pre_unpatch")
    trace.stacked("complete")
    assert judged(trace, "C1")["C1"] is Verdict.VIOLATED


# --- V1 to V5: states -------------------------------------------------------------------------------


def states(*pairs: tuple[int, int]) -> tuple[ev.State, ...]:
    return tuple(ev.State(id=id_, version=version) for id_, version in pairs)


def decision(
    trace: Trace, own: tuple[ev.State, ...], *below: tuple[str, tuple[ev.State, ...]], patch: str = "q",
    replace: bool = False, cut: bool = False,
) -> None:  # fmt: skip
    """Put what klp_is_patch_compatible was asked, and that it allowed it."""
    installed = tuple(ev.Installed(patch=name, states=carried) for name, carried in below)
    trace.put(ev.Compatible, patch=patch, replace=replace, states=own, installed=installed,
              compatible=True, cut=cut)  # fmt: skip


def asked(trace: Trace, id_: int, version: int | None, patch: str | None) -> None:
    found = None if version is None else ev.State(id=id_, version=version)
    trace.put(ev.StateGet, call="get" if patch else "get_prev", patch=patch, id=id_, found=found,
              caller="pre [p]", task=SHELL)  # fmt: skip


@pytest.mark.parametrize(("own", "verdict"), [
    (((1, 2), (1, 1)), Verdict.HELD),
    (((1, 1), (1, 2)), Verdict.VIOLATED),
])  # fmt: skip
def test_of_a_state_listed_twice_the_first_counts(
    own: tuple[tuple[int, int], ...], verdict: Verdict
) -> None:
    trace = Trace()
    decision(trace, states(*own), ("p", states((1, 2))))
    assert judged(trace, "V2") == {"V2": verdict}


def test_a_look_up_finds_the_first_of_a_state_listed_twice() -> None:
    trace = Trace()
    decision(trace, states((1, 2), (1, 1)), patch="p")
    trace.begin_enabling("p")
    asked(trace, 1, 2, "p")
    assert judged(trace, "V5") == {"V5": Verdict.HELD}


SEVENTEEN = states(*((id_, 1) for id_ in range(1, 18)))


def test_a_decision_that_was_not_told_whole_is_not_judged() -> None:
    trace = Trace()
    decision(trace, SEVENTEEN[::-1][:16], ("p", SEVENTEEN[:16]), replace=True, cut=True)
    assert judged(trace, "V1", "V2", "V3", "V4") == dict.fromkeys(
        ("V1", "V2", "V3", "V4"), Verdict.NOT_OBSERVED
    )


def test_a_look_up_of_a_state_beyond_those_told_is_not_judged() -> None:
    trace = Trace()
    decision(trace, SEVENTEEN[:16], patch="p", cut=True)
    trace.begin_enabling("p")
    asked(trace, 17, 1, "p")
    assert judged(trace, "V5") == {"V5": Verdict.NOT_OBSERVED}


@pytest.mark.parametrize(
    ("version", "verdict"), [(3, Verdict.HELD), (1, Verdict.VIOLATED), (2, Verdict.VIOLATED)]
)
def test_of_three_below_the_newest_is_found(version: int, verdict: Verdict) -> None:
    """In the pre-patch callback of a fourth, whose klp_enable_patch has not returned yet."""
    trace = Trace()
    below: list[tuple[str, tuple[ev.State, ...]]] = []
    for number, name in enumerate(("a", "b", "c"), 1):
        decision(trace, states((7, number)), *below, patch=name)
        trace.enable(name)
        below.append((name, states((7, number))))
    decision(trace, states((7, 4)), *below, patch="d")
    trace.init("d", 1)
    asked(trace, 7, version, None)
    assert judged(trace, "V5") == {"V5": verdict}


def test_a_stack_of_more_than_is_told_keeps_l2_open() -> None:
    trace = Trace()
    names = tuple(f"p{number}" for number in range(16))
    trace.put(ev.PatchStack, why="enable", patches=names, cut=True)
    trace.put(ev.PatchStack, why="enable", patches=(*names[1:], "p16"), cut=True)
    assert judged(trace, "L2") == {"L2": Verdict.NOT_OBSERVED}
