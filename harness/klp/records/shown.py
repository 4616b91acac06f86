# SPDX-License-Identifier: Apache-2.0
"""Runs and checks, read from their folders for `klp report`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from klp.errors import UsageError
from klp.records.checks import find_check
from klp.records.runs import FoundRun, events_files, find_folder, find_run, is_check, pending_text
from klp.records.sets import compared_folders
from klp.records.tables import guest_trace
from klp.report.against import Beside
from klp.report.guests import GuestTrace
from klp.report.html_check import CheckToShow
from klp.report.html_data import RunToShow
from klp.settings import Settings


def to_show(words: Sequence[str], root: Path) -> tuple[RunToShow | CheckToShow, ...]:
    """Return the runs and checks that words name, each once.

    Raises:
        UsageError: a word names none, or one that cannot be read; or a trace is cut.
    """
    folders = {each.resolve(): each for each in (find_folder(word, root) for word in words)}
    return tuple(_check(each) if is_check(each) else _run(each) for each in folders.values())


def against_base(words: Sequence[str], base: str, root: Path, settings: Settings) -> tuple[Beside, ...]:
    """Return what became worse in each run or check that words name, but in the base itself.

    Raises:
        UsageError: one of them cannot be read.
    """
    before = find_folder(base, root)
    folders = {each.resolve(): each for each in (find_folder(word, root) for word in words)}
    found = []
    for each in folders.values():
        if each.resolve() != before.resolve():
            result = compared_folders(before, each, settings)
            why = "" if result.compared else f"Nothing is in both: {'; '.join(result.notes)}."
            found.append(Beside(each.name, before.name, result if result.compared else None, why))
    return tuple(found)


def guests_of(shown: Sequence[RunToShow | CheckToShow]) -> Iterator[GuestTrace]:
    """Yield every guest's trace."""
    for each in shown:
        for run in each.runs.values() if isinstance(each, CheckToShow) else (each,):
            yield from run.guests


def _run(folder: Path) -> RunToShow:
    run = find_run(str(folder), folder.parent)
    return RunToShow(run.name, run.whole(), _guests(run, run.name), pending_text(run.layout))


def _check(folder: Path) -> CheckToShow:
    found = find_check(str(folder), folder.parent)
    runs = {}
    for each in found.result.outcomes:
        if each.folder:
            run = find_run(str(folder / each.folder), folder)
            guests = _guests(run, each.folder)
            runs[each.folder] = RunToShow(each.folder, run.whole(), guests, pending_text(run.layout))
    return CheckToShow(folder.name, found.result, runs)


def _guests(run: FoundRun, name: str) -> tuple[GuestTrace, ...]:
    run.whole()
    files = events_files(run.layout)
    if not files:
        raise UsageError(f"{run.layout.root}: no events.jsonl in it", hint="run it again with `klp run`")
    return tuple(
        guest_trace(f"{name} guest {number}" if number > 1 else name, file)
        for number, file in enumerate(files, 1)
    )
