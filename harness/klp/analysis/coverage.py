# SPDX-License-Identifier: Apache-2.0
"""Which tests observe which rule on which kernel, from the verdicts that tests recorded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from klp.analysis.evidence import Verdict
from klp.analysis.rules.rule import Rule

COVERAGE_SCHEMA = 1
PASSED = "passed"


class RecordedTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One test on one kernel, as a session of tests wrote it down.

    Attributes:
        test: its id.
        kernel: what the kernel was asked for by.
        release: ``uname -r``; empty if no guest came up.
        outcome: passed, failed or skipped.
        verdicts: what its trace says, by the rule's id; rules it says nothing on are left out.
        breaks: the rules that the test says it breaks on purpose.
    """

    test: str
    kernel: str
    release: str
    outcome: str
    verdicts: dict[str, Verdict]
    breaks: tuple[str, ...]

    def has(self, rule: str, verdict: Verdict) -> bool:
        """Whether its trace says this on a rule."""
        return self.verdicts.get(rule) is verdict


class Reason(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why no test can observe some rules.

    Attributes:
        rules: their ids.
        kernels: where that is so; none means everywhere.
        reason: why, in a line.
    """

    rules: tuple[str, ...]
    reason: str
    kernels: tuple[str, ...] = ()

    def excuses(self, rule: str, kernel: str) -> bool:
        """Whether it is about a rule on a kernel."""
        return rule in self.rules and (not self.kernels or kernel in self.kernels)


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One rule on one kernel.

    Attributes:
        held: passed tests whose traces hold it.
        broken: passed tests that broke it on purpose, and whose traces show that.
        violated: tests, passed or not, whose traces show it broken though none had said so.
        reason: why it need not be observed; null where nobody says.
    """

    held: tuple[str, ...]
    broken: tuple[str, ...]
    violated: tuple[str, ...]
    reason: str | None

    @property
    def observed(self) -> bool:
        """Whether a passed test has shown what the rule comes to."""
        return bool(self.held or self.broken)

    @property
    def gap(self) -> bool:
        """Whether nothing was observed, and nobody says why."""
        return not (self.observed or self.violated or self.reason)


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel: its name, the releases that were run, and every test that ran to its end there."""

    kernel: str
    releases: tuple[str, ...]
    passed: tuple[str, ...]
    failed: tuple[str, ...]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A rule, and its cells in the order of the columns."""

    rule: str
    text: str
    cells: tuple[Cell, ...]


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """Rules by kernels; schema version 1."""

    schema: int
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def cells(self) -> tuple[tuple[str, str, Cell], ...]:
        """Return (rule, kernel, cell) of every cell."""
        return tuple(
            (row.rule, column.kernel, cell)
            for row in self.rows
            for column, cell in zip(self.columns, row.cells, strict=True)
        )

    @property
    def good(self) -> bool:
        """Whether every cell is observed or explained, and none violated."""
        return not any(cell.gap or cell.violated for _, _, cell in self.cells())


def coverage_of(
    records: Sequence[RecordedTest],
    rules: Iterable[Rule],
    kernels: Sequence[str],
    reasons: Sequence[Reason],
) -> Coverage:
    """Return what `records` show of `rules` on `kernels`; a kernel without any test has empty cells."""
    return Coverage(
        schema=COVERAGE_SCHEMA,
        columns=tuple(_column(records, kernel) for kernel in kernels),
        rows=tuple(
            Row(
                rule=each.id,
                text=each.text,
                cells=tuple(_cell(records, each.id, kernel, reasons) for kernel in kernels),
            )
            for each in rules
        ),
    )


def _column(records: Sequence[RecordedTest], kernel: str) -> Column:
    own = [each for each in records if each.kernel == kernel]
    return Column(
        kernel=kernel,
        releases=tuple(sorted({each.release for each in own if each.release})),
        passed=_ids(each for each in own if each.outcome == PASSED),
        failed=_ids(each for each in own if each.outcome == "failed"),
    )


def _cell(records: Sequence[RecordedTest], rule: str, kernel: str, reasons: Sequence[Reason]) -> Cell:
    own = [each for each in records if each.kernel == kernel]
    passed = [each for each in own if each.outcome == PASSED]
    broke = [each for each in own if each.has(rule, Verdict.VIOLATED)]
    return Cell(
        held=_ids(each for each in passed if each.has(rule, Verdict.HELD)),
        broken=_ids(each for each in broke if rule in each.breaks and each.outcome == PASSED),
        violated=_ids(each for each in broke if rule not in each.breaks),
        reason=next((each.reason for each in reasons if each.excuses(rule, kernel)), None),
    )


def _ids(records: Iterable[RecordedTest]) -> tuple[str, ...]:
    """Return the ids of tests, each once: a test may have been run several times."""
    return tuple(dict.fromkeys(each.test for each in records))
