# SPDX-License-Identifier: Apache-2.0
"""The probes there are: what each shows, and where its manual and its example stand."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from klp import paths
from klp.trace.tracer import PROBES


@dataclass(frozen=True, slots=True)
class ProbeTool:
    """A BCC tool of `probes/`.

    Attributes:
        name: its name, as in its events' `probe`.
        summary: the first line of its docstring.
        armed: whether a run has it in the guest without being asked.
        program, example, manual: its files; the last two are None where there is none.
    """

    name: str
    summary: str
    armed: bool
    program: Path
    example: Path | None
    manual: Path | None


def probe_tools() -> tuple[ProbeTool, ...]:
    """Return every tool of probes/, by name: the Python files there that run by themselves."""
    programs = sorted(each for each in paths.PROBE_SOURCES.glob("klp*.py") if _runs(each))
    return tuple(_tool(each) for each in programs)


def _runs(program: Path) -> bool:
    """Whether a file is a tool: what tools share has no #! line, though klpname has a BPF program, too."""
    return program.read_text(encoding="utf-8").startswith("#!")


def _tool(program: Path) -> ProbeTool:
    # Parsed, not imported: a tool imports bcc, which the guests have and the host need not.
    doc = ast.get_docstring(ast.parse(program.read_text(encoding="utf-8"))) or ""
    example = program.with_name(f"{program.stem}_example.txt")
    manual = program.parent / "man" / f"{program.stem}.8"
    return ProbeTool(
        name=program.stem,
        summary=re.sub(r"\s+", " ", doc.split("\n\n")[0]).rstrip("."),
        armed=program.stem in PROBES,
        program=program,
        example=example if example.exists() else None,
        manual=manual if manual.exists() else None,
    )
