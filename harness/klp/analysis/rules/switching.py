# SPDX-License-Identifier: Apache-2.0
"""Rules T9 to T13 of transitions: kernel/livepatch/transition.c, Documentation/livepatch/livepatch.rst."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter

from klp.analysis.evidence import Finding, Tally
from klp.analysis.history import History
from klp.analysis.legs import Leg
from klp.analysis.numbered import between
from klp.analysis.rules.rule import rule
from klp.analysis.words import spelt
from klp.trace import events as ev

_CODE = "kernel/livepatch/transition.c"
_MODEL = "Documentation/livepatch/livepatch.rst, 3. Consistency model"
_PROBE = "klptransition"
_ENDS = "klp_init_transition klp_complete_transition"
_PATHS = "klp_try_switch_task klp_update_patch_state klp_copy_process"


@rule(
    "T9",
    "Force switches all remaining tasks at once; the transition then completes; a livepatch disabled or"
    " replaced by it keeps its module pinned for good.",
    f"klp_force_transition, {_CODE}; {_MODEL}",
    "klptransition klpstates",
    f"{_ENDS} klp_force_transition klp_try_complete_transition klp_free_patch_finish",
)
def force(history: History) -> Finding:
    """Judge klp_force_transition and klp_free_patch_finish's module_put: livepatch.rst, 3, *force*.

    The flag klp_patch.forced is set on the livepatches that go away: the one itself when it is being
    disabled, those that it replaces when it is a cumulative one being enabled.
    """
    tally = Tally()
    for leg in history.legs:
        # A reversal takes a force back: all tasks are in what is now the wrong state, and get their flags
        # again.
        if leg.forces and not leg.reversed_by:
            _judge_forced(tally, leg, history)
    return tally.finding("no transition was forced")


def _judge_forced(tally: Tally, leg: Leg, history: History) -> None:
    number, forced = leg.forces[0]
    # klp_force_transition() calls klp_update_patch_state() for every task, wherever it runs or sleeps.
    counted = list(leg.census("forced"))
    for at, census in counted:
        words = f"{leg.told()} forced: {census.pending} of {census.tasks} tasks still pending"
        tally.judge(census.pending == 0, words, number, at)
    if not counted:
        tally.gap = "the census after a force is missing, or was cut short"
    # klp_force_transition() completes nothing itself: the work item's next pass does, up to a second later.
    after = next(((at, one) for at, one in leg.passes if one.ts_ns > forced.ts_ns), None)
    if after:
        words = f"{leg.told()} forced: the next pass left {after[1].left} tasks"
        tally.judge(after[1].complete, words, number, after[0], sure=False)
    if leg.completed and leg.target == ev.UNPATCHED:
        words = f"{leg.told()} forced: klp_patch.forced is {spelt(leg.completed[1].forced)}"
        tally.judge(leg.completed[1].forced, words, number, leg.completed[0], sure=False)
    for patch in _going_away(leg, history):
        _judge_pinned(tally, patch, forced.ts_ns, history)


def _judge_pinned(tally: Tally, patch: str, since_ns: int, history: History) -> None:
    """Judge the free that belongs to a force: the next one. A later one is of another life of that name."""
    later = between(history.stack.frees, since_ns + 1, None)
    free = next((each for each in later if each[1].patch == patch), None)
    if free:
        # A task that was forced may be in the old code still, at any later time: so
        # klp_free_patch_finish() leaves out module_put() where klp_patch.forced is set.
        at, seen = free
        references = "unknown" if seen.module_refs is None else seen.module_refs
        words = f"{patch} went away by force: forced {spelt(seen.forced)}, references {references}"
        tally.judge(seen.forced and seen.module_refs != 0, words, at, sure=False)


def _going_away(leg: Leg, history: History) -> tuple[str, ...]:
    """Return the livepatches that a forced leg ended; klp_complete_transition() takes out the replaced."""
    if leg.completed is None:
        return ()
    if leg.target == ev.UNPATCHED:
        return (leg.patch,)
    begun, end = leg.completed[1].ts_ns, leg.last_ns
    ended = between(history.stack.replaced, begun, end + 1)
    return tuple(each.patch for _, each in ended if each.by == leg.patch)


@rule(
    "T10",
    "A transition that was initialised but not started is cancelled, never reversed; objects end"
    " unpatched.",
    f"klp_cancel_transition, {_CODE}; Documentation/livepatch/livepatch.rst, 5.2. Enabling",
    _PROBE,
    f"{_ENDS} klp_start_transition klp_cancel_transition klp_reverse_transition klp_patch_object"
    " klp_unpatch_object",
)
def cancelled(history: History) -> Finding:
    """Judge __klp_enable_patch's error path and klp_cancel_transition: livepatch.rst, 5.2. Enabling."""
    tally = Tally()
    for leg in history.legs:
        if leg.reversed_by and leg.started is None:
            tally.lacking(f"{leg.told()} was reversed before it started", leg.reversed_by[0])
        if leg.cancelled:
            _judge_cancelled(tally, leg)
    return tally.finding("no transition was cancelled")


def _judge_cancelled(tally: Tally, leg: Leg) -> None:
    assert leg.cancelled
    number = leg.cancelled[0]
    if leg.started:
        tally.lacking(f"{leg.told()} was cancelled after its start", leg.started[0], number)
    # __klp_disable_patch() has no way to fail after its init: pre-unpatch callbacks return nothing.
    if leg.target != ev.PATCHED:
        tally.lacking(f"{leg.told()} was cancelled: only a patching one can be", number)
    if leg.completed is None:
        return
    # klp_cancel_transition() sets klp_target_state to 0 before it calls klp_complete_transition().
    target = leg.completed[1].target
    words = f"{leg.told()} cancelled, and completed towards {target}"
    tally.judge(target == ev.UNPATCHED, words, number, leg.completed[0], sure=False)
    left = dict.fromkeys(each.event.object for each in leg.objects if _patched_well(each.event))
    for each in leg.objects:
        if each.event.action == "unpatch":
            left.pop(each.event.object, None)
    if left:
        tally.lacking(f"{leg.told()} was cancelled, and {', '.join(left)} stayed patched", number)


def _patched_well(event: ev.Object) -> bool:
    return event.action == "patch" and event.errno == 0


@rule(
    "T11",
    "A task forked in a transition has its parent's patch_state and pending flag.",
    f"klp_copy_process, {_CODE}; {_MODEL}",
    _PROBE,
    "klp_copy_process",
)
def fork(history: History) -> Finding:
    """Judge klp_copy_process, under tasklist_lock in copy_process: livepatch.rst, 3. Consistency model."""
    return history.facts["T11"]


@rule(
    "T12",
    "While a transition runs, a task runs the old function before its own switch and the new one after it.",
    "klp_ftrace_handler, kernel/livepatch/patch.c; " + _MODEL,
    "klpconsistency klptransition",
    _ENDS,
)
def consistency(history: History) -> Finding:
    """Judge klp_ftrace_handler's choice by current->patch_state: livepatch.rst, 3. Consistency model.

    Only the livepatch in transition is judged: for the functions of any other, the order of the livepatches
    decides which version runs. A no-op runs the old body by intent, and force gives consistency up. A task
    whose state is idle is not judged: klp_init_transition has not come to it yet, or
    klp_complete_transition has been there; both go over all tasks while target and livepatch are set.
    """
    tally, towards = Tally(), _by_target(history)
    left_out: dict[int, set[tuple[str, str]]] = {}
    for number, ran in history.ran:
        leg = _leg_of(towards, ran)
        if leg is None or leg.forces:
            continue
        # Once for each leg: a livepatch of many functions has a row for each of them.
        if leg.begun_ns not in left_out:
            left_out[leg.begun_ns] = _not_judged(leg)
        if (ran.object, ran.function) in left_out[leg.begun_ns]:
            continue
        if ran.patch_state == ev.IDLE:
            continue
        fitting = ran.version == ("new" if ran.patch_state == ev.PATCHED else "old")
        words = (
            f"{leg.told()}: {ran.function} ran {ran.version} {ran.count} times in patch_state"
            f" {ran.patch_state}, first by {ran.task.comm}[{ran.task.pid}]"
        )
        # Not sure: to which leg a row belongs is told by events that may be lost.
        tally.judge(fitting, words, number, sure=False)
        tally.good(ran.count - 1)
    return tally.finding("no patched function ran in a transition")


def _by_target(history: History) -> dict[int, list[Leg]]:
    found: dict[int, list[Leg]] = {}
    for leg in history.legs:
        found.setdefault(leg.target, []).append(leg)
    return found


def _leg_of(towards: dict[int, list[Leg]], ran: ev.Ran) -> Leg | None:
    """Return the leg that a count belongs to: the last before it with its target, if of its livepatch."""
    # A row is written after what it counts, at a mark or at the transition's end. If the transition was
    # reversed meanwhile, the target tells in which of its legs that was.
    same = towards.get(ran.target, [])
    before = bisect_right(same, ran.ts_ns, key=lambda leg: leg.begun_ns)
    return same[before - 1] if before and same[before - 1].patch == ran.patch else None


def _not_judged(leg: Leg) -> set[tuple[str, str]]:
    """Return the no-ops, and the functions that share a name: which of these ran is not told."""
    own = {
        (one.object, one.function, one.position): one.nop
        for each in leg.objects
        for one in each.functions
        if one.patch == leg.patch
    }
    names = Counter((object_, function) for object_, function, _ in own)
    return {key[:2] for key, nop in own.items() if nop or names[key[:2]] > 1}


@rule(
    "T13",
    "Each switch has one known path: first pass, retry pass, exit, idle loop, scheduler, fork, force,"
    " offline.",
    f"klp_try_switch_task, klp_update_patch_state, __klp_sched_try_switch, {_CODE}; {_MODEL}",
    _PROBE,
    f"{_ENDS} klp_start_transition {_PATHS} klp_force_transition",
)
def known_path(history: History) -> Finding:
    """Judge that every task's switch was seen, by klp_try_switch_task or around it: livepatch.rst, 3.

    A task that failed an attempt and is found switched by a later one must have been seen to switch; and
    the switches together make up for the tasks that were not in the target state at the start. Tasks that
    are born or die meanwhile may or may not have to switch, so the sum has a lower and an upper bound.
    """
    tally = Tally()
    for leg in history.legs:
        for task, number in leg.unexplained:
            words = f"{leg.told()}: {task.comm}[{task.pid}] switched, and nothing saw how"
            tally.lacking(words, *task.events, number)
        if leg.whole:
            _judge_sum(tally, leg)
        if not _scheduler_switches(history):
            _judge_no_scheduler(tally, leg)
    return tally.finding("no transition completed")


_SEEN = ("first pass", "retry pass", "exit", "idle", "scheduler", "force", "offline")


def _judge_sum(tally: Tally, leg: Leg) -> None:
    switches = sum(each.path in _SEEN for each in leg.tasks)
    # At the entry of klp_start_transition(), not at its return: on 6.12 tasks switch while it still patches
    # the static calls of cond_resched.
    counts = [(n, each) for n, each in leg.censuses if each.moment in ("before_start", "before_complete")]
    if [each.moment for _, each in counts] != ["before_start", "before_complete"]:
        tally.gap = "the census at a start or at a completion is missing"
        return
    (number, before), (_, after) = counts
    if not before.whole or not after.whole:
        tally.gap = "the census at a start or at a completion was cut short"
        return
    there = before.patched if leg.target == ev.PATCHED else before.unpatched
    due = before.tasks - there
    dead = sum(before.ts_ns < at < after.ts_ns for at in leg.dead_pending)
    born = sum(before.ts_ns < at < after.ts_ns for at in leg.born_pending)
    reaped = _reaped(leg, before, after)
    words = f"{leg.told()}: {due} tasks had to switch, {switches} were seen to"
    if leg.born or dead or reaped:
        words += f" ({len(leg.born)} born, {dead} dead before they switched, {reaped} zombies reaped)"
    if due - dead - reaped <= switches <= due + born:
        tally.good(max(0, switches - 1))
        tally.judge(True, words, number)
    else:
        tally.lacking(words, number)


def _reaped(leg: Leg, before: ev.Census, after: ev.Census) -> int:
    """Return how many zombies left the list of tasks without a switch, at most.

    A census counts whoever is on the list, zombies as well: their exit was before the transition, so that
    no event of it tells of them, and once their parent has waited for them they are gone (release_task(),
    kernel/exit.c). Those that the first pass did not meet went before it; those that it could not switch,
    and the last did not meet, went between them. As many must be missing when all is counted again.
    """
    if not leg.passes:
        return 0
    at_first = _unmet(leg, before, 0)
    at_last = _unmet(leg, before, len(leg.passes) - 1)
    tried = sum(each.path in (None, "already", "ended") and each.attempts > 0 for each in leg.tasks)
    left = before.tasks + sum(before.ts_ns < at < after.ts_ns for at in leg.born) - after.tasks
    return max(0, min(at_first + min(max(0, at_last - at_first), tried), left))


def _unmet(leg: Leg, before: ev.Census, place: int) -> int:
    """Return how many tasks a pass did not meet although no event says that they had ended.

    A pass meets all who are on the list but the idle tasks of CPUs that are offline.
    """
    walked, made = leg.walks[place], leg.passes[place][1]
    born = sum(before.ts_ns < at < walked for at in leg.born)
    gone = sum(before.ts_ns < at < walked for at in leg.gone)
    offline = sum(each.path == "offline" for each in leg.tasks)
    return max(0, before.tasks + born - gone - made.attempts - offline)


def _scheduler_switches(history: History) -> bool:
    """Whether a task may switch in the scheduler: the kernel's own functions decide, never its version.

    Vendors take the scheduler's path back into older kernels. Recordings of before the probe said whether
    it was there leave that open.
    """
    header = history.headers.get(_PROBE)
    return header is None or header.scheduler_switch is not False


def _judge_no_scheduler(tally: Tally, leg: Leg) -> None:
    for number, each in leg.in_scheduler:
        words = (
            f"{leg.told()}: {each.task.comm}[{each.task.pid}] switched in a scheduler that cannot switch"
        )
        tally.breach(words, number)
