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
from harness.report.perfetto import perfetto_trace
from harness.suite.runs import FoundRun, events_files, find_runs
from harness.suite.tables import guest_trace


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--perfetto", type=click.Path(path_type=Path), metavar="FILE", help="Write a trace for ui.perfetto.dev."
)
def report(runs: tuple[str, ...], *, perfetto: Path | None) -> int:
    """Tell runs to others: as a trace that ui.perfetto.dev opens.

    RUN is a run folder, a name of `klp runs`, or `latest`.
    """
    found = find_runs(runs, paths.runs_root(settings().runs))
    if perfetto is None:
        raise UsageError("nothing to write", hint="--perfetto FILE")
    _write(perfetto, perfetto_trace(_guests(found)))
    return ExitCode.OK


def _guests(found: Sequence[FoundRun]) -> list[GuestTrace]:
    traces = [
        guest_trace(f"{run.name} guest {number}" if number > 1 else run.name, file)
        for run in found
        for number, file in enumerate(events_files(run.layout), 1)
    ]
    if not traces:
        raise UsageError(f"{found[0].layout.root}: no events.jsonl in it")
    return traces


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise HostLacks(f"{file}: {error.strerror}", hint="name a file that can be written") from error
    stdout.print(f"wrote {file} ({len(content) / 1e6:.1f} MB)", soft_wrap=True)
