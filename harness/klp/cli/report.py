# SPDX-License-Identifier: Apache-2.0
"""`klp report`: runs as a page, or as a trace for Perfetto."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from klp import paths
from klp.analysis.recording import Recorded
from klp.cli.common import example, progress, settings, stdout, write_output
from klp.cli.completing import run_names
from klp.errors import ExitCode
from klp.progress import under_way
from klp.records.finding import LATEST, find_folder, find_folders
from klp.records.reading import read_whole
from klp.records.sets import compare_records, read_to_compare
from klp.report.against import SinceBase
from klp.settings import Settings

_PAGE = Path("report.html")
_VIEWER = "https://ui.perfetto.dev"


@click.command(epilog=example("klp report latest -o page.html"))
@click.argument("runs", nargs=-1, metavar="[RUN]...", shell_complete=run_names)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    show_default=str(_PAGE),
    help="The page.",
)
@click.option(
    "--against",
    "--base",
    metavar="RUN",
    shell_complete=run_names,
    help="Say what became worse since this run or check.",
)
@click.option(
    "--perfetto",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a trace for ui.perfetto.dev; and a page only with --out.",
)
def report(runs: tuple[str, ...], *, out: Path | None, against: str | None, perfetto: Path | None) -> int:
    """Write one HTML page on runs and checks, which works offline: verdicts, timelines, stragglers, logs.

    RUN is the folder of a run or a check, a name of `klp runs`, or `latest`, as without one.
    """
    wanted = settings()
    root = paths.runs_root(wanted.runs)
    with under_way(progress(), "reading the runs"):
        found = find_folders(runs or (LATEST,), root)
        shown = [read_whole(each, attempts=perfetto is not None) for each in found]
    since = _since_base(read_to_compare(find_folder(against, root)), shown, wanted) if against else []
    if perfetto is not None:
        # Imported here: protobuf, and jinja2 below, are large, and mostly one of the two is not asked for.
        from klp.report.perfetto import perfetto_trace

        _write(perfetto, perfetto_trace(shown))
        stdout.print(
            f"open it at {_VIEWER} (Open trace file): the trace stays on this machine", soft_wrap=True
        )
    if out is not None or perfetto is None:
        from klp.report.html import report_page

        with under_way(progress(), "making the page"):
            page = report_page(shown, since).encode()
        _write(out or _PAGE, page)
    return ExitCode.OK


def _since_base(base: Recorded, shown: Sequence[Recorded], wanted: Settings) -> list[SinceBase]:
    """Return what became worse in each run and check that is shown, except in the base itself."""
    others = [each for each in shown if Path(each.folder).resolve() != Path(base.folder).resolve()]
    return [SinceBase(each.name, base.name, compare_records(base, each, wanted)) for each in others]


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _write(file: Path, content: bytes) -> None:
    # Not refused: to write the page anew after each run is what most do.
    over = ", over an earlier one" if file.exists() else ""
    write_output(file, content)
    stdout.print(f"wrote {shlex.quote(str(file.absolute()))} ({_size(len(content))}{over})")
