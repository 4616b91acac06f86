# SPDX-License-Identifier: Apache-2.0
"""Rules T7 and T14, of the passes over the tasks: kernel/livepatch/transition.c."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from klp.analysis.evidence import Finding, Tally
from klp.analysis.history import History, spans
from klp.analysis.legs import Leg, LegOutcome, TaskSwitch
from klp.analysis.rules.rule import rule
from klp.trace import events as ev

_CODE = "kernel/livepatch/transition.c"
_MODEL = "Documentation/livepatch/livepatch.rst, 3. Consistency model"
_PROBE = "klptransition"
_ENDS = "klp_init_transition klp_complete_transition"

# round_jiffies_relative(HZ) is 0.75 to 1.75 s. Sooner, because the clock of an emulated guest catches up
# after it stood still; later, because a busy host has no time for the guest.
_SOONEST_NS, _LATEST_NS = 400_000_000, 10_000_000_000
_SIGNAL_EVERY = 15  # SIGNALS_TIMEOUT, transition.c


@rule(
    "T7",
    "While tasks remain, the work function tries again about once a second; every 15th try signals.",
    f"klp_transition_work_fn and klp_send_signals, {_CODE}; {_MODEL}",
    _PROBE,
    f"{_ENDS} klp_start_transition klp_try_complete_transition klp_send_signals klp_signals_cnt"
    " klp_reverse_transition",
)
def tries_again(history: History) -> Finding:
    """Judge klp_try_complete_transition's schedule_delayed_work and SIGNALS_TIMEOUT: livepatch.rst, 3.

    A pass waits for klp_mutex, so a late one is judged only if no module came or went and no livepatch was
    being enabled meanwhile: these hold it, and klpstates tells of them. A reversal leaves the delayed work
    as it is scheduled already.
    """
    tally, mutex = Tally(), _Mutex(history)
    for leg in history.legs:
        for (_, one), (number, following) in zip(leg.passes, leg.passes[1:], strict=False):
            gap = following.ts_ns - one.ts_ns - one.duration_ns
            words = f"{leg.told()}: pass {following.number}, {gap / 1e9:.2f} s after the one before"
            if gap > _LATEST_NS:
                _judge_late(tally, mutex, (one.ts_ns, following.ts_ns), words, number)
            else:
                tally.judge(gap >= _SOONEST_NS, words, number, sure=False)
        for number, one in leg.passes:
            # A pass that completes neither signals nor counts on: klp_try_complete_transition() does both
            # only where tasks remain.
            if not one.complete:
                _judge_signals(tally, leg, number, one)
        _judge_stalled(tally, leg, history, mutex)
    return tally.finding("every transition completed in its first pass")


class _Mutex:
    """When klp_mutex was held by others than passes, as far as that was told."""

    def __init__(self, history: History) -> None:
        self.told = history.told("klpstates", "klp_enable_patch", "klp_module_coming", "klp_module_going")
        held = [(each.ts_ns, each.ts_ns + each.duration_ns) for _, each in history.modules]
        held += [(each.ts_ns, each.ts_ns + each.duration_ns) for _, each in history.stack.enables]
        held.sort()
        self._begins = [begun for begun, _ in held]
        # The latest end of those that had begun by then.
        self._ends = list(accumulate((end for _, end in held), max))

    def held(self, begin_ns: int, end_ns: int) -> bool:
        """Whether it was at any moment of a stretch."""
        begun = bisect_right(self._begins, end_ns)
        return begun > 0 and self._ends[begun - 1] >= begin_ns


def _judge_late(tally: Tally, mutex: _Mutex, between: tuple[int, int], words: str, number: int) -> None:
    if not mutex.told:
        tally.gap = f"{words}; who held klp_mutex meanwhile, only klpstates could tell"
    else:
        tally.judge(mutex.held(*between), words, number, sure=False)


def _judge_signals(tally: Tally, leg: Leg, number: int, one: ev.Pass) -> None:
    # It is 0 in the first pass and counted up by each that fails: the pass that finds 15 is the sixteenth.
    count = one.core.signals_cnt
    due = count > 0 and count % _SIGNAL_EVERY == 0
    sent = [at for at, each in leg.signals if spans(one, each.ts_ns)]
    words = f"{leg.told()}: pass {one.number} with klp_signals_cnt {count}"
    if due and not sent:
        tally.lacking(f"{words} sent no signal", number)
    elif sent and not due:
        tally.lacking(f"{words} sent signals", number, *sent)
    elif due:
        tally.judge(True, f"{words} sent signals", number, *sent)
    # klp_start_transition() sets it to 0, also in a reversal; until then it keeps the value of the
    # transition before.
    if count != one.number - 1:
        tally.lacking(f"{words}: {one.number - 1} were expected", number)


def _judge_stalled(tally: Tally, leg: Leg, history: History, mutex: _Mutex) -> None:
    """Judge a transition that was left alone: the trace goes on for long, and no further pass comes.

    It goes on for as long as the probe was heard: that the guest died later tells nothing of a pass.
    """
    # An earlier leg without an end was followed by another init: T1 judges that.
    if leg.completed or leg.reversed_by or not leg.passes or leg is not history.legs[-1]:
        return
    number, last = leg.passes[-1]
    until = history.heard.get(_PROBE, 0)
    waited = until - last.ts_ns - last.duration_ns
    if waited > _LATEST_NS:
        words = f"{leg.told()}: no pass for {waited / 1e9:.1f} s after pass {last.number}"
        _judge_late(tally, mutex, (last.ts_ns, until), words, number)


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
    # Not sure: one that needed fewer may have been lost.
    tally.judge(_needed(fewest) <= most.passes, words, fewest.begun[0], number, sure=False)


def _needed(leg: Leg) -> int:
    """Return the passes that a leg had to have: all but those that were held up by chance."""
    return len(leg.passes) - leg.chance_passes


def _judge_own_task(tally: Tally, leg: Leg, task: TaskSwitch) -> None:
    unread = [why for why in task.reasons if "could not be read" in why]
    if unread and task.comm.startswith(_OWN_TASKS):
        tally.breach(
            f"{leg.told()}: held by the probe's {task.comm}[{task.pid}]: {unread[0]}", *task.events
        )
