# SPDX-License-Identifier: Apache-2.0
"""A comparison as a table in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from klp.analysis.compare.values import Comparison, Difference, Grade, Place, SetSummary
from klp.report.columns import Columns

GRADE_STYLES = {Grade.REGRESSION: "red", Grade.TOLD: "yellow", Grade.BETTER: "green"}

# A set may have hundreds of scenarios that the other lacks, with a note for each; --json has them all.
_MOST_NOTES = 10


def comparison_table(found: Comparison) -> Group:
    """Return all findings, those of each place together."""
    places = list(dict.fromkeys(each.place for each in found.findings))
    parts: list[RenderableType] = [Text(_set_line("base", found.base)), Text(_set_line("new", found.new))]
    for place in places:
        parts += [Text(), Text(place.told(), style="bold"), _of_place(found, place)]
    more = len(found.notes) - _MOST_NOTES
    notes = [*found.notes[:_MOST_NOTES], *([f"and {more} more"] if more > 0 else [])]
    parts += [Text(each, style="dim") for each in ("", *notes) if notes]
    return Group(*parts, Text())


def _set_line(name: str, summary: SetSummary) -> str:
    first, *more = summary.runs
    runs = f"{first} and {len(more)} more" if more else first
    where = ", ".join((*summary.kernels, *summary.accelerators))
    return f"{name + ':':6}{runs} ({where})"


def _of_place(found: Comparison, place: Place) -> Columns:
    """Return two lines for each finding: in one, a long name would leave no room for the figures."""
    own = [(each, difference_cells(each)) for each in found.findings if each.place == place]
    return Columns(
        (),
        [(Text(each.grade.value, style=GRADE_STYLES[each.grade]), cells[0]) for each, cells in own],
        below=[[f"base: {base}; new: {new} ({why})"] for _, (_, base, new, why) in own],
        indent=2,
    )


def difference_cells(finding: Difference) -> tuple[str, str, str, str]:
    """Return what differs, how it was, how it is, and why it is graded so, in words."""
    return f"{finding.kind.value}: {finding.what}", finding.base, finding.new, grade_reason(finding)


def grade_reason(finding: Difference) -> str:
    """Return why a finding is graded so, with the test it rests on."""
    return ": ".join(each for each in (finding.why, ", ".join(_test(finding))) if each)


def _test(finding: Difference) -> Iterator[str]:
    if finding.p is not None:
        yield f"p {finding.p:.2g}"
    if finding.p_adjusted is not None and finding.p_adjusted != finding.p:
        yield f"adjusted {finding.p_adjusted:.2g}"
    if finding.effect is not None:
        yield f"effect {finding.effect:+.2f}"


def closing(found: Comparison) -> str:
    """Return how many differences there are, in one line."""
    counts = Counter(each.grade for each in found.findings)
    grades = f"{counts[Grade.REGRESSION]} regression{'s' * (counts[Grade.REGRESSION] != 1)}"
    rest = f"{counts[Grade.TOLD]} told, {counts[Grade.BETTER]} better"
    sizes = sorted({(each.base, each.new) for each in found.compared})
    repetitions = ", ".join(f"{new} against {base}" for base, new in sizes)
    tests = f"{found.tests} test{'s' * (found.tests != 1)}"
    return f"{grades}, {rest}; repetitions compared: {repetitions}; {tests}"
