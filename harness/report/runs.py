# SPDX-License-Identifier: Apache-2.0
"""Run folders as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table
from rich.text import Text

from harness.analysis.result import RunResult
from harness.report.table import STYLES, plain_table


def runs_table(runs: Sequence[tuple[str, RunResult | None, str]]) -> Table:
    """Return a line for each run: its name, its run.json, or why that cannot be read."""
    rows = [(name, *(_cells(result) if result else _broken(why))) for name, result, why in runs]
    return plain_table(("run", "kernel", "begun", "seconds", "plans", "verdict"), rows)


def _cells(result: RunResult) -> tuple[object, ...]:
    begun = datetime.fromtimestamp(result.begun_at).strftime("%Y-%m-%d %H:%M:%S")
    verdict = Text(result.verdict.value, style=STYLES[result.verdict])
    took = round(result.ended_at - result.begun_at, 1)
    return (result.provenance.kernel, begun, took, len(result.plans), verdict)


def _broken(why: str) -> tuple[object, ...]:
    return (None, None, None, None, Text(why, style="red"))
