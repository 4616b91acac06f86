# SPDX-License-Identifier: Apache-2.0
"""The checks of one plan: from its events, its kernel log and its observations to verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from klp.analysis.evidence import Verdict
from klp.analysis.klog import logged_counts, traced_counts
from klp.analysis.legs import LegOutcome
from klp.analysis.result import CallbackCall, Check
from klp.analysis.shadow import ShadowLedger
from klp.analysis.transitions import Transition
from klp.trace import events as ev

# The check that only a plan has whose guest was lost under it.
SURVIVES = "guest survives"


def check(name: str, held: bool, evidence: str) -> Check:
    """Return a check that was observed."""
    return Check(name=name, verdict=Verdict.HELD if held else Verdict.VIOLATED, evidence=evidence)


def callback_calls(events: Sequence[ev.AnyEvent], patch: str) -> tuple[CallbackCall, ...]:
    """Return a livepatch's callbacks in the order they ran."""
    return tuple(
        CallbackCall(
            kind=event.kind,
            object=event.object,
            function=event.function,
            result=event.result,
            duration_ns=event.duration_ns,
        )
        for event in events
        if isinstance(event, ev.Callback) and event.patch == patch
    )


def transition_checks(transitions: Sequence[Transition]) -> list[Check]:
    """Check that each transition completed, and that no task switched twice in one (T4)."""
    if not transitions:
        return [check("transitions traced", False, "the trace has no transition of this livepatch")]
    ends = ", ".join(f"{each.direction} {each.outcome.value}" for each in transitions)
    completed = all(each.outcome is LegOutcome.COMPLETE for each in transitions)
    twice = [pid for each in transitions for pid in each.twice]
    switched = sum(sum(each.tasks.values()) for each in transitions)
    return [
        check("transitions complete", completed, ends),
        check(
            "each task switches once",
            not twice and switched > 0,
            f"{switched} switches" + (f"; more than one by {twice}" if twice else ""),
        ),
    ]


def log_check(transitions: Sequence[Transition], log: Sequence[str], patch: str) -> Check:
    """Check that the trace counts the same transitions as the kernel's own log."""
    traced, logged = traced_counts(transitions, patch), logged_counts(log, patch)
    if traced == logged:
        told = ", ".join(f"{what} {count}" for what, count in traced.items() if count) or "none"
        return check("trace agrees with the kernel log", sum(traced.values()) > 0, told)
    differing = (f"{what}: traced {traced[what]}, logged {logged[what]}" for what in traced)
    return check("trace agrees with the kernel log", False, "; ".join(differing))


def shadow_check(ledger: ShadowLedger) -> Check:
    """Check that every shadow variable made was freed (S7)."""
    if not ledger.allocated:
        return Check(name="shadow variables freed", verdict=Verdict.NOT_OBSERVED, evidence="none was made")
    left = "; ".join(f"id {each.id} by {each.caller}" for each in ledger.left[:3])
    told = f"{ledger.allocated} made, {ledger.freed} freed" + (f", left: {left}" if left else "")
    return check("shadow variables freed", not ledger.left, told)


def loss_check(events: Sequence[ev.AnyEvent]) -> Check:
    """Check that the probes lost nothing: a trace with a hole proves nothing."""
    lost = sum(event.count for event in events if isinstance(event, ev.Lost))
    return check("no event lost", lost == 0 and bool(events), f"{len(events)} events, {lost} lost")


def alarm_check(alarms: Sequence[str]) -> Check:
    """Check that the kernel reported no warning, oops, lockup or stall (L6)."""
    return check("kernel log clean", not alarms, alarms[0] if alarms else "no report in it")
