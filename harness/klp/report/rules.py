# SPDX-License-Identifier: Apache-2.0
"""Rules and their verdicts as tables for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from klp.analysis.evidence import Verdict, evidence_line
from klp.analysis.rules.rule import Rule, RuleVerdict
from klp.report.columns import Columns
from klp.report.table import STYLES


def rules_table(rules: Iterable[Rule]) -> Columns:
    """Return a line for each rule: its text, its source in the kernel, and what it needs to be judged."""
    return Columns(
        ("rule", "says", "source", "needs"),
        [
            (each.id, each.text, each.source,
             f"{' '.join(each.needs.probes)}: {' '.join(each.needs.symbols)}".removesuffix(": "))
            for each in rules
        ],
        spare=("needs",),
    )  # fmt: skip


def rules_in_full(rules: Sequence[Rule]) -> Group:
    """Return each rule in a paragraph of its own: what it says, where that is from, what it needs."""
    parts: list[RenderableType] = []
    for each in rules:
        needs = [("probes", ", ".join(each.needs.probes)), ("watching", ", ".join(each.needs.symbols))]
        rows = [("says", each.text), ("source", each.source), *(row for row in needs if row[1])]
        parts += [Text(each.id, style="bold"), Columns((), rows, indent=2)]
    return Group(*parts)


def verdicts_table(verdicts: Sequence[RuleVerdict]) -> Group:
    """Return each rule's verdict with what it rests on, the evidence of broken ones below, and a sum."""
    table = Columns(
        ("rule", "verdict", "seen", "evidence"),
        [
            (each.rule.id, Text(each.verdict.value, style=STYLES[each.verdict]), each.observations or None,
             _basis(each))
            for each in verdicts
        ],
    )  # fmt: skip
    counts = Counter(each.verdict for each in verdicts)
    words = ", ".join(f"{counts[kind]} {kind.value}" for kind in Verdict)
    return Group(table, *_broken(verdicts), Text(), Text(words, style="bold"))


def _basis(each: RuleVerdict) -> str:
    if each.verdict is Verdict.HELD:
        return evidence_line(each.evidence[0]) if each.evidence else each.why
    return each.why


def _broken(verdicts: Sequence[RuleVerdict]) -> list[Text]:
    lines = []
    for each in verdicts:
        if each.verdict is Verdict.VIOLATED:
            lines += [Text(), Text(f"{each.rule.id} violated: {each.rule.text}", style="red")]
            lines += [Text(f"  {evidence_line(one)}") for one in each.evidence]
    return lines
