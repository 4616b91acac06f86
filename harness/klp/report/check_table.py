# SPDX-License-Identifier: Apache-2.0
"""A check's result for people: its verdict and why, a matrix of scenarios and kernels, what is wrong."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from klp.analysis.checked import GUEST_LOST, CheckResult, ScenarioOutcome, verdict_words
from klp.analysis.evidence import Verdict, overall
from klp.report.columns import Columns
from klp.report.table import STYLES

_MISSING = Text("-", style="dim")


def check_table(result: CheckResult) -> Group:
    """Return the verdict and its headlines, then a matrix for each livepatch.

    A matrix has a line for each scenario, a column for each kernel.
    """
    parts: list[RenderableType] = [*_head(result), Text()]
    for livepatch in result.livepatches:
        parts += [
            Text(f"{livepatch.name} ({livepatch.word})", style="bold"),
            _matrix(result, livepatch.name),
        ]
        parts.append(Text())
    return Group(*parts, Text(check_totals(result)))


def _head(result: CheckResult) -> Iterator[RenderableType]:
    yield Text(result.words, style=f"bold {STYLES[result.verdict]}")
    for each in result.headlines:
        yield Text(f"  {each}")


def check_closing(result: CheckResult) -> str:
    """Return the verdict with the headline that tells most, in one line: for the end of all output."""
    words = result.words
    first = result.headlines[0] if result.headlines else "nothing was tried"
    # Not twice in one line that a guest was lost.
    return f"{words}: {first.removeprefix(f'{GUEST_LOST}: ')}"


def _matrix(result: CheckResult, livepatch: str) -> Columns:
    rows = []
    for scenario in result.scenarios:
        cells = [result.of(each.name, livepatch, scenario) for each in result.kernels]
        outcomes = [each for cell in cells for each in cell]
        # Those that were tried nowhere are told in one headline.
        if not outcomes or not all(each.untried for each in outcomes):
            rows.append((scenario, *map(_cell, cells)))
    return Columns(("scenario", *(kernel.title for kernel in result.kernels)), rows)


def _cell(outcomes: Sequence[ScenarioOutcome]) -> Text:
    """One cell: the verdict, of how many repetitions if there are several, and the seconds it took."""
    if not outcomes:
        return _MISSING
    verdict = overall(each.verdict for each in outcomes)
    same = sum(each.verdict is verdict for each in outcomes)
    words = verdict.value if len(outcomes) == 1 else f"{verdict.value} {same}/{len(outcomes)}"
    if any(each.lost for each in outcomes):
        words += ", guest lost"
    seconds = sum(each.seconds for each in outcomes)
    return Text.assemble((words, STYLES[verdict]), (f"  {seconds:.1f} s" if seconds else "", "dim"))


def check_totals(result: CheckResult) -> str:
    """Return how many scenarios ended how, in one line, lost guests first."""
    counts = Counter(each.verdict for each in result.outcomes)
    counted = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)
    lost = f"{len(result.lost)} guest{'s' * (len(result.lost) > 1)} lost: " if result.lost else ""
    return f"{lost}{counted}{'' if result.complete else '; not complete'}"


def check_problems(result: CheckResult, folder: str) -> Iterator[tuple[ScenarioOutcome, str]]:
    """Yield what is to be said of each outcome: why it is not held, what to note, how to repeat it.

    Faults come last, where a reader looks first; what was not tried is told in a headline.

    Args:
        folder: the check's.
    """
    tried = [each for each in result.outcomes if not each.untried]
    for each in sorted(tried, key=lambda one: one.verdict is Verdict.VIOLATED):
        if each.verdict is Verdict.HELD and not each.notes and not each.lost:
            continue
        words = verdict_words(each.verdict, lost=each.lost)
        heading = f"{each.livepatch} {each.scenario} on {each.kernel}: {words}"
        lines = [heading, *(f"  {reason}" for reason in each.reasons), *(f"  ({n})" for n in each.notes)]
        if each.verdict is Verdict.VIOLATED or each.lost:
            lines.append(f"  again: {each.command}")
            lines += [f"  run folder: {shlex.quote(f'{folder}/{each.folder}')}"] if each.folder else []
        yield each, "\n".join(lines)
