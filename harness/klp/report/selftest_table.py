# SPDX-License-Identifier: Apache-2.0
"""The selftests' results for people."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from klp.analysis.evidence import Verdict
from klp.analysis.selftests import (
    CaseResult,
    KernelResult,
    ScriptResult,
    SelftestsResult,
    Status,
    tally,
)
from klp.analysis.words import how_many
from klp.report.columns import Columns

_STYLES = {
    Status.OK: "green", Status.FAILED: "red", Status.SKIPPED: "yellow", Status.DIED: "red",
    Status.NOT_RUN: "red",
}  # fmt: skip
_CHECK_STYLES = {Verdict.HELD: "green", Verdict.VIOLATED: "red", Verdict.NOT_OBSERVED: "yellow"}


def selftests_table(result: SelftestsResult) -> Group:
    """Return a table for each kernel: a line for each script, and below it one for each of its cases."""
    parts: list[RenderableType] = []
    for kernel in result.kernels:
        where = f"kernel {kernel.release} under {kernel.accelerator}"
        parts += [Text(where, style="bold"), _table(kernel), Text(_totals(kernel)), Text()]
    return Group(*parts)


def _table(kernel: KernelResult) -> Columns:
    rows: list[tuple[str | Text, ...]] = []
    for script in kernel.scripts:
        rows.append((script.name, f"{script.seconds:.1f}", _status(script.status), _checks(script)))
        for case in script.cases:
            rows.append((Text(f"  {case.name}", style="dim"), _seconds(case), _status(case.status), ""))
    return Columns(("script and cases", "s", "result", "trace and log"), rows, right=("s",))


def _status(status: Status) -> Text:
    return Text(status.value, style=_STYLES[status])


def _seconds(case: CaseResult) -> Text:
    return Text("-" if case.seconds is None else f"{case.seconds:.1f}", style="dim")


def _checks(script: ScriptResult) -> Text:
    """Say what is violated, else how many checks held."""
    violated = [each for each in script.checks if each.verdict is Verdict.VIOLATED]
    if violated:
        return Text("; ".join(each.name for each in violated), style=_CHECK_STYLES[Verdict.VIOLATED])
    held = sum(each.verdict is Verdict.HELD for each in script.checks)
    return Text(f"{how_many(held, 'check')} held" if held else "-", style="dim")


def _totals(kernel: KernelResult) -> str:
    cases = [case for script in kernel.scripts for case in script.cases]
    ran, planned = len(kernel.scripts), len(kernel.planned)
    scripts = how_many(planned, "script") if ran == planned else f"{ran} of {how_many(planned, 'script')}"
    return f"{scripts}, {how_many(len(cases), 'case')}: {tally(cases)}"


def selftest_problems(result: SelftestsResult) -> list[str]:
    """Return what is wrong: a line for each script that is not ok, with what its failed cases wrote."""
    lines: list[str] = []
    for kernel in result.kernels:
        for script in kernel.scripts:
            lines += [f"{kernel.release} {line}" for line in _problems(script)]
    return lines


def _problems(script: ScriptResult) -> list[str]:
    lines = [f"{script.name}: {script.message}"] if script.message else []
    lines += [
        f"{script.name}: {check.name}: {check.evidence}"
        for check in script.checks
        if check.verdict is Verdict.VIOLATED
    ]
    for case in script.cases:
        if case.status in (Status.FAILED, Status.DIED) and case.detail:
            lines.append(f"{script.name}: {case.name}:\n{case.detail}")
    if script.report:
        lines.append(f"{script.name}: the kernel's report:\n" + "\n".join(script.report))
    return lines
