# SPDX-License-Identifier: Apache-2.0
"""A run's result as a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.analysis.evidence import Verdict
from harness.analysis.result import PlanResult, RunResult
from harness.analysis.transitions import Straggler, Transition
from harness.trace.events import PATCHED

# How a verdict looks.
STYLES = {Verdict.HELD: "green", Verdict.VIOLATED: "red", Verdict.NOT_OBSERVED: "yellow"}
_NONE = "-"
_TITLES = ("livepatch", "patch s", "unpatch s", "passes", "tasks", "shadow made/freed/left", "verdict")
_FIGURE_WIDTH = 9


def run_table(result: RunResult) -> Group:
    """Return a line of figures for each plan of a run, with the names that belong to it below.

    Names of functions and tasks are long and many; in columns of their own they would be cut to bits.
    """
    where = f"kernel {result.provenance.kernel} under {result.provenance.accelerator}"
    width = max(len(name) for name in (_TITLES[0], *(plan.name for plan in result.plans)))
    heading = _line([Text(title, style="dim") for title in _TITLES], width)
    parts: list[RenderableType] = [Text(where, style="bold"), Text(), heading]
    for plan in result.plans:
        parts.append(_line(_cells(plan), width))
        parts += [Padding(Text(line, style="dim"), (0, 0, 0, 4)) for line in _details(plan)]
    return Group(*parts, Text())


def _line(cells: Sequence[Text], name_width: int) -> Table:
    """Return one line of the table; its columns are as wide as in every other line."""
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column(width=name_width, overflow="fold")
    for title in _TITLES[1:-1]:
        line.add_column(width=max(len(title), _FIGURE_WIDTH), justify="right", no_wrap=True)
    line.add_column()
    line.add_row(*cells)
    return line


def _cells(plan: PlanResult) -> list[Text]:
    patch = [each for each in plan.transitions if each.target == PATCHED]
    unpatch = [each for each in plan.transitions if each.target != PATCHED]
    ledger = plan.shadow
    used = ledger.allocated or ledger.freed
    figures = (
        _seconds(patch),
        _seconds(unpatch),
        "+".join(str(each.passes) for each in plan.transitions) or _NONE,
        "+".join(str(sum(each.tasks.values())) for each in plan.transitions) or _NONE,
        f"{ledger.allocated}/{ledger.freed}/{len(ledger.left)}" if used else _NONE,
    )
    verdict = Text(plan.verdict.value, style=STYLES[plan.verdict])
    return [Text(plan.name), *(Text(figure) for figure in figures), verdict]


def _details(plan: PlanResult) -> list[str]:
    """What it changes, who was left behind, and which callbacks ran, a line each."""
    return [
        *_changes(plan),
        *(f"left behind: {line}" for line in _stragglers(plan)),
        *(f"callbacks of {line}" for line in _callbacks(plan)),
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


def _seconds(found: list[Transition]) -> str:
    times = [f"{each.duration_ns / 1e9:.2f}" if each.duration_ns else "not ended" for each in found]
    return " ".join(times) or _NONE


def _stragglers(plan: PlanResult, most: int = 3) -> list[str]:
    everyone = [one for each in plan.transitions for one in each.stragglers]
    told = [straggler_line(each) for each in sorted(everyone, key=lambda one: -one.held_ns)]
    return [*told[:most], f"and {len(told) - most} more"] if len(told) > most else told


def straggler_line(straggler: Straggler) -> str:
    """Return who was left behind, for how long, and why, in one line."""
    reasons = ", ".join(straggler.reasons)
    return f"{straggler.comm}[{straggler.pid}] {straggler.held_ns / 1e9:.2f} s: {reasons}"


def _callbacks(plan: PlanResult) -> list[str]:
    """Each object's callbacks in order, a line an object."""
    by_object: dict[str, list[str]] = {}
    for each in plan.callbacks:
        refused = f"={each.result}" if each.result else ""
        by_object.setdefault(each.object, []).append(f"{each.kind.replace('_', '-')}{refused}")
    return [f"{name}: {' '.join(kinds)}" for name, kinds in by_object.items()]


def failed_checks(result: RunResult) -> list[str]:
    """Return a line for each check that did not hold, and for each rule that was broken."""
    checks = [
        f"{plan.name}: {check.name}: {check.evidence}"
        for plan in result.plans
        for check in plan.checks
        if check.verdict is Verdict.VIOLATED
    ]
    broken = [each for each in result.rules if each.verdict is Verdict.VIOLATED]
    return [*checks, *(f"rule {each.rule.id}: {each.rule.text}: {each.why}" for each in broken)]


def rules_line(result: RunResult) -> str:
    """Return how many rules the trace holds, breaks and does not show."""
    counts = Counter(each.verdict for each in result.rules)
    return "rules: " + ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)


def plain_table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return rows of values: numbers to the right, null as a dash, nothing cut off."""
    cells = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for index, title in enumerate(titles):
        numbers = any(isinstance(row[index], int | float | Decimal) for row in cells)
        table.add_column(title, overflow="fold", justify="right" if numbers else "left")
    for row in cells:
        table.add_row(*(_shown(value) for value in row))
    return table


def _shown(value: object) -> Text:
    if isinstance(value, Text):
        return value
    return Text(_NONE if value is None else str(value))
