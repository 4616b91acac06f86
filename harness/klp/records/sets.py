# SPDX-License-Identifier: Apache-2.0
"""Sets of runs, read from their folders, for `klp.analysis.compare`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from klp.analysis.compare.sample import CheckToCompare, RunToCompare
from klp.analysis.compare.sets import RunSet, compare
from klp.analysis.compare.values import Comparison, Limits
from klp.errors import UsageError
from klp.records.checks import find_check
from klp.records.runs import NotARun, find_folder, find_run, is_check, is_one
from klp.records.verdicts import histories
from klp.settings import Settings

_PATTERN = re.compile(r"[*?\[]")
_LIST = "klp runs lists those that are there"


def compared(base: Sequence[str], new: Sequence[str], root: Path, settings: Settings) -> Comparison:
    """Return what differs between the runs that two lists of words name.

    Raises:
        UsageError: a word names no run, a run cannot be read, or nothing is in both sets.
    """
    found = compare(read_set(base, root), read_set(new, root), limits(settings))
    if not found.compared:
        raise UsageError(
            f"nothing to compare: {'; '.join(found.notes[:4])}",
            hint="compare runs of the same plans, or one plan with one other",
        )
    return found


def compared_folders(base: Path, new: Path, settings: Settings) -> Comparison:
    """Return what differs between two folders, each of a run or a check; perhaps they share nothing.

    Raises:
        UsageError: one of them cannot be read.
    """
    old, now = (read_set([str(each)], each.parent) for each in (base, new))
    return compare(old, now, limits(settings))


def limits(settings: Settings) -> Limits:
    """Return the limits that the settings ``compare_…`` name."""
    names = Limits.__struct_fields__
    return msgspec.convert({name: getattr(settings, f"compare_{name}") for name in names}, Limits)


def read_set(words: Sequence[str], root: Path) -> RunSet:
    """Return the runs and checks that words name, each once.

    Args:
        words: folders of runs and checks, folders of such, names below `root`, ``latest``, or patterns.

    Raises:
        UsageError: a word names nothing of the kind, or a run in it cannot be read.
    """
    folders = {each.resolve(): each for word in words for each in _folders(word, root)}
    checks = [each for each in folders.values() if is_check(each)]
    runs = [each for each in folders.values() if each not in checks]
    return RunSet(tuple(map(_read_run, runs)), tuple(map(_read_check, checks)))


def _folders(word: str, root: Path) -> Iterator[Path]:
    folder = Path(word) if Path(word).exists() else root / word
    if folder.is_dir() and not is_one(folder) and (inside := _within(folder)):
        yield from inside
    elif not folder.exists() and _PATTERN.search(word):
        yield from _matching(word, root)
    else:
        yield find_folder(word, root)


def _within(folder: Path) -> list[Path]:
    return [each.absolute() for each in sorted(folder.iterdir()) if each.is_dir() and is_one(each)]


def _matching(pattern: str, root: Path) -> Iterator[Path]:
    """Yield the runs and checks whose folders a pattern names, from here or in the folder of runs."""
    places = (Path("/"),) if pattern.startswith("/") else (Path(), root)
    folders = (each for place in places for each in sorted(place.glob(pattern.lstrip("/"))))
    found = [each.absolute() for each in folders if each.is_dir() and is_one(each)]
    if not found:
        raise NotARun(f"{pattern}: matches no run folder", hint=_LIST)
    yield from found


def _read_run(folder: Path) -> RunToCompare:
    """Read what is compared of a run: its run.json, and its trace where that has no plans."""
    run = find_run(str(folder), folder.parent)
    result = run.whole()
    traces = () if result.plans else tuple(told for _, told in histories(folder))
    return RunToCompare(run.name, result, traces)


def _read_check(folder: Path) -> CheckToCompare:
    found = find_check(str(folder), folder.parent)
    folders = [each.folder for each in found.result.outcomes if each.folder]
    runs = {each: find_run(str(folder / each), folder).whole() for each in folders}
    return CheckToCompare(folder.name, found.result, runs)
