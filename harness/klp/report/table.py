# SPDX-License-Identifier: Apache-2.0
"""A run's result as a table for people."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from klp.analysis.evidence import Verdict, overall
from klp.analysis.exercised import exercised
from klp.analysis.result import PlanResult, RunResult
from klp.analysis.rule_checks import rule_name
from klp.analysis.transitions import Straggler, Transition
from klp.report.columns import Columns
from klp.trace.events import PATCHED

STYLES = {Verdict.HELD: "green", Verdict.VIOLATED: "red", Verdict.NOT_OBSERVED: "yellow"}
_NONE = "-"
_TITLES = ("livepatch", "patch s", "unpatch s", "passes", "tasks", "shadow made/freed/left", "verdict")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def run_table(result: RunResult) -> Group:
    """Return a line of figures for each plan of a run, with the names that belong to it below.

    Names of functions and tasks are long and many; in columns of their own they would be cut to bits.
    """
    where = f"kernel {result.provenance.kernel} under {result.provenance.accelerator}"
    if result.provenance.debug:
        where += f", looking for faults in memory ({result.provenance.debug})"
    plans = _repetitions(result)
    table = Columns(
        _TITLES, map(_cells, plans), right=_TITLES[1:-1], below=[_details(same) for same in plans]
    )
    return Group(Text(where, style="bold"), Text(), table, Text())


def _repetitions(result: RunResult) -> list[Sequence[PlanResult]]:
    """Return the repetitions of each plan together."""
    found: dict[str, list[PlanResult]] = {}
    for plan in result.plans:
        found.setdefault(plan.name, []).append(plan)
    return list(found.values())


def _title(same: Sequence[PlanResult]) -> str:
    return f"{same[0].name} ({len(same)} times)" if len(same) > 1 else same[0].name


def _cells(same: Sequence[PlanResult]) -> list[Text]:
    """Return the cells of a plan; of several repetitions the range of each figure."""
    figures = [_figures(plan) for plan in same]
    verdicts = Counter(plan.verdict for plan in same)
    verdict = overall(verdicts)
    words = (
        verdict.value if verdicts[verdict] == len(same) else f"{verdict.value} {verdicts[verdict]} times"
    )
    cells = (_range([each[column] for each in figures]) for column in range(len(figures[0])))
    return [Text(_title(same)), *(Text(cell) for cell in cells), Text(words, style=STYLES[verdict])]


def _figures(plan: PlanResult) -> tuple[str, ...]:
    patch = [each for each in plan.transitions if each.target == PATCHED]
    unpatch = [each for each in plan.transitions if each.target != PATCHED]
    ledger = plan.shadow
    used = ledger.allocated or ledger.freed
    return (
        _seconds(patch),
        _seconds(unpatch),
        "+".join(str(each.passes) for each in plan.transitions) or _NONE,
        "+".join(str(sum(each.tasks.values())) for each in plan.transitions) or _NONE,
        f"{ledger.allocated}/{ledger.freed}/{len(ledger.left)}" if used else _NONE,
    )


def _range(cells: Sequence[str]) -> str:
    """Return some figures in one cell: the least and the greatest of each number in it."""
    shapes = {_NUMBER.sub("#", each) for each in cells}
    if len(shapes) > 1:  # as where one repetition has a transition less
        return " or ".join(sorted(set(cells)))
    columns = zip(*(_NUMBER.findall(each) for each in cells), strict=True)
    ranges = iter([sorted(set(each), key=float) for each in columns])
    return _NUMBER.sub(lambda _: "-".join(_ends(next(ranges))), cells[0])


def _ends(ordered: Sequence[str]) -> Sequence[str]:
    return ordered if len(ordered) == 1 else (ordered[0], ordered[-1])


def _details(same: Sequence[PlanResult]) -> list[str]:
    """What it changes, who was left behind, and which callbacks ran, a line each."""
    first = same[0]
    orders = Counter(tuple(_callbacks(plan)) for plan in same)
    usual, _ = orders.most_common(1)[0]
    return [
        *_changes(first),
        *_exercised(same),
        *(f"left behind: {line}" for line in _stragglers(same)),
        *(f"callbacks of {line}" for line in usual),
        *([f"callbacks differ in {len(same) - orders[usual]} repetitions"] if len(orders) > 1 else []),
    ]


def _changes(plan: PlanResult) -> list[str]:
    if not plan.livepatch:
        return ["a plain module, for others to act on"]
    lines = [
        f"changes {each.object}: {', '.join(name.split(',')[0] for name in each.functions)}"
        for each in plan.objects
        if each.functions
    ]
    bare = [each.object for each in plan.objects if not each.functions]
    return [*lines, f"has callbacks alone for {', '.join(bare)}"] if bare else lines


def _exercised(same: Sequence[PlanResult]) -> list[str]:
    """How much of what it changes was seen to run, of several repetitions in all of them together."""
    counted = [(each.title, each.calls) for each in same if each.calls]
    return [exercised("", same[0].livepatch, counted).told()] if counted else []


def _seconds(found: list[Transition]) -> str:
    times = [f"{each.duration_ns / 1e9:.2f}" if each.duration_ns else "not ended" for each in found]
    return " ".join(times) or _NONE


def _stragglers(same: Sequence[PlanResult], most: int = 3) -> list[str]:
    everyone = [one for plan in same for each in plan.transitions for one in each.stragglers]
    lines = [straggler_line(each) for each in sorted(everyone, key=lambda one: -one.held_ns)]
    return [*lines[:most], f"and {len(lines) - most} more"] if len(lines) > most else lines


def straggler_line(straggler: Straggler) -> str:
    """Return who was left behind, for how long, and why, in one line."""
    reasons = ", ".join(straggler.reasons)
    end = "; ended by the kernel's signal" if straggler.signalled else ""
    outlook = f"; {straggler.outlook}" if straggler.outlook else ""
    return f"{straggler.comm}[{straggler.pid}] {straggler.held_ns / 1e9:.2f} s: {reasons}{end}{outlook}"


def _callbacks(plan: PlanResult) -> list[str]:
    """Each object's callbacks in order, a line an object."""
    by_object: dict[str, list[str]] = {}
    for each in plan.callbacks:
        refused = f"={each.result}" if each.result else ""
        by_object.setdefault(each.object, []).append(f"{each.kind.replace('_', '-')}{refused}")
    return [f"{name}: {' '.join(kinds)}" for name, kinds in by_object.items()]


def failed_checks(result: RunResult) -> list[str]:
    """Return a line for each violated check, and for each violated rule that is not among the checks."""
    checks = [
        f"{plan.title}: {check.name}: {check.evidence}"
        for plan in result.plans
        for check in plan.checks
        if check.verdict is Verdict.VIOLATED
    ]
    by_plans = {
        check.name for plan in result.plans for check in plan.checks if check.verdict is Verdict.VIOLATED
    }
    broken = [
        each
        for each in result.rules
        if each.verdict is Verdict.VIOLATED and rule_name(each.rule.id) not in by_plans
    ]
    return [*checks, *(f"{rule_name(each.rule.id)}: {each.rule.text}: {each.why}" for each in broken)]


def rules_line(result: RunResult) -> str:
    """Return how many rules the trace holds, breaks and does not show."""
    counts = Counter(each.verdict for each in result.rules)
    return "rules: " + ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)
