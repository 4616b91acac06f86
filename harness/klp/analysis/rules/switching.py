# SPDX-License-Identifier: Apache-2.0
"""Rules T9 to T14 of transitions: kernel/livepatch/transition.c, Documentation/livepatch/livepatch.rst."""

from __future__ import annotations

from collections import Counter

from klp.analysis.evidence import Finding, Tally
from klp.analysis.history import History
from klp.analysis.legs import RUNNING, Leg, LegOutcome, TaskSwitch
from klp.analysis.rules.rule import rule
from klp.kernels import EARLIEST_SCHEDULER_SWITCH, series
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
    for at, census in leg.census("forced"):
        words = f"{leg.told()} forced: {census.pending} of {census.tasks} tasks still pending"
        tally.judge(census.pending == 0, words, number, at)
    # klp_force_transition() completes nothing itself: the work item's next pass does, up to a second later.
    after = next(((at, one) for at, one in leg.passes if one.ts_ns > forced.ts_ns), None)
    if after:
        words = f"{leg.told()} forced: the next pass left {after[1].left} tasks"
        tally.judge(after[1].complete, words, number, after[0])
    if leg.completed and leg.target == ev.UNPATCHED:
        words = f"{leg.told()} forced: klp_patch.forced is {leg.completed[1].forced}"
        tally.judge(leg.completed[1].forced, words, number, leg.completed[0])
    gone = _going_away(leg, history)
    for at, free in history.stack.frees:
        if free.patch in gone and free.ts_ns > forced.ts_ns:
            # A task that was forced may be in the old code still, at any later time: so
            # klp_free_patch_finish() leaves out module_put() where klp_patch.forced is set.
            pinned = free.forced and free.module_refs != 0
            words = f"{free.patch} went away by force: forced {free.forced}, references {free.module_refs}"
            tally.judge(pinned, words, number, at)


def _going_away(leg: Leg, history: History) -> set[str]:
    if leg.target == ev.UNPATCHED:
        return {leg.patch}
    if not leg.replace:
        return set()
    return {each.patch for _, each in history.stack.replaced if each.by == leg.patch}


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
        tally.breach(f"{leg.told()} was cancelled after its start", leg.started[0], number)
    # __klp_disable_patch() has no way to fail after its init: pre-unpatch callbacks return nothing.
    if leg.target != ev.PATCHED:
        tally.breach(f"{leg.told()} was cancelled: only a patching one can be", number)
    if leg.completed is None:
        return
    # klp_cancel_transition() sets klp_target_state to 0 before it calls klp_complete_transition().
    target = leg.completed[1].target
    words = f"{leg.told()} cancelled, and completed towards {target}"
    tally.judge(target == ev.UNPATCHED, words, number, leg.completed[0])
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
    tally = Tally()
    for number, ran in history.ran:
        leg = _leg_of(history, ran)
        if leg is None or leg.forces or (ran.object, ran.function) in _not_judged(leg):
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


def _leg_of(history: History, ran: ev.Ran) -> Leg | None:
    """Return the leg that a count belongs to: the last before it with its target, if of its livepatch."""
    if ran.target == ev.IDLE:
        return None
    # A row is written after what it counts, at a mark or at the transition's end. If the transition was
    # reversed meanwhile, the target tells in which of its legs that was.
    before = [leg for leg in history.legs if leg.begun_ns <= ran.ts_ns and leg.target == ran.target]
    return before[-1] if before and before[-1].patch == ran.patch else None


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
    f"{_ENDS} klp_start_transition {_PATHS} __klp_sched_try_switch klp_force_transition",
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
        if series(history.kernel) < EARLIEST_SCHEDULER_SWITCH:
            _judge_no_scheduler(tally, leg)
    return tally.finding("no transition completed")


_SEEN = ("first pass", "retry pass", "exit", "idle", "scheduler", "force", "offline")


def _judge_sum(tally: Tally, leg: Leg) -> None:
    switches = sum(each.path in _SEEN for each in leg.tasks)
    # At the entry of klp_start_transition(), not at its return: on 6.12 tasks switch while it still patches
    # the static calls of cond_resched.
    counts = [(n, each) for n, each in leg.censuses if each.moment == "before_start"]
    if not counts or not counts[0][1].whole:
        tally.gap = "the census at a start is missing, or was cut short"
        return
    number, census = counts[0]
    there = census.patched if leg.target == ev.PATCHED else census.unpatched
    due = census.tasks - there
    words = f"{leg.told()}: {due} tasks had to switch, {switches} were seen to"
    if leg.forks or leg.exits_pending:
        words += f" ({leg.forks} born, {leg.exits_pending} dead before they switched)"
    if due - leg.exits_pending <= switches <= due + leg.forks_pending:
        tally.good(max(0, switches - 1))
        tally.judge(True, words, number)
    elif due - leg.exits_pending - _reaped(leg, census) <= switches < due:
        tally.gap = f"{words}; zombies, which no longer switch, may have been reaped meanwhile"
    else:
        tally.lacking(words, number)


def _reaped(leg: Leg, before: ev.Census) -> int:
    """Return how many zombies left the list of tasks before the first pass, at most.

    A census counts whoever is on it, zombies as well: their exit was before the transition, so that no
    event of it tells of them, and once their parent has waited for them they are gone (release_task(),
    kernel/exit.c). Who left it otherwise was seen to die, and a pass meets all who are on it but the idle
    tasks of CPUs that are offline.
    """
    if not leg.passes:
        return 0
    first = leg.passes[0][1]
    known = (
        before.tasks + sum(at < first.ts_ns for at in leg.born) - sum(at < first.ts_ns for at in leg.gone)
    )
    return max(0, known - first.attempts - sum(each.path == "offline" for each in leg.tasks))


def _judge_no_scheduler(tally: Tally, leg: Leg) -> None:
    for each in leg.tasks:
        if each.path == "scheduler":
            words = f"{leg.told()}: {each.comm}[{each.pid}] switched in a scheduler that cannot switch"
            tally.breach(words, *each.events)


# Names of a probe's own process, which must not be what a transition waits for. A task in a trampoline of
# an fentry or fexit program has no ORC data, so its stack cannot be read: klp's probes use neither.
_OWN_TASKS = ("klp", "bpftrace", "python3")


@rule(
    "T14",
    "The probes do not change what they watch: with them, the same livepatch needs no more passes and meets"
    " no blocker that it would not meet without.",
    f"klp_try_complete_transition, {_CODE}; Documentation/livepatch/reliable-stacktrace.rst",
    "klptransition klp",
    f"{_ENDS} klp_try_complete_transition klp_try_switch_task",
)
def undisturbed(history: History) -> Finding:
    """Judge klp_try_complete_transition with and without probes: reliable-stacktrace.rst, 4.3.

    The fewest passes with probes are held against the most without. A pass that left behind only tasks
    that were running on a CPU at that moment is chance, with probes as without, and does not count. A
    blocker of the probes' own is a task of theirs whose stack cannot be read.
    """
    tally = Tally()
    controls: dict[tuple[str, int], list[tuple[int, ev.Control]]] = {}
    for number, each in history.seen.controls:
        controls.setdefault((each.patch, each.target), []).append((number, each))
    for (patch, target), without in controls.items():
        own = [leg for leg in history.legs if (leg.patch, leg.target) == (patch, target)]
        own = [
            leg for leg in own if leg.outcome is LegOutcome.COMPLETE and not leg.forces and not leg.reversal
        ]
        if own:
            _judge_passes(tally, own, without)
        for leg in own:
            for task in leg.tasks:
                _judge_own_task(tally, leg, task)
    return tally.finding("no transition of this trace was also made without probes")


def _judge_passes(tally: Tally, own: list[Leg], without: list[tuple[int, ev.Control]]) -> None:
    fewest = min(own, key=_needed)
    number, most = max(without, key=lambda each: each[1].passes)
    words = f"{fewest.told()}: {_needed(fewest)} passes with probes, {most.passes} without"
    tally.judge(_needed(fewest) <= most.passes, words, fewest.begun[0], number)


def _needed(leg: Leg) -> int:
    """Return the passes that a leg had to have: the last, and those in which a task was held up."""
    held = (sum(count for reason, count in task.reasons.items() if reason != RUNNING) for task in leg.tasks)
    return 1 + max(held, default=0)


def _judge_own_task(tally: Tally, leg: Leg, task: TaskSwitch) -> None:
    unread = [why for why in task.reasons if "could not be read" in why]
    if unread and task.comm.startswith(_OWN_TASKS):
        tally.breach(
            f"{leg.told()}: held by the probe's {task.comm}[{task.pid}]: {unread[0]}", *task.events
        )
