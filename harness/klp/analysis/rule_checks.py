# SPDX-License-Identifier: Apache-2.0
"""Verdicts of rules as checks: by these a plan or a selftest tells what the rules say of its trace."""

from __future__ import annotations

from collections.abc import Sequence

from klp.analysis.evidence import Verdict, evidence_line
from klp.analysis.history import History
from klp.analysis.result import Check
from klp.analysis.rules.registry import RULES, RuleVerdict, judge_all

# What the names of checks begin with that are a rule's verdict.
RULE = "rule "
# The name of the check that counts the rules of which the trace shows nothing.
OTHER_RULES = "other rules"
_MOST_BROKEN = 3


# Rules that are judged on whole runs only. T14 compares the fewest passes of each livepatch with the most
# that it took without probes; with one transition on either side the outcome is chance.
_OF_RUNS_ALONE = {"T14"}


def plan_verdicts(span: History) -> tuple[RuleVerdict, ...]:
    """Return the verdicts on a plan's span of a trace, on each rule that may be judged of so little."""
    return judge_all(span, RULES.keys() - _OF_RUNS_ALONE)


def rule_name(rule: str) -> str:
    """Return what the check of a rule is called."""
    return f"{RULE}{rule}"


def rule_checks(verdicts: Sequence[RuleVerdict]) -> tuple[Check, ...]:
    """Return a check for each rule that the trace says something on, and one that names the others."""
    observed = [each for each in verdicts if each.verdict is not Verdict.NOT_OBSERVED]
    silent = [each.rule.id for each in verdicts if each.verdict is Verdict.NOT_OBSERVED]
    checks = [
        Check(name=rule_name(each.rule.id), verdict=each.verdict, evidence=_basis(each))
        for each in observed
    ]
    if silent:
        counted = f"{len(silent)} of {len(verdicts)}: {' '.join(silent)}"
        checks.append(Check(name=OTHER_RULES, verdict=Verdict.NOT_OBSERVED, evidence=counted))
    return tuple(checks)


def _basis(each: RuleVerdict) -> str:
    if each.verdict is Verdict.HELD:
        return each.why
    broken = "; ".join(evidence_line(one) for one in each.evidence[:_MOST_BROKEN])
    more = len(each.evidence) - _MOST_BROKEN
    return f"{each.rule.text} {broken}" + (f"; and {more} more" if more > 0 else "")
