# SPDX-License-Identifier: Apache-2.0
"""The tables of `klp query` on disk: each run's as Parquet files, and DuckDB over those of many runs.

DuckDB takes 7 s to read 1,000 files of 1,000 JSON lines, and 0.7 s to read the same as Parquet. So the
tables of a run are made once, when a query first asks for that run, and stay in the cache until its
files change.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import duckdb
import msgspec

from klp.diskspace import disk_full
from klp.errors import HostLacks, UsageError
from klp.report.query_rows import TableRow
from klp.report.query_tables import ROWS, columns
from klp.sidework import beside
from klp.trace.reading import BadTrace

TABLES = (*ROWS, "events")
# As many are held in memory before they are written.
_ROWS_HELD = 20_480
_DOCS = "`klp query --tables` lists tables and columns"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query gave: the columns' names and the rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def _connect() -> duckdb.DuckDBPyConnection:
    # Else DuckDB fetches an extension from the network for a function that it does not know. JSON and
    # Parquet, all that is needed here, are in its wheel.
    return duckdb.connect(
        config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    )


def _spec(table: str) -> str:
    return "{" + ", ".join(f"'{each.name}': '{each.sql}'" for each in columns(table)) + "}"


def _path(file: Path) -> str:
    return "'" + str(file).replace("'", "''") + "'"


class TableWriter:
    """Writes the tables of runs as Parquet files, a folder for each run."""

    def __init__(self) -> None:
        self._connection = _connect()
        # Each thread would hold a part of a file and of a table in memory, and the time is that of one.
        self._connection.execute("SET threads = 1")

    def write(
        self, folder: Path, run: str, events: Sequence[tuple[int, Path]], rows: Iterable[TableRow]
    ) -> None:
        """Fill `folder`; `events` are the guests' numbers and files, `rows` what else is in them.

        Raises:
            BadTrace: DuckDB cannot read a file that `klp.trace.reading` accepts.
            HostLacks: DuckDB cannot write there, or the disk is full.
        """
        folder.mkdir(parents=True)
        try:
            self._write(folder, run, events, rows)
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            raise _unwritable(error, folder) from None

    def _write(
        self, folder: Path, run: str, events: Sequence[tuple[int, Path]], rows: Iterable[TableRow]
    ) -> None:
        with ExitStack() as opened:
            # Through files: DuckDB reads one at once, and inserts Python's values one by one.
            lines = {
                table: opened.enter_context(tempfile.NamedTemporaryFile(prefix="klp-", suffix=".ndjson"))
                for table in ROWS
                if table != "runs"
            }
            # Python reads and checks the events for the rows while DuckDB reads them: on two CPUs
            # that is half of the time. An error of its own is raised first: it tells the line.
            with beside(lambda: self._events(folder / "events.parquet", run, events)) as written:
                _write_lines(rows, lines)
                written()
            for table, file in lines.items():
                query = f"SELECT * FROM read_ndjson({_path(Path(file.name))}, columns={_spec(table)})"
                self._copy(self._connection, query, folder / f"{table}.parquet", None)

    def _events(self, target: Path, run: str, events: Sequence[tuple[int, Path]]) -> None:
        own = ", ".join(
            f"'{each.name}': '{each.sql}'"
            for each in columns("events")
            if each.name not in ("run", "guest")
        )
        # A line of events may hold a line of the kernel log, which is far below DuckDB's limit of 16 MiB.
        parts = [
            f"SELECT $run AS run, {guest}::BIGINT AS guest, *"
            f" FROM read_ndjson({_path(file)}, columns={{{own}}})"
            for guest, file in events
        ]
        query = " UNION ALL ".join(parts) or f"SELECT {_empty('events')} WHERE false"
        try:
            self._copy(self._connection.cursor(), query, target, {"run": run} if parts else None)
        except (duckdb.IOException, duckdb.OutOfMemoryException):
            raise  # of the disk that is written to
        except duckdb.Error as error:
            where = ", ".join(str(file) for _, file in events)
            raise BadTrace(f"{where}: {_words(error)}", hint="record it again with `klp run`") from None

    @staticmethod
    def _copy(
        connection: duckdb.DuckDBPyConnection, query: str, target: Path, parameters: dict[str, str] | None
    ) -> None:
        form = f"FORMAT parquet, ROW_GROUP_SIZE {_ROWS_HELD}"
        connection.execute(f"COPY ({query}) TO {_path(target)} ({form})", parameters)


def _write_lines(rows: Iterable[TableRow], files: Mapping[str, IO[bytes]]) -> None:
    encode = msgspec.json.Encoder().encode
    for table, row in rows:
        files[table].write(encode(row) + b"\n")
    for file in files.values():
        file.flush()


def _empty(table: str) -> str:
    return ", ".join(f"NULL::{each.sql} AS {each.name}" for each in columns(table))


class Database:
    """The tables of some runs, ready to be asked.

    Args:
        folders: those that `TableWriter` filled.
        runs: the rows of the table `runs`.
    """

    def __init__(self, folders: Sequence[Path], runs: Iterable[msgspec.Struct]) -> None:
        self._connection = _connect()
        for table in TABLES:
            if table != "runs":
                self._view(table, [folder / f"{table}.parquet" for folder in folders])
        with tempfile.NamedTemporaryFile(prefix="klp-", suffix=".ndjson") as lines:
            lines.write(msgspec.json.Encoder().encode_lines(runs))
            lines.flush()
            source = f"read_ndjson({_path(Path(lines.name))}, columns={_spec('runs')})"
            self._connection.execute(f"CREATE TABLE runs AS SELECT * FROM {source}")

    def _view(self, table: str, files: list[Path]) -> None:
        source = f"SELECT {_empty(table)} WHERE false"
        if files:
            source = f"SELECT * FROM read_parquet([{', '.join(map(_path, files))}])"
        self._connection.execute(f"CREATE VIEW {table} AS {source}")

    def ask(self, sql: str) -> Answer:
        """Return what one or more statements give; of several, the last one's.

        Raises:
            UsageError: DuckDB refuses them.
        """
        try:
            done = self._connection.execute(sql)
            described = done.description or []
            return Answer(tuple(each[0] for each in described), tuple(done.fetchall()))
        except duckdb.Error as error:
            raise _refused(error) from None

    def to_parquet(self, sql: str, target: Path) -> None:
        """Write what a statement gives as a Parquet file.

        Raises:
            UsageError: DuckDB refuses it, or the file cannot be written.
            DiskFull: there is no room for the file.
        """
        try:
            self._connection.execute(
                f"COPY ({sql.strip().rstrip(';')}) TO {_path(target)} (FORMAT parquet)"
            )
        except duckdb.IOException as error:
            if "No space left on device" in str(error):
                raise _unwritable(error, target) from None
            raise _refused(error) from None
        except duckdb.Error as error:
            raise _refused(error) from None


def _unwritable(error: duckdb.Error, place: Path) -> HostLacks:
    """Return what DuckDB met on a disk, as the host's: it has only words for it."""
    hint = "KLP_CACHE=DIR names another folder"
    if "No space left on device" in str(error):
        return disk_full(place, hint=hint)
    return HostLacks(f"{place}: {' '.join(str(error).split())}", hint=hint)


def _refused(error: duckdb.Error) -> UsageError:
    return UsageError(f"query: {_words(error)}", hint=_DOCS)


def _words(error: duckdb.Error) -> str:
    # DuckDB adds the statement with a mark under it, and proposals; the first paragraph says what is wrong.
    words = re.split(r"\n\s*\n|\n\s*LINE \d+:", str(error).strip())[0]
    return " ".join(words.split())
