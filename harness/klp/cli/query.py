# SPDX-License-Identifier: Apache-2.0
"""`klp query`: SQL over runs."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from klp import paths
from klp.cli.common import example, plain_option, progress, settings, stdout
from klp.cli.completing import run_names
from klp.cli.saying import say, say_json
from klp.errors import ExitCode, UsageError
from klp.paths import CacheLayout
from klp.records.database import TABLES, Answer, Database
from klp.records.finding import all_folders, find_folders, is_run
from klp.records.reading import read_runs
from klp.records.tables import open_tables
from klp.report.columns import Columns
from klp.report.query_tables import documentation

# The tables by themselves: one that is new cannot be forgotten.
_HELP = f"""Run SQL (DuckDB) over the events, tasks, calls, shadow variables and verdicts of runs.

RUN is a run folder, a name of `klp runs`, or `latest`; without one, every run that can be read. Tables:
{", ".join(TABLES)}; --tables and docs/query.md tell columns and units.
"""


@click.command(help=_HELP, epilog=example('klp query "SELECT path, count(*) FROM tasks GROUP BY 1" latest'))
@click.argument("sql", required=False)
@click.argument("runs", nargs=-1, metavar="[RUN]...", shell_complete=run_names)
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print a JSON array of objects.")
@click.option("--parquet", type=click.Path(path_type=Path), metavar="FILE", help="Write a Parquet file.")
@click.option("--tables", is_flag=True, help="List the tables and their columns, and ask nothing.")
def query(
    sql: str | None,
    runs: tuple[str, ...],
    *,
    as_csv: bool,
    as_json: bool,
    parquet: Path | None,
    tables: bool,
) -> int:
    """Answer one question, or list the tables."""
    if tables:
        say(documentation(), nl=False)
        return ExitCode.OK
    if not sql:
        raise UsageError(
            "no SQL given", hint='such as: klp query "SELECT path, count(*) FROM tasks GROUP BY 1"'
        )
    if sum((as_csv, as_json, parquet is not None)) > 1:
        raise UsageError("--csv, --json and --parquet are each alone")
    asked = _database(runs)
    if parquet is not None:
        asked.to_parquet(sql, parquet)
        return ExitCode.OK
    _print(asked.ask(sql), as_csv=as_csv, as_json=as_json)
    return ExitCode.OK


def _database(words: tuple[str, ...]) -> Database:
    wanted = settings()
    root = paths.runs_root(wanted.runs)
    # A check's runs, of which there may be many, are read only where the check is named.
    everything = (each for each in all_folders(root) if is_run(each))
    found = read_runs(find_folders(words, root) if words else tuple(everything))
    if not found:
        raise UsageError(f"{root}: no runs yet", hint="klp run makes one")
    return open_tables(found, CacheLayout(paths.cache_root(wanted.cache)), progress(), skip=not words)


def _print(answer: Answer, *, as_csv: bool, as_json: bool) -> None:
    if as_csv:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows(map(_told, answer.rows))
        # CSV has no escapes of its own, so only a terminal gets it other than as it is.
        (say if sys.stdout.isatty() else click.echo)(table.getvalue(), nl=False)
    elif as_json:
        rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        say_json(json.dumps(rows, indent=1, default=str))
    else:
        stdout.print(Columns(answer.columns, map(_told, answer.rows), blocks=True))


def _told(row: tuple[Any, ...]) -> tuple[object, ...]:
    """Return a row with SQL's true and false in place of Python's, lists and structures as JSON."""
    return tuple(
        msgspec.json.encode(each, enc_hook=str).decode() if isinstance(each, bool | list | dict) else each
        for each in row
    )
