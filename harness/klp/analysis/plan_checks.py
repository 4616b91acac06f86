# SPDX-License-Identifier: Apache-2.0
"""What has to be so in a plan and is no rule of the kernel's: steps, observations, awaited lines.

Whether the kernel kept its rules is judged in `klp.analysis.rules` and nowhere else;
`klp.analysis.rule_checks` makes checks of those verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence

from klp.analysis.evidence import Verdict
from klp.analysis.legs import LegOutcome
from klp.analysis.result import Check, check
from klp.analysis.transitions import Transition, traced_counts
from klp.klog.transitions import logged_counts
from klp.trace import events as ev

# The check that only a plan has whose guest was lost under it.
SURVIVES = "guest survives"


def guest_lost(words: str, verdict: Verdict) -> Check:
    """Return the check of a plan whose guest was lost: violated, or not observed where the host lost it."""
    return Check(name=SURVIVES, verdict=verdict, evidence=words)


def life_failed(words: str) -> Check:
    """Return the check of a plan of which a step failed."""
    return check("life cycle", False, words)


def forced(words: str) -> Check:
    """Return the check of a transition that had to be forced."""
    return check("transition needs no force", False, f"{words}; forced")


def enabled(shown: bool) -> Check:
    """Check that sysfs shows a livepatch enabled once its transition is over."""
    return check("enabled after loading", shown, f"enabled is {int(shown)}")


def behaved(moment: str, command: str, output: str, *, held: bool) -> Check:
    """Return the check that a command printed what it had to at a moment."""
    shown = output.splitlines()[-1][:100] if output else "nothing"
    return check(f"{moment}: {command}", held, f"says {shown!r}")


def awaited(phase: str, pattern: str, line: str | None, waited_s: float) -> Check:
    """Return the check that the kernel log gained a line; `line` is None where none came in time."""
    words = line if line is not None else f"no such line within {waited_s:.1f} s"
    return check(f"{phase}: log has {pattern}", line is not None, words)


def transitions_complete(transitions: Sequence[Transition]) -> Check:
    """Check that there were transitions, and that each completed."""
    if not transitions:
        return check("transitions traced", False, "the trace has no transition of this livepatch")
    ends = ", ".join(f"{each.direction} {each.outcome.value}" for each in transitions)
    return check(
        "transitions complete", all(each.outcome is LegOutcome.COMPLETE for each in transitions), ends
    )


def log_agrees(transitions: Sequence[Transition], log: Sequence[str], patch: str) -> Check:
    """Check that the trace counts the same transitions of a livepatch as the kernel's own log."""
    name = "trace agrees with the kernel log"
    traced, logged = traced_counts(transitions, patch), logged_counts(log, patch)
    if traced == logged:
        counts = ", ".join(f"{what} {count}" for what, count in traced.items() if count) or "none"
        return check(name, sum(traced.values()) > 0, counts)
    differing = (f"{what}: traced {traced[what]}, logged {logged[what]}" for what in traced)
    return check(name, False, "; ".join(differing))


def none_lost(events: Sequence[ev.AnyEvent]) -> Check:
    """Check that the probes lost nothing: a trace with a hole proves nothing."""
    lost = sum(event.count for event in events if isinstance(event, ev.Lost))
    return check("no event lost", lost == 0 and bool(events), f"{len(events)} events, {lost} lost")
