# SPDX-License-Identifier: Apache-2.0
"""The selftests' results as KTAP version 1 (Documentation/dev-tools/ktap.rst): kernel > script > case."""

from __future__ import annotations

from collections.abc import Iterable

from klp.analysis.selftests import CaseResult, KernelResult, ScriptResult, SelftestsResult, Status

_VERSION = "KTAP version 1"
_NESTED = "  "


def ktap(result: SelftestsResult) -> str:
    """Return the whole result.

    What did not run has no line but is counted in its plan (``1..N``), so that parsers miss it and say so.
    """
    lines = [_VERSION, f"1..{len(result.kernels)}"]
    for number, kernel in enumerate(result.kernels, 1):
        lines += [*_indented(_kernel_lines(kernel)), _line(number, kernel.name, good=kernel.good)]
    if result.error:
        lines.append(_diagnostic(f"ended early: {result.error}"))
    return "\n".join(lines) + "\n"


def _indented(lines: Iterable[str]) -> list[str]:
    return [_NESTED + line for line in lines]


def _kernel_lines(kernel: KernelResult) -> list[str]:
    lines = [_VERSION, f"# Subtest: {kernel.name}", f"1..{len(kernel.planned)}"]
    lines.append(_diagnostic(f"{kernel.release} under {kernel.accelerator}"))
    numbers = {name: number for number, name in enumerate(kernel.planned, 1)}
    for script in kernel.scripts:
        lines += [*_indented(_script_lines(script)), *_script_diagnostics(script)]
        lines.append(_script_line(numbers[script.name], script))
    return lines


def _script_lines(script: ScriptResult) -> list[str]:
    """Return the subtest of a script's cases; nothing without cases: an empty subtest is an error."""
    if not script.cases:
        return []
    lines = [_VERSION, f"# Subtest: {script.name}", f"1..{len(script.cases)}"]
    for number, case in enumerate(script.cases, 1):
        lines += _case_lines(number, case)
    return lines


def _case_lines(number: int, case: CaseResult) -> list[str]:
    if case.status is Status.OK:
        return [_line(number, case.name, good=True)]
    if case.status is Status.SKIPPED:
        return [_line(number, case.name, good=True, directive=f"SKIP {case.detail}")]
    details = [_diagnostic(line) for line in case.detail.splitlines()]
    directive = {Status.DIED: "ERROR no result", Status.NOT_RUN: "ERROR it did not run"}.get(
        case.status, ""
    )
    return [*details, _line(number, case.name, good=False, directive=directive)]


def _script_diagnostics(script: ScriptResult) -> list[str]:
    lines = [f"{each.name}: {each.verdict.value}: {each.evidence}" for each in script.checks]
    lines += [script.message] if script.message else []
    return [_diagnostic(line) for each in (*lines, *script.report) for line in each.splitlines()]


def _script_line(number: int, script: ScriptResult) -> str:
    if script.status is Status.SKIPPED and script.good:
        return _line(number, script.name, good=True, directive=f"SKIP {script.message}")
    directive = f"ERROR {script.message}" if script.status is Status.DIED else ""
    return _line(number, script.name, good=script.good, directive=directive)


def _line(number: int, name: str, *, good: bool, directive: str = "") -> str:
    result = "ok" if good else "not ok"
    return f"{result} {number} {_plain(name)}" + (f" # {_plain(directive)}" if directive else "")


def _plain(text: str) -> str:
    """Return a text as one line, with # escaped: it would begin a directive such as SKIP."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("#", "\\#")


def _diagnostic(line: str) -> str:
    shown = "".join(each if each.isprintable() or each == "\t" else "?" for each in line)
    return f"# {shown}".rstrip()
