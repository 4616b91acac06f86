# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.traces RUN`: how long SQL over many runs takes, each a copy of one run folder."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import click

from klp.paths import CacheLayout
from klp.progress import Silent
from klp.records.finding import all_folders
from klp.records.reading import read_runs
from klp.records.tables import open_tables

_SQL = "SELECT type, count(*), avg(duration_ns) FROM events GROUP BY type"


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--runs", default=1000, show_default=True, help="Copies of it.")
def main(run: Path, runs: int) -> None:
    """Print the seconds of a grouped query over copies of RUN: the first makes the tables."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "runs"
        for number in range(runs):
            shutil.copytree(run, root / f"run{number:05}")
        for which in ("first", "second", "third"):
            begun = time.monotonic()
            asked = open_tables(
                read_runs(all_folders(root)), CacheLayout(Path(scratch) / "cache"), Silent(), skip=False
            )
            events = sum(count for _, count, _ in asked.ask(_SQL).rows)
            click.echo(f"{which}: {time.monotonic() - begun:.2f} s, {runs} runs, {events} events")


if __name__ == "__main__":
    main()
