# SPDX-License-Identifier: Apache-2.0
"""A run's result as a table for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from harness.analysis.result import PlanResult, RunResult, Verdict
from harness.analysis.transitions import Straggler, Transition
from harness.trace.events import PATCHED

_STYLES = {Verdict.HELD: "green", Verdict.VIOLATED: "red", Verdict.NOT_OBSERVED: "yellow"}
_NONE = "-"
_BLOCK_TITLES = (
    "changes", "patch s", "unpatch s", "passes", "tasks", "stragglers", "shadow made/freed/left",
    "callbacks",
)  # fmt: skip


def run_table(result: RunResult) -> Table:
    """Return one row for each plan of a run; its title names the kernel."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold")
    table.title = f"kernel {result.provenance.kernel} under {result.provenance.accelerator}"
    table.add_column("plan", overflow="fold")
    table.add_column("changes", overflow="fold")
    for title in ("patch\ns", "unpatch\ns", "passes", "tasks"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("stragglers", overflow="fold")
    table.add_column("shadow\nmade/freed/left", justify="right", no_wrap=True)
    table.add_column("callbacks", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for plan in result.plans:
        table.add_row(*_cells(plan))
    return table


def _cells(plan: PlanResult) -> tuple[Text, ...]:
    """Text, not str: rich would take a task's or a module's [name] for a style."""
    patch = [each for each in plan.transitions if each.target == PATCHED]
    unpatch = [each for each in plan.transitions if each.target != PATCHED]
    ledger = plan.shadow
    used = ledger.allocated or ledger.freed
    told = (
        plan.name,
        "\n".join(_changes(plan)) or "(plain module)",
        _seconds(patch),
        _seconds(unpatch),
        "+".join(str(each.passes) for each in plan.transitions) or _NONE,
        "+".join(str(sum(each.tasks.values())) for each in plan.transitions) or _NONE,
        "\n".join(_stragglers(plan)) or _NONE,
        f"{ledger.allocated}/{ledger.freed}/{len(ledger.left)}" if used else _NONE,
        "\n".join(_callbacks(plan)) or _NONE,
    )
    return (*map(Text, told), Text(plan.verdict.value, style=_STYLES[plan.verdict]))


def _changes(plan: PlanResult) -> list[str]:
    return [
        f"{each.object}: {', '.join(name.split(',')[0] for name in each.functions) or 'callbacks'}"
        for each in plan.objects
    ]


def run_blocks(result: RunResult) -> Iterator[str]:
    """Yield the same as lines, a block for each plan: for terminals too narrow for the table."""
    for plan in result.plans:
        cells = [str(cell) for cell in _cells(plan)]
        yield f"{cells[0]}: {cells[-1]}"
        for title, cell in zip(_BLOCK_TITLES, cells[1:-1], strict=True):
            if cell != _NONE:
                yield f"  {title}: " + "; ".join(cell.splitlines())


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
    """Return a line for each check that did not hold."""
    return [
        f"{plan.name}: {check.name}: {check.evidence}"
        for plan in result.plans
        for check in plan.checks
        if check.verdict is Verdict.VIOLATED
    ]
