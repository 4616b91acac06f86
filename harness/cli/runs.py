# SPDX-License-Identifier: Apache-2.0
"""`klp runs`: the run folders that are there."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from harness import paths
from harness.analysis.evidence import Verdict
from harness.cli.common import print_json, settings, stdout
from harness.errors import ExitCode, UsageError
from harness.report.runs import runs_table
from harness.suite.runs import FoundRun, all_runs, find_runs, remove_run

_AGO = re.compile(r"(\d+)([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_VERDICTS = [each.value for each in Verdict]


@click.group(invoke_without_command=True)
@click.option("-k", "--kernel", metavar="K", help="Of this kernel: a name such as 6.12, or a release.")
@click.option("--verdict", type=click.Choice(_VERDICTS), help="With this verdict.")
@click.option(
    "--since", metavar="WHEN", help="Begun since: 2026-11-21, 2026-11-21T12:30, 90m, 6h, 2d or 1w."
)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_context
def runs(
    context: click.Context, *, kernel: str | None, verdict: str | None, since: str | None, as_json: bool
) -> int:
    """List the runs in the folder of runs, oldest first."""
    if context.invoked_subcommand:
        return ExitCode.OK
    after = _moment(since) if since else 0.0
    found = [each for each in all_runs(_root()) if _wanted(each, kernel, verdict, after)]
    if as_json:
        print_json([_brief(each) for each in found])
    elif found:
        stdout.print(runs_table([(each.name, each.result, each.broken) for each in found]))
    else:
        stdout.print(
            "no such runs" if kernel or verdict or since else f"{_root()}: no runs yet", soft_wrap=True
        )
    return ExitCode.OK


def _root() -> Path:
    return paths.runs_root(settings().runs)


def _moment(text: str) -> float:
    """Return seconds since the epoch.

    Raises:
        UsageError: it is neither a date nor a span.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            return (datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})).timestamp()
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(f"--since {text}: no date", hint="such as 2026-11-21, 6h or 2d") from None


def _wanted(run: FoundRun, kernel: str | None, verdict: str | None, after: float) -> bool:
    if run.result is None:  # nothing is known of it that a filter could match
        return not (kernel or verdict or after)
    where = run.result.provenance
    of_kernel = kernel in (None, where.kernel_name) or _begins(where.kernel, kernel or "")
    return of_kernel and verdict in (None, run.result.verdict.value) and run.result.begun_at >= after


def _begins(release: str, kernel: str) -> bool:
    """Whether a release begins with the whole numbers of a name: 6.12.117 with 6.12, not with 6.1."""
    return re.match(rf"{re.escape(kernel)}(?!\d)", release) is not None


def _brief(run: FoundRun) -> dict[str, object]:
    result = run.result
    return {
        "run": run.name,
        "path": str(run.layout.root),
        "kernel": result.provenance.kernel if result else None,
        "begun_at": result.begun_at if result else None,
        "duration_s": result.ended_at - result.begun_at if result else None,
        "plans": len(result.plans) if result else None,
        "verdict": result.verdict.value if result else None,
        "error": result.error if result else run.broken,
    }


@runs.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def rm(names: tuple[str, ...], *, yes: bool) -> int:
    """Remove run folders, after asking. What is no run folder is never removed."""
    found = find_runs(names, _root())
    listed = ", ".join(str(each.layout.root) for each in found)
    if not yes:
        click.confirm(f"remove {listed}?", abort=True, err=True)
    for each in found:
        remove_run(each)
        stdout.print(f"removed {each.layout.root}", soft_wrap=True)
    return ExitCode.OK
