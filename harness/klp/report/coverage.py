# SPDX-License-Identifier: Apache-2.0
"""Rules by kernels, as a table for people."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from klp.analysis.coverage import Cell, Coverage, Row
from klp.report.columns import Columns

_NO_TEST = "no test"


def coverage_table(found: Coverage) -> Group:
    """Return how many tests observe each rule on each kernel, the reasons for empty cells, and a sum."""
    notes = _notes(found)
    table = Columns(
        ("rule", "says", *(column.kernel for column in found.columns)),
        [
            (row.rule, Text(row.text, style="dim"), *(_cell(cell, notes) for cell in row.cells))
            for row in found.rows
        ],
    )
    parts: list[RenderableType] = [table, Text()]
    parts += [Text(f"({number}) {reason}") for reason, number in notes.items()]
    parts += [Text(line, style="red") for line in _violated(found)]
    parts += [Text(line, style="yellow") for line in _needless(found)]
    return Group(*parts, *_sums(found))


def _notes(found: Coverage) -> dict[str, int]:
    """Return a number for each reason that an empty cell has."""
    empty = (cell for _, _, cell in found.cells() if not cell.observed and not cell.violated)
    reasons = dict.fromkeys(cell.reason for cell in empty if cell.reason)
    return {reason: number for number, reason in enumerate(reasons, 1)}


def _cell(cell: Cell, notes: dict[str, int]) -> Text:
    if cell.violated:
        return Text(f"{len(cell.violated)} violated", style="red")
    if cell.observed:
        broken = f" +{len(cell.broken)} broken" if cell.broken else ""
        return Text(f"{len(cell.held)}{broken}", style="green")
    if cell.reason:
        return Text(f"({notes[cell.reason]})", style="dim")
    return Text(_NO_TEST, style="red")


def _violated(found: Coverage) -> list[str]:
    return [
        f"{rule} on {kernel}: violated in {test}"
        for rule, kernel, cell in found.cells()
        for test in cell.violated
    ]


def _needless(found: Coverage) -> list[str]:
    return [
        f"{rule} on {kernel}: observed, and yet said to be unobservable: {cell.reason}"
        for rule, kernel, cell in found.cells()
        if cell.observed and cell.reason
    ]


def _sums(found: Coverage) -> list[Text]:
    cells = [cell for _, _, cell in found.cells()]
    observed = sum(cell.observed for cell in cells)
    gaps = sum(cell.gap for cell in cells)
    explained = sum(bool(cell.reason) and not (cell.observed or cell.violated) for cell in cells)
    lines = []
    for column in found.columns:
        releases = ", ".join(column.releases) or "not run"
        failed = f", {len(column.failed)} failed (and count for nothing)" if column.failed else ""
        lines.append(Text(f"{column.kernel} ({releases}): {len(column.passed)} tests passed{failed}"))
    sums = f"{len(cells)} cells: {observed} observed, {explained} explained, {gaps} with {_NO_TEST}"
    return [*lines, Text(sums, style="bold")]


def tests_table(found: Coverage, row: Row) -> Group:
    """Return which tests observe one rule, and which do not, kernel by kernel."""
    lines = [Text(f"{row.rule}: {row.text}", style="bold")]
    for column, cell in zip(found.columns, row.cells, strict=True):
        kinds = {"held": cell.held, "broken on purpose": cell.broken, "violated": cell.violated}
        seen = {test for tests in kinds.values() for test in tests}
        kinds["not observed"] = tuple(each for each in column.passed if each not in seen)
        for kind, tests in kinds.items():
            lines += [Text(f"{column.kernel} {kind}: {test}") for test in tests]
        if not seen:
            lines.append(Text(f"{column.kernel}: {cell.reason or _NO_TEST}", style="yellow"))
    return Group(*lines)
