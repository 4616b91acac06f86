# SPDX-License-Identifier: Apache-2.0
"""`klp report`: runs as a page, or as a trace for Perfetto."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from harness import paths
from harness.cli.common import settings, stdout
from harness.errors import ExitCode, HostLacks, UsageError
from harness.report.guests import GuestTrace
from harness.suite.runs import FoundRun, events_files, find_run, find_runs, pending_text
from harness.suite.tables import guest_trace

_PAGE = Path("report.html")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--out", type=click.Path(path_type=Path), help=f"The page; {_PAGE} if not given.")
@click.option("--base", metavar="RUN", help="Show what each run's plans did beside this run's.")
@click.option(
    "--perfetto",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a trace for ui.perfetto.dev; and a page only with --out.",
)
def report(runs: tuple[str, ...], *, out: Path | None, base: str | None, perfetto: Path | None) -> int:
    """Write one HTML page about runs, which works offline: verdicts, timelines, stragglers, logs.

    RUN is a run folder, a name of `klp runs`, or `latest`.
    """
    root = paths.runs_root(settings().runs)
    found = find_runs(runs, root)
    compared = find_run(base, root) if base else None
    for run in (*found, *((compared,) if compared else ())):
        run.whole()
    traces = [_guests(run) for run in found]
    if perfetto is not None:
        _write_perfetto(perfetto, [guest for guests in traces for guest in guests])
    if out is not None or perfetto is None:
        _write_page(out or _PAGE, found, traces, compared)
    return ExitCode.OK


def _guests(run: FoundRun) -> tuple[GuestTrace, ...]:
    files = events_files(run.layout)
    if not files:
        raise UsageError(f"{run.layout.root}: no events.jsonl in it", hint="run it again with `klp run`")
    return tuple(
        guest_trace(f"{run.name} guest {number}" if number > 1 else run.name, file)
        for number, file in enumerate(files, 1)
    )


def _write_perfetto(file: Path, guests: Sequence[GuestTrace]) -> None:
    from harness.report.perfetto import perfetto_trace

    _write(file, perfetto_trace(guests))


def _write_page(
    file: Path, found: Sequence[FoundRun], traces: Sequence[tuple[GuestTrace, ...]], base: FoundRun | None
) -> None:
    from harness.report.html import page
    from harness.report.html_data import RunToShow

    shown = [
        RunToShow(run.name, run.whole(), guests, pending_text(run.layout))
        for run, guests in zip(found, traces, strict=True)
    ]
    beside = RunToShow(base.name, base.whole(), (), "") if base else None
    _write(file, page(shown, beside).encode())


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise HostLacks(f"{file}: {error.strerror}", hint="name a file that can be written") from error
    stdout.print(f"wrote {file} ({len(content) / 1e6:.1f} MB)", soft_wrap=True)
