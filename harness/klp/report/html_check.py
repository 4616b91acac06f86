# SPDX-License-Identifier: Apache-2.0
"""What the report page shows of a check: a matrix of scenarios and kernels, and a section for each cell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from klp.analysis.checked import CheckedKernel, CheckedLivepatch, CheckResult, ScenarioOutcome
from klp.analysis.evidence import Verdict, overall
from klp.analysis.recording import RecordedCheck
from klp.report.html_data import RunView, run_view
from klp.report.html_story import Story, check_story


@dataclass(frozen=True, slots=True)
class OutcomeView:
    """One scenario once, with its run where it has one; `key` is its anchor in the page."""

    key: str
    outcome: ScenarioOutcome
    run: RunView | None


@dataclass(frozen=True, slots=True)
class MatrixCell:
    """One cell of the matrix.

    Attributes:
        verdict: over all repetitions; None where there is no outcome.
        same: how many of the `of` repetitions have that verdict.
        lost: a guest was lost in one of them.
        key: anchor of the first repetition with that verdict; empty where there is no outcome.
    """

    verdict: Verdict | None
    same: int
    of: int
    lost: bool
    seconds: float
    key: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """The scenarios of one livepatch as rows, with a cell for each kernel."""

    livepatch: CheckedLivepatch
    rows: tuple[tuple[str, tuple[MatrixCell, ...]], ...]


@dataclass(frozen=True, slots=True)
class CheckView:
    """A check with its story, and its outcomes by kernel."""

    key: str
    check: RecordedCheck
    matrices: tuple[Matrix, ...]
    kernels: tuple[tuple[CheckedKernel, tuple[OutcomeView, ...]], ...]
    story: Story

    @property
    def runs(self) -> tuple[RunView, ...]:
        """Every run that is shown in it."""
        return tuple(each.run for _, own in self.kernels for each in own if each.run)

    @property
    def fault(self) -> OutcomeView | None:
        """The first outcome that tells of a lost guest or a fault, and why."""
        every = [each for _, own in self.kernels for each in own if each.outcome.reasons]
        lost = [each for each in every if each.outcome.lost]
        violated = [each for each in every if each.outcome.verdict is Verdict.VIOLATED]
        return next(iter([*lost, *violated]), None)

    @property
    def verdict(self) -> Verdict:
        """What the check comes to."""
        return self.check.whole().verdict

    @property
    def words(self) -> str:
        """The same in a word or two, a lost guest first."""
        return self.check.whole().words


def check_view(key: str, check: RecordedCheck) -> CheckView:
    """Return what the page shows of a check, with `key` before every anchor in it."""
    result = check.whole()
    kernels = tuple((each, tuple(_outcomes(key, check, each.name))) for each in result.kernels)
    runs = [(_where(each.outcome, result), each.run) for _, own in kernels for each in own if each.run]
    return CheckView(
        key,
        check,
        tuple(Matrix(each, tuple(_rows(key, result, each.name))) for each in result.livepatches),
        kernels,
        check_story(runs, result.exercised),
    )


def _where(outcome: ScenarioOutcome, result: CheckResult) -> str:
    """Return which scenario it is, by no more names than tell it apart in its check."""
    words = (
        outcome.scenario
        if outcome.repetition == 1
        else f"{outcome.scenario}, repetition {outcome.repetition}"
    )
    many = f"{outcome.livepatch}: " if len(result.livepatches) > 1 else ""
    return f"{many}{words}" + (f" on {outcome.kernel}" if len(result.kernels) > 1 else "")


def _rows(key: str, result: CheckResult, livepatch: str) -> Iterator[tuple[str, tuple[MatrixCell, ...]]]:
    for scenario in result.scenarios:
        yield (
            scenario,
            tuple(_cell(key, result.of(each.name, livepatch, scenario)) for each in result.kernels),
        )


def _cell(key: str, outcomes: Sequence[ScenarioOutcome]) -> MatrixCell:
    if not outcomes:
        return MatrixCell(None, 0, 0, False, 0.0, "")
    verdict = overall(each.verdict for each in outcomes)
    same = [each for each in outcomes if each.verdict is verdict]
    lost = any(each.lost for each in outcomes)
    seconds = sum(each.seconds for each in outcomes)
    return MatrixCell(verdict, len(same), len(outcomes), lost, seconds, _anchor(key, same[0]))


def _outcomes(key: str, check: RecordedCheck, kernel: str) -> Iterator[OutcomeView]:
    for each in check.whole().outcomes:
        if each.kernel == kernel:
            anchor, run = _anchor(key, each), check.runs.get(each.folder)
            yield OutcomeView(anchor, each, run_view(f"{anchor}-run", run) if run else None)


def _anchor(key: str, outcome: ScenarioOutcome) -> str:
    """Return an anchor; a kernel may be called by a folder, which no anchor can hold."""
    return re.sub(r"[^\w.-]", "_", "-".join([key, *map(str, outcome.key)]))
