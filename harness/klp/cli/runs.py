# SPDX-License-Identifier: Apache-2.0
"""`klp runs`: the run folders that are there, those of checks among them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from klp import paths
from klp.analysis.checked import GUEST_LOST
from klp.analysis.evidence import Verdict
from klp.cli.common import example, plain_option, print_json, settings, stdout
from klp.cli.completing import kernel_names, run_names
from klp.errors import ExitCode, UnknownName, UsageError
from klp.images.names import known_kernels
from klp.paths import CacheLayout
from klp.records.finding import all_folders, find_folders, runs_below
from klp.records.reading import read
from klp.records.running import running_folders
from klp.records.tables import forget
from klp.records.writing import made_at, remove_folder
from klp.report.runs import Brief, brief, running_brief, runs_table

_AGO = re.compile(r"(\d+)([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_VERDICTS = [*(each.value for each in Verdict), GUEST_LOST]


@click.group(invoke_without_command=True, epilog=example("klp runs --since 2d --verdict violated"))
@click.option("-k", "--kernel", metavar="K", shell_complete=kernel_names, show_default="any",
              help="Of this kernel: a name such as 6.12, or a release.")  # fmt: skip
@click.option("--verdict", type=click.Choice(_VERDICTS), help="With this verdict.")
@click.option(
    "--since", metavar="WHEN", help="Begun since: 2026-11-21, 2026-11-21T12:30, 90m, 6h, 2d or 1w."
)
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_context
def runs(
    context: click.Context, *, kernel: str | None, verdict: str | None, since: str | None, as_json: bool
) -> int:
    """List the runs in the folder of runs, oldest first, those among them that are running now."""
    if context.invoked_subcommand:
        return ExitCode.OK
    after = _moment(since) if since else 0.0
    now = set(running_folders(_root()))
    folders = sorted({*all_folders(_root()), *now})
    lines = [_line(each, running=each in now) for each in folders]
    _check_kernel(kernel, lines)
    found = [each for each in lines if _wanted(each, kernel, verdict, after)]
    if as_json:
        print_json(found)
    elif found:
        stdout.print(runs_table(found))
    else:
        filtered = kernel or verdict or since
        stdout.print("no such runs" if filtered else f"{_root()}: no runs yet")
    return ExitCode.OK


def _check_kernel(kernel: str | None, lines: Sequence[Brief]) -> None:
    """Refuse a kernel that is none, and that no run has: of one that is not defined any more there may be.

    Raises:
        UnknownName: it is neither a kernel's name, nor a release of one, nor a folder.
    """
    known = known_kernels()
    if kernel is None or Path(kernel).is_dir() or any(_begins(kernel, each) for each in known):
        return
    if not any(_of_kernel(each, kernel) for each in lines):
        hint = f"known: {', '.join(known)}, and releases of them"
        raise UnknownName(f"unknown kernel {kernel}", kernel, known, hint=hint)


def _line(folder: Path, *, running: bool) -> Brief:
    return running_brief(read(folder), made_at(folder), time.time()) if running else brief(read(folder))


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


def _wanted(run: Brief, kernel: str | None, verdict: str | None, after: float) -> bool:
    if run.begun_at is None:  # nothing is known of it that a filter could match
        return not (kernel or verdict or after)
    of_kernel = kernel is None or _of_kernel(run, kernel)
    known = [run.verdict.value] if run.verdict and not run.running else []
    lost = [GUEST_LOST] if run.lost else []
    return of_kernel and verdict in (None, *known, *lost) and run.begun_at >= after


def _of_kernel(run: Brief, kernel: str) -> bool:
    return kernel in run.asked or any(_begins(each, kernel) for each in run.kernels)


def _begins(release: str, kernel: str) -> bool:
    """Whether a release begins with the whole numbers of a name: 6.12.117 with 6.12, not with 6.1."""
    return re.match(rf"{re.escape(kernel)}(?!\d)", release) is not None


@runs.command(epilog=example("klp runs rm latest"))
@click.argument("names", nargs=-1, required=True, metavar="RUN...", shell_complete=run_names)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def rm(names: tuple[str, ...], *, yes: bool) -> int:
    """Remove run folders, after asking. What is no run folder is never removed."""
    folders = find_folders(names, _root())
    listed = ", ".join(str(each) for each in folders)
    if not yes:
        click.confirm(f"remove {listed}?", abort=True, err=True)
    cache = CacheLayout(paths.cache_root(settings().cache))
    for folder in folders:
        # The tables first: they are found by the folder, and would stay in the cache for good without it.
        for run in runs_below(folder):
            forget(run, cache)
        remove_folder(folder)
        stdout.print(f"removed {folder}")
    return ExitCode.OK
