# SPDX-License-Identifier: Apache-2.0
"""The tables of run folders for `klp query`, kept in the cache: made once, and again if the run changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from klp.analysis.recording import RecordedRun
from klp.diskspace import room_on
from klp.errors import HostLacks, KlpError
from klp.files import digest_of, remove_tree
from klp.inuse import USES, unused
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
    if USES.use(wanted):
        return wanted
    growing = shelf / f".{wanted.name}"
    with _written(shelf), _locked(shelf, cache):
        if not USES.use(wanted):  # another query may have made them while this one waited
            remove_tree(growing)
            _fill(run, growing, writer)
            _clear(shelf, but=growing)  # of what the run was before
            growing.rename(wanted)
            USES.use(wanted)
    return wanted


def forget(folder: Path, cache: CacheLayout) -> None:
    """Remove the tables of a run whose folder is about to go; a query that reads them keeps them.

    Raises:
        HostLacks: they may not be removed.
    """
    shelf = _shelf(folder, cache)
    if shelf.is_dir():
        with _written(shelf), _locked(shelf, cache):
            _clear(shelf)
            with suppress(OSError):  # a query still reads there
                shelf.rmdir()


def _clear(shelf: Path, but: Path | None = None) -> None:
    """Remove the tables of a shelf, but for those that a query reads at this moment."""
    for each in shelf.iterdir():
        if each == but:
            continue
        USES.let_go(each)  # what this process has asked before
        with unused(each) as alone:
            if alone:
                remove_tree(each)


@contextmanager
def _locked(shelf: Path, cache: CacheLayout) -> Iterator[None]:
    """Be the only klp that changes what is on a shelf, for a block."""
    lock = cache.lock("tables", shelf.name)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        shelf.mkdir(parents=True, exist_ok=True)
        yield


@contextmanager
def _written(shelf: Path) -> Iterator[None]:
    """Tell a cache that cannot be written as such.

    Raises:
        HostLacks: it cannot, or its disk is full.
    """
    hint = "KLP_CACHE=DIR names another folder"
    try:
        with room_on(shelf, hint=hint):
            yield
    except OSError as error:
        raise HostLacks(f"{error.filename}: {error.strerror}", hint=hint) from error


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
