# SPDX-License-Identifier: Apache-2.0
"""Rules T1 to T6 and T8: kernel/livepatch/transition.c, Documentation/livepatch/livepatch.rst."""

from __future__ import annotations

from klp.analysis.evidence import Finding, Tally
from klp.analysis.history import History
from klp.analysis.legs import Leg
from klp.analysis.rules.rule import rule
from klp.analysis.words import spelt
from klp.trace import events as ev

_CODE = "kernel/livepatch/transition.c"
_MODEL = "Documentation/livepatch/livepatch.rst, 3. Consistency model"
_PROBE = "klptransition"
_ENDS = "klp_init_transition klp_complete_transition"


@rule(
    "T1",
    "One transition at a time: none is initialised between another's init and its completion.",
    f"klp_init_transition, {_CODE}; Documentation/livepatch/livepatch.rst, 5.2. Enabling",
    _PROBE,
    _ENDS,
)
def one_at_a_time(history: History) -> Finding:
    """Judge klp_init_transition and __klp_enable_patch's -EBUSY: livepatch.rst, 5.2. Enabling.

    Each init is judged by whether the transition before it was seen to complete, and by what the core's own
    klp_transition_patch was at that moment: it must not be set.
    """
    tally = Tally()
    before: Leg | None = None
    for leg in history.legs:
        number, begun = leg.begun
        if isinstance(begun, ev.Init):
            running = begun.core.transition_patch
            words = f"{leg.told()} initialised"
            if running is not None:
                tally.breach(f"{words} while {running} was in transition", number)
            elif before is not None and before.completed is None:
                tally.lacking(f"{words}, and {before.told()} never completed", before.begun[0], number)
            else:
                tally.judge(True, words, number)
        before = leg
    return tally.finding("no transition began")


@rule(
    "T2",
    "At init the target was idle and so was every task; init sets the target, and every task to the"
    " opposite.",
    f"klp_init_transition, {_CODE}; {_MODEL}",
    _PROBE,
    "klp_init_transition",
)
def init_from_idle(history: History) -> Finding:
    """Judge klp_init_transition's two WARN_ON_ONCE and its loops: livepatch.rst, 3. Consistency model."""
    tally = Tally()
    for leg in history.legs:
        number, begun = leg.begun
        if isinstance(begun, ev.Init) and begun.core.target_state != ev.IDLE:
            tally.breach(f"{leg.told()}: target was {begun.core.target_state} at init", number)
        for at, census in leg.censuses:
            if census.moment in ("before_init", "init"):
                _judge_init_census(tally, leg, at, census)
    return tally.finding("no transition began")


def _judge_init_census(tally: Tally, leg: Leg, number: int, census: ev.Census) -> None:
    if not census.whole:
        tally.gap = "a census at an init was cut short"
        return
    state, core = census.moment, census.core
    words = f"{leg.told()}, {state.replace('_', ' ')}: {census_words(census)}"
    if state == "before_init":
        good = census.idle == census.tasks and not census.pending and core.target_state == ev.IDLE
        tally.judge(good, words, number)
        return
    # No flag may be set yet: klp_start_transition() sets them, once func->transition and the objects
    # are ready. A task that found one sooner would switch to functions that are not all there.
    opposite = census.unpatched if core.target_state == ev.PATCHED else census.patched
    good = opposite == census.tasks and not census.pending and core.target_state != ev.IDLE
    if good:
        # The leg's target is told by another event: by that of another leg, where events are lost.
        tally.judge(core.target_state == leg.target, words, number, sure=False)
    else:
        tally.judge(False, words, number)


def census_words(census: ev.Census) -> str:
    """Return a census in words."""
    return (
        f"{census.tasks} tasks: {census.idle} idle, {census.unpatched} unpatched, {census.patched} patched,"
        f" {census.other} other, {census.pending} pending; target {census.core.target_state}"
    )


@rule(
    "T3",
    "Order: init, then func->transition, then object patching, then start, then completion.",
    f"__klp_enable_patch, kernel/livepatch/core.c, and klp_start_transition, {_CODE}; {_MODEL}",
    _PROBE,
    f"{_ENDS} klp_start_transition klp_patch_object klp_unpatch_object klp_cancel_transition",
)
def transition_order(history: History) -> Finding:
    """Judge __klp_enable_patch, __klp_disable_patch, klp_complete_transition: livepatch.rst, 3.

    Objects of a module that comes or goes meanwhile are patched outside of this order, by klp_module_coming
    and klp_module_going; and klp_patch_object unpatches an object that it could not patch to the end.
    """
    tally = Tally()
    for number, event in history.strays if history.legs else ():
        # Not of what lies before the first leg: the trace may begin in the middle of a transition.
        if event.ts_ns > history.legs[0].begun_ns and isinstance(event, ev.Start | ev.Complete):
            tally.lacking(f"{type(event).__name__.lower()} of {event.patch} without its init", number)
    for leg in history.legs:
        _judge_order(tally, leg)
        _judge_objects(tally, leg, history)
    return tally.finding("no transition began")


def _judge_order(tally: Tally, leg: Leg) -> None:
    steps = [leg.begun, leg.started, leg.completed]
    seen = [each for each in steps if each is not None]
    if leg.completed and not leg.started and not leg.cancelled:
        tally.lacking(f"{leg.told()} completed without its start", leg.begun[0], leg.completed[0])
        return
    times = [each[1].ts_ns for each in seen]
    words = f"{leg.told()}: " + ", ".join(type(each[1]).__name__.lower() for each in seen)
    tally.judge(times == sorted(times), words, *(each[0] for each in seen), sure=False)
    # Of a reversal, too: it has cleared all flags by then, or tasks might switch the old way still.
    for number, census in _before_start(tally, leg):
        words = f"{leg.told()}, before start: {census_words(census)}"
        tally.judge(census.pending == 0, words, number)


def _before_start(tally: Tally, leg: Leg) -> list[tuple[int, ev.Census]]:
    """Return the census that a start begins with; where there is none, the rule has a gap."""
    counted = list(leg.census("before_start"))
    if leg.started and not counted:
        tally.gap = "the census at a start is missing, or was cut short"
    return counted


def _judge_objects(tally: Tally, leg: Leg, history: History) -> None:
    for each in leg.objects:
        event = each.event
        if event.patch != leg.patch:
            continue
        # Without it klp_ftrace_handler() (patch.c) takes the newest function for every task, switched or
        # not.
        unset = [one.function for one in each.functions if not one.transition]
        words = f"{leg.told()}: {event.action} {event.object}"
        if unset:
            # Not sure: a module's object may be patched after an end that was lost.
            tally.lacking(f"{words}: func->transition of {unset[0]} was not set", leg.begun[0], each.number)
        elif _needs_no_notice(history, event):
            tally.judge(_in_its_place(leg, event), words, each.number, sure=False)


def _needs_no_notice(history: History, event: ev.Object) -> bool:
    """Whether an object's patching belongs to the transition itself.

    A module's object may also be patched because the module came (klp_module_coming). Only klpstates tells
    of that, so without it no module's object is judged.
    """
    if event.object == "vmlinux":
        return True
    if not history.told("klpstates", "klp_module_coming", "klp_module_going"):
        return False
    return history.notice_at(event.ts_ns, event.object) is None


def _in_its_place(leg: Leg, event: ev.Object) -> bool:
    """Patching belongs between init and start, unpatching after completion began or was cancelled."""
    started = leg.started[1].ts_ns if leg.started else None
    if event.action == "patch":
        # klp_reverse_transition() patches nothing: what is to be patched still is.
        return not leg.reversal and (started is None or event.ts_ns <= started)
    end = leg.cancelled or leg.completed
    failing = started is None and not leg.reversal  # klp_patch_object undoes what it began
    return failing or (end is not None and event.ts_ns >= end[1].ts_ns)


@rule(
    "T4",
    "Every task alive from start to completion changes to the target state exactly once per direction; none"
    " is pending at completion.",
    f"klp_try_complete_transition, {_CODE}; {_MODEL}",
    _PROBE,
    f"{_ENDS} klp_start_transition klp_try_switch_task klp_update_patch_state",
)
def every_task_once(history: History) -> Finding:
    """Judge klp_try_complete_transition and klp_complete_transition's WARN_ON_ONCE: livepatch.rst, 3.

    Two things look like a second switch and are none: the thread id of a task that died in the transition
    may be given to a new one, and klp_update_patch_state may still switch a task to the old target until
    klp_reverse_transition has cleared all flags.
    """
    tally = Tally()
    for leg in history.legs:
        # Lacking, not broken: the end of a task whose thread id came to another may be what was lost.
        for task, number in leg.twice:
            tally.lacking(f"{leg.told()}: {task.comm}[{task.pid}] switched twice", *task.events, number)
        for task, number in leg.wrong_way:
            tally.lacking(f"{leg.told()}: {task.comm}[{task.pid}] switched away from the target", number)
        for number, census in leg.censuses:
            if census.moment == "before_complete":
                _judge_completion(tally, leg, number, census)
    return tally.finding("no transition completed")


def _judge_completion(tally: Tally, leg: Leg, number: int, census: ev.Census) -> None:
    if not census.whole:
        tally.gap = "a census at a completion was cut short"
        return
    # A transition that was cancelled completes towards 0, whatever the leg's target was.
    target = census.core.target_state
    there = census.patched if target == ev.PATCHED else census.unpatched
    words = f"{leg.told()}, before completion: {census_words(census)}"
    if there != census.tasks or census.pending:
        tally.breach(words, number)
    else:
        tally.judge(leg.completed is None or leg.completed[1].target == target, words, number, sure=False)


@rule(
    "T5",
    "A task whose check found an affected function, an unreliable stack, or that it was running elsewhere,"
    " is not switched by that check.",
    f"klp_check_and_switch_task, {_CODE}; {_MODEL}",
    _PROBE,
    "klp_try_switch_task klp_check_and_switch_task klp_update_patch_state",
)
def refused_is_not_switched(history: History) -> Finding:
    """Judge klp_check_and_switch_task, klp_check_stack and klp_try_switch_task: livepatch.rst, 3.

    A task may switch by itself while it is being tried. That contradicts nothing, if it was seen to.
    """
    return history.facts["T5"]


@rule(
    "T6",
    "Completion waits for every CPU; after it the target is idle, no transition patch is set, every task is"
    " idle and none pending.",
    f"klp_complete_transition, {_CODE}; {_MODEL}",
    _PROBE,
    "klp_complete_transition",
)
def idle_afterwards(history: History) -> Finding:
    """Judge klp_complete_transition from its wait on: livepatch.rst, 3. Consistency model.

    It waits by klp_synchronize_transition, which compilers inline: that a completion did not wait is said
    only of a trace that shows another wait, and so proves that its probe found the calls.
    """
    tally, waits_seen = Tally(), _waits_seen(history)
    for leg in history.legs:
        if leg.completed and leg.over_at(leg.last_ns + 1) and waits_seen:
            # After its beginning: a reversal that ended in this leg has waited before it.
            begun = leg.completed[1].ts_ns
            if not any(wait.ts_ns >= begun for _, wait in leg.waits):
                tally.lacking(f"{leg.told()} completed and waited for no CPU", leg.completed[0])
        # "completed" is counted as klp_complete_transition() returns, still under klp_mutex: no other
        # transition can have begun by then.
        for number, census in leg.censuses:
            if census.moment != "completed":
                continue
            if not census.whole:
                tally.gap = "a census after a completion was cut short"
                continue
            core = census.core
            good = core.target_state == ev.IDLE and core.transition_patch is None
            good = good and census.idle == census.tasks and census.pending == 0
            patch = core.transition_patch or "none"
            words = f"{leg.told()}, completed: {census_words(census)}, transition patch {patch}"
            tally.judge(good, words, number)
    return tally.finding("no transition completed")


def _waits_seen(history: History) -> bool:
    """Whether klp_synchronize_transition was probed: it is inlined, and its calls may not all be found."""
    return history.told(_PROBE, "klp_synchronize_transition") and any(leg.waits for leg in history.legs)


@rule(
    "T8",
    "A reversal clears pending flags and waits for every CPU, flips target and enabled, starts again, and"
    " ends in the other direction.",
    f"klp_reverse_transition, {_CODE}; {_MODEL}",
    _PROBE,
    f"{_ENDS} klp_start_transition klp_reverse_transition",
)
def reversal(history: History) -> Finding:
    """Judge klp_reverse_transition, which ends in klp_start_transition: livepatch.rst, 5.4. Disabling."""
    tally, waits_seen = Tally(), _waits_seen(history)
    for leg in history.legs:
        number, begun = leg.begun
        if not isinstance(begun, ev.Reverse):
            continue
        if begun.core.target_state == leg.target:
            tally.breach(f"{leg.told()} by reversal: the target was {leg.target} before it too", number)
        for problem in _reversal_problems(leg, begun):
            tally.lacking(f"{leg.told()} by reversal: {problem}", number)
        if leg.started is None and (leg.completed or leg.reversed_by):
            tally.lacking(f"{leg.told()} by reversal was not started again", number)
        if leg.started and waits_seen and not _waited_before_start(leg):
            tally.lacking(f"{leg.told()} by reversal: started, and no CPU was waited for", number)
        for at, census in _before_start(tally, leg):
            words = f"{leg.told()} by reversal, before start: {census_words(census)}"
            tally.judge(census.pending == 0, words, number, at)
        if leg.completed:
            words = f"{leg.told()} by reversal completed towards {leg.completed[1].target}"
            tally.judge(leg.completed[1].target == leg.target, words, number, leg.completed[0], sure=False)
    return tally.finding("no transition was reversed to its end")


def _waited_before_start(leg: Leg) -> bool:
    return leg.started is not None and any(wait.ts_ns <= leg.started[1].ts_ns for _, wait in leg.waits)


def _reversal_problems(leg: Leg, begun: ev.Reverse) -> list[str]:
    problems = []
    if leg.started:
        core = leg.started[1].core
        if core.target_state != leg.target:
            problems.append(f"started with target {core.target_state}")
        # klp_reverse_transition() flips it before it starts again; None: no livepatch was in transition.
        if None not in (core.enabled, begun.core.enabled) and core.enabled == begun.core.enabled:
            problems.append(f"enabled stayed {spelt(core.enabled)}")
    return problems
