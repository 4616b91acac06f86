# SPDX-License-Identifier: Apache-2.0
"""Our own rules on a selftest's trace: a second opinion, independent of what the script says.

This is the one place where verdicts on a script's trace and kernel log come from.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from klp.analysis.checks import alarm_check, check, loss_check, shadow_check
from klp.analysis.evidence import Verdict
from klp.analysis.result import Check
from klp.analysis.rules.registry import RuleVerdict
from klp.analysis.shadow import shadow_ledger
from klp.klog.lines import alarms
from klp.records.verdicts import judge_run
from klp.report.rules import evidence_line
from klp.trace.reading import BadTrace
from klp.trace.store import EventStore, TornStream

_MOST_BROKEN = 3
_LOG_RULE = "L6"


def trace_checks(events: Path) -> tuple[Check, ...]:
    """Return the verdicts on a script's recorded events; the file may be one of an older run."""
    with EventStore(Path(os.devnull)) as store:
        store.append(events.read_bytes().splitlines())
        try:
            store.check()
            verdicts = judge_run(events)
        except (TornStream, BadTrace) as torn:
            return (check("trace whole", False, torn.message),)
        seen = store.since()
    return (loss_check(seen), shadow_check(shadow_ledger(seen)), *rule_checks(verdicts))


def rule_checks(verdicts: Sequence[RuleVerdict]) -> tuple[Check, ...]:
    """Return a check for each rule that the trace says something on, and one that names the others."""
    told = [each for each in verdicts if each.verdict is not Verdict.NOT_OBSERVED]
    silent = [each.rule.id for each in verdicts if each.verdict is Verdict.NOT_OBSERVED]
    checks = [
        Check(name=rule_name(each.rule.id), verdict=each.verdict, evidence=_basis(each)) for each in told
    ]
    if silent:
        counted = f"{len(silent)} of {len(verdicts)}: {' '.join(silent)}"
        checks.append(Check(name="other rules", verdict=Verdict.NOT_OBSERVED, evidence=counted))
    return tuple(checks)


def rule_name(rule: str) -> str:
    """Return what the check of a rule is called."""
    return f"rule {rule}"


def _basis(each: RuleVerdict) -> str:
    if each.verdict is Verdict.HELD:
        return each.why
    broken = "; ".join(evidence_line(one) for one in each.evidence[:_MOST_BROKEN])
    more = len(each.evidence) - _MOST_BROKEN
    return f"{each.rule.text} {broken}" + (f"; and {more} more" if more > 0 else "")


def log_checks(lines: Sequence[str], judged: Sequence[Check] = ()) -> tuple[Check, ...]:
    """Return the verdicts on the kernel's log lines of a script's span (L6).

    None where the rule is among what was `judged` on the trace, which then has those lines.
    """
    if rule_name(_LOG_RULE) in {each.name for each in judged}:
        return ()
    return (alarm_check(alarms(tuple(lines))),)
