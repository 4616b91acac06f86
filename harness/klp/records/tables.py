# SPDX-License-Identifier: Apache-2.0
"""The tables of run folders for `klp query`, kept in the cache: made once, and again if the run changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from klp.analysis.recording import RecordedRun
from klp.errors import HostLacks, KlpError
from klp.files import digest_of, remove_tree
from klp.paths import CacheLayout, RunLayout
from klp.progress import Progress, teller, under_way
from klp.records.database import Database, TableWriter
from klp.records.reading import each_table, trace_files
from klp.report.query_rows import rows_of, run_row
from klp.report.query_tables import documentation


def open_tables(
    runs: Sequence[RecordedRun], cache: CacheLayout, progress: Progress, *, skip: bool
) -> Database:
    """Return the tables of runs, ready to be asked.

    Args:
        skip: leave out a run that cannot be read, and say so; else it is an error.

    Raises:
        UsageError: a run cannot be read.
        HostLacks: the cache cannot be written.
    """
    with under_way(progress, "reading runs"):
        return _tables(runs, cache, progress, skip=skip)


def _tables(runs: Sequence[RecordedRun], cache: CacheLayout, progress: Progress, *, skip: bool) -> Database:
    writer, tell = TableWriter(), teller(progress)
    folders: list[Path] = []
    rows = []
    for number, run in enumerate(runs, 1):
        tell(f"{number} of {len(runs)}")
        try:
            row = run_row(run)
            folders.append(_ensure(run, cache, writer))
            rows.append(row)
        except HostLacks:
            raise
        except KlpError as error:
            if not skip:
                raise
            progress.note(f"left out: {error.message}")
    return Database(folders, rows)


def _ensure(run: RecordedRun, cache: CacheLayout, writer: TableWriter) -> Path:
    """Return the folder of a run's tables; make it if the run has changed, or was never asked for."""
    shelf = _shelf(Path(run.folder), cache)
    wanted = shelf / digest_of(dict(_facts(run)))
    if wanted.is_dir():
        return wanted
    # Under a name of this process, and renamed when whole: two queries may make the same tables at once.
    growing = cache.tables / f"{wanted.name}.{os.getpid()}"
    try:
        _fill(run, growing, writer)
        remove_tree(shelf)  # of what the run was before
        shelf.mkdir(parents=True, exist_ok=True)
        growing.rename(wanted)
    except OSError as error:
        raise HostLacks(f"{error.filename}: {error.strerror}", hint="KLP_CACHE names another") from error
    finally:
        remove_tree(growing)
    return wanted


def forget(folder: Path, cache: CacheLayout) -> None:
    """Remove the tables of a run whose folder is about to go.

    Raises:
        HostLacks: they may not be removed.
    """
    try:
        remove_tree(_shelf(folder, cache))
    except OSError as error:
        raise HostLacks(f"{error.filename}: {error.strerror}") from error


def _shelf(folder: Path, cache: CacheLayout) -> Path:
    return cache.tables / digest_of({"folder": str(folder.resolve())})


def _facts(run: RecordedRun) -> Iterator[tuple[str, str]]:
    """Yield what the tables depend on: the run's files, and which columns this version of klp has."""
    yield "tables", documentation()
    folder = Path(run.folder)
    for file in (RunLayout(folder).summary, *trace_files(folder)):
        # Size and time, no digest: not to read a large trace again is what the tables are for.
        seen = file.stat()
        yield file.name, f"{seen.st_size} {seen.st_mtime_ns}"


def _fill(run: RecordedRun, folder: Path, writer: TableWriter) -> None:
    files = list(enumerate(trace_files(Path(run.folder)), 1))
    writer.write(folder, run.name, files, rows_of(run, each_table(run)))
