# SPDX-License-Identifier: Apache-2.0
"""The tables of run folders for `klp query`: made once for each run, made anew when its files change."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from klp.analysis.history import history
from klp.analysis.lifetimes import shadow_lifetimes
from klp.errors import HostLacks, KlpError
from klp.files import digest_of, remove_tree
from klp.paths import CacheLayout
from klp.progress import Progress
from klp.records.runs import FoundRun, events_files
from klp.report.guests import GuestTrace
from klp.report.query import Database, TableWriter
from klp.report.query_rows import Told, rows_of, run_row
from klp.report.query_tables import documentation
from klp.trace.reading import read_events


def told(number: int, file: Path) -> Told:
    """Return what the analysis says of one guest's events.

    Raises:
        BadTrace: the file is cut, or of another schema.
    """
    numbered = tuple(read_events(file))
    return Told(guest=number, history=history(numbered), lives=shadow_lifetimes(numbered))


def guest_trace(title: str, file: Path) -> GuestTrace:
    """Return one guest's events with what the analysis says of them, under a title.

    Raises:
        BadTrace: as `told`.
    """
    numbered = tuple(read_events(file))
    return GuestTrace(title, numbered, history(numbered), shadow_lifetimes(numbered))


def database(runs: Sequence[FoundRun], cache: CacheLayout, progress: Progress, *, skip: bool) -> Database:
    """Return the tables of runs, ready to be asked.

    Args:
        skip: leave out a run that cannot be read, and say so; else it is an error.

    Raises:
        UsageError: a run cannot be read.
        HostLacks: the cache cannot be written.
    """
    writer = TableWriter()
    folders: list[Path] = []
    rows = []
    for run in runs:
        try:
            row = run_row(run.layout.root, run.whole())
            folders.append(_ensure(run, cache, writer))
            rows.append(row)
        except HostLacks:
            raise
        except KlpError as error:
            if not skip:
                raise
            progress.note(f"left out: {error.message}")
    return Database(folders, rows)


def _ensure(run: FoundRun, cache: CacheLayout, writer: TableWriter) -> Path:
    """Return the folder of a run's tables; make it if the run has changed, or was never asked for."""
    shelf = _shelf(run, cache)
    wanted = shelf / digest_of(dict(_facts(run)))
    if wanted.is_dir():
        return wanted
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


def forget(run: FoundRun, cache: CacheLayout) -> None:
    """Remove the tables of a run, which is about to go.

    Raises:
        HostLacks: they may not be removed.
    """
    try:
        remove_tree(_shelf(run, cache))
    except OSError as error:
        raise HostLacks(f"{error.filename}: {error.strerror}") from error


def _shelf(run: FoundRun, cache: CacheLayout) -> Path:
    return cache.tables / digest_of({"folder": str(run.layout.root.resolve())})


def _facts(run: FoundRun) -> Iterator[tuple[str, str]]:
    """What the tables depend on: the run's files, and what the tables are."""
    yield "tables", documentation()
    for file in _files(run):
        seen = file.stat()
        yield file.name, f"{seen.st_size} {seen.st_mtime_ns}"


def _files(run: FoundRun) -> Iterable[Path]:
    return (run.layout.summary, *events_files(run.layout))


def _fill(run: FoundRun, folder: Path, writer: TableWriter) -> None:
    files = list(enumerate(events_files(run.layout), 1))
    guests = [told(number, file) for number, file in files]
    writer.write(folder, run.name, files, rows_of(run.name, run.whole(), guests))
