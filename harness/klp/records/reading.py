# SPDX-License-Identifier: Apache-2.0
"""Folders of runs and checks, read into one value each: `klp.analysis.recording`.

`read` takes the summary alone, which is quick and all that `klp runs` needs. `with_runs` and `with_traces`
add the rest; a trace may have a million events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec

from klp.analysis.history import history
from klp.analysis.recording import (
    GuestHistory,
    GuestTables,
    GuestTrace,
    Recorded,
    RecordedCheck,
    RecordedRun,
    guest_tables,
    guest_trace,
)
from klp.errors import UsageError
from klp.paths import CheckLayout, RunLayout
from klp.records.encoding import OtherSchema, decode_check, decode_run
from klp.records.finding import is_check, is_run
from klp.trace.reading import read_events

_T = TypeVar("_T")


def read(folder: Path) -> Recorded:
    """Return the run or check of a folder, as its summary alone tells it."""
    return read_check(folder) if is_check(folder) else read_run(folder)


def read_run(folder: Path, name: str = "") -> RecordedRun:
    """Return a run, as its run.json alone tells it.

    Args:
        name: what to call it, where its folder's name does not tell it apart.
    """
    result, broken = _summary(RunLayout(folder).summary, decode_run)
    return RecordedRun(name or folder.name, str(folder), result, broken)


def read_check(folder: Path) -> RecordedCheck:
    """Return a check, as its check.json alone tells it."""
    result, broken = _summary(CheckLayout(folder).summary, decode_check)
    return RecordedCheck(folder.name, str(folder), result, broken)


def _summary(file: Path, decode: Callable[[bytes], _T]) -> tuple[_T | None, str]:
    """Return what is in a file; or why it cannot be read, in words."""
    try:
        return decode(file.read_bytes()), ""
    except FileNotFoundError:
        if not file.parent.exists():
            return None, "no such run"
        return None, f"its {file.name} is missing: it was cut short"
    except OSError as error:
        return None, f"{file.name}: {error.strerror}"
    except OtherSchema as error:
        return None, f"{file.name} is {error}"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return None, f"{file.name} is cut or damaged: {error}"


def read_runs(folders: Sequence[Path]) -> tuple[RecordedRun, ...]:
    """Return the runs of folders, each once; a check's folder stands for its scenarios' ones.

    Raises:
        NotARecord: a check's check.json cannot be read.
    """
    found: dict[Path, RecordedRun] = {}
    for folder in folders:
        runs = with_runs(read_check(folder)).runs.values() if is_check(folder) else (read_run(folder),)
        own = ((Path(each.folder), each) for each in runs)
        found |= {place.resolve(): run for place, run in own if is_run(place)}
    return tuple(found.values())


def with_runs(check: RecordedCheck) -> RecordedCheck:
    """Return a check with the runs of its scenarios, as their run.json alone tell them.

    Raises:
        NotARecord: its check.json cannot be read.
    """
    folders = [each.folder for each in check.whole().outcomes if each.folder]
    return replace(check, runs={each: read_run(Path(check.folder) / each, each) for each in folders})


def with_traces(run: RecordedRun, *, attempts: bool = False) -> RecordedRun:
    """Return a run with its guests' traces, and with who held transitions that got stuck.

    Args:
        attempts: with each attempt to switch a task.

    Raises:
        NotARecord: its run.json cannot be read.
        UsageError: there is no trace, or it cannot be trusted (`klp.trace.reading.BadTrace`).
    """
    run.whole()
    guests = tuple(_traces(run, attempts=attempts))
    return replace(run, guests=guests, pending=_pending(Path(run.folder)))


def _traces(run: RecordedRun, *, attempts: bool) -> Iterator[GuestTrace]:
    for number, file in enumerate(_some_trace_files(Path(run.folder)), 1):
        title = f"{run.name} guest {number}" if number > 1 else run.name
        yield guest_trace(title, read_events(file), attempts=attempts)


def read_whole(folder: Path, *, attempts: bool = False) -> Recorded:
    """Return the run or check of a folder with everything in it.

    Args:
        attempts: with each attempt to switch a task.

    Raises:
        UsageError: a summary or a trace in it cannot be read.
    """
    if not is_check(folder):
        return with_traces(read_run(folder), attempts=attempts)
    check = with_runs(read_check(folder))
    runs = {name: with_traces(run, attempts=attempts) for name, run in check.runs.items()}
    return replace(check, runs=runs)


def read_histories(recording: Path) -> tuple[GuestHistory, ...]:
    """Return the history of each guest of a run's folder, or of one file of events, without its run.json.

    So a run that was cut short, which has no run.json, can still be judged.

    Raises:
        UsageError: there is no trace, or it cannot be trusted (`klp.trace.reading.BadTrace`).
    """
    files = _some_trace_files(recording)
    return tuple(GuestHistory(file.name, history(read_events(file))) for file in files)


def each_table(run: RecordedRun) -> Iterator[GuestTables]:
    """Yield what `klp query` asks of each guest of a run; only one guest's need be in memory at a time.

    Raises:
        BadTrace: one cannot be trusted.
    """
    for number, file in enumerate(trace_files(Path(run.folder)), 1):
        yield guest_tables(read_events(file), number=number)


def _some_trace_files(recording: Path) -> tuple[Path, ...]:
    files = trace_files(recording)
    if not files:
        raise UsageError(
            f"{recording}: no events.jsonl in it", hint="name the folder of a run with a trace"
        )
    return files


def trace_files(recording: Path) -> tuple[Path, ...]:
    """Return the events files of a run's folder, one for each of its guests; a file stands for itself."""
    if not recording.is_dir():
        return (recording,)
    return tuple(each.events for each in _guests(RunLayout(recording)))


def _guests(layout: RunLayout) -> Iterator[RunLayout]:
    while layout.events.is_file():
        yield layout
        layout = layout.of_guest(layout.guest + 1)


def _pending(folder: Path) -> str:
    files = [each.pending for each in _guests(RunLayout(folder)) if each.pending.is_file()]
    return "\n".join(file.read_text(errors="replace") for file in files)
