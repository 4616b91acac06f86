# SPDX-License-Identifier: Apache-2.0
"""Run folders that are there: finding, reading and removing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from klp.analysis.result import SCHEMA, RunResult
from klp.errors import HostLacks, UsageError
from klp.files import remove_tree
from klp.paths import CheckLayout, RunLayout
from klp.records.checks import find_check
from klp.records.encoding import decode

LATEST = "latest"
_LIST = "klp runs lists those that are there"


class NotARun(UsageError):
    """A folder is no run folder, or one that cannot be read: cut, or from another version of klp."""


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run folder.

    Attributes:
        result: its run.json; None where that is missing or cannot be read.
        broken: why, in words; empty where it can be read.
        label: what to call it, where its folder's name does not tell it apart.
    """

    layout: RunLayout
    result: RunResult | None
    broken: str
    label: str = ""

    @property
    def name(self) -> str:
        """The folder's own name, by which `klp` commands take it; or its label."""
        return self.label or self.layout.root.name

    def whole(self) -> RunResult:
        """Return run.json's content.

        Raises:
            NotARun: there is none.
        """
        if self.result is None:
            raise NotARun(f"{self.layout.root}: {self.broken}", hint=_LIST)
        return self.result


class _Head(msgspec.Struct):
    schema: int


def look(root: Path) -> FoundRun | None:
    """Read a folder; None where it is no run folder at all."""
    layout = RunLayout(root)
    try:
        text = layout.summary.read_bytes()
    except FileNotFoundError:
        cut = layout.events.is_file()
        return FoundRun(layout, None, "its run.json is missing: it was cut short") if cut else None
    except OSError as error:
        return FoundRun(layout, None, f"run.json: {error.strerror}") if root.is_dir() else None
    return FoundRun(layout, *_read(text))


def _read(text: bytes) -> tuple[RunResult | None, str]:
    try:
        schema = msgspec.json.decode(text, type=_Head).schema
        if schema != SCHEMA:
            age = "a newer" if schema > SCHEMA else "an older"
            return None, f"run.json is of {age} klp (schema {schema}; this one reads {SCHEMA})"
        return decode(text), ""
    except msgspec.DecodeError as error:
        return None, f"run.json is cut or damaged: {error}"


def all_runs(root: Path) -> tuple[FoundRun, ...]:
    """Return every run folder directly below `root`, oldest first: their names begin with their time."""
    if not root.is_dir():
        return ()
    found = (look(each) for each in sorted(root.iterdir()) if each.is_dir())
    return tuple(each for each in found if each)


def find_run(word: str, root: Path) -> FoundRun:
    """Return the run folder that `word` names.

    Args:
        word: a path, a name below `root`, or ``latest``.

    Raises:
        NotARun: there is nothing there, or it is no run folder.
    """
    if word == LATEST:
        runs = all_runs(root)
        if not runs:
            raise NotARun(f"{root}: no runs yet", hint="klp run makes one")
        return runs[-1]
    folder = Path(word) if Path(word).exists() else root / word
    if not folder.exists():
        raise NotARun(f"{word}: no such run", hint=_LIST)
    found = look(folder.absolute())
    if found is None:
        raise NotARun(f"{word}: not a run folder: neither run.json nor events.jsonl is in it", hint=_LIST)
    return found


def is_check(folder: Path) -> bool:
    """Whether a folder is one of `klp check`; its check.json may be damaged."""
    return CheckLayout(folder).summary.is_file()


def is_one(folder: Path) -> bool:
    """Whether a folder is one of a run or a check."""
    return is_check(folder) or look(folder) is not None


def find_folder(word: str, root: Path) -> Path:
    """Return the folder of a run or a check that `word` names, also one whose summary cannot be read.

    Args:
        word: a path, a name below `root`, or ``latest``: the newest of both.

    Raises:
        NotARun: as `find_run`.
    """
    if word == LATEST and root.is_dir():
        newest = sorted((each for each in root.iterdir() if each.is_dir()), reverse=True)
        if (folder := next((each for each in newest if is_one(each)), None)) is not None:
            return folder.absolute()
    folder = Path(word) if Path(word).exists() else root / word
    return folder.absolute() if is_check(folder) else find_run(word, root).layout.root


def runs_below(folder: Path) -> tuple[FoundRun, ...]:
    """Return the run that a folder is, and all that lie in it: a check's scenarios have one each."""
    found = (look(each) for each in (folder, *folder.rglob("*")) if each.is_dir())
    return tuple(each for each in found if each)


def find_runs(words: Sequence[str], root: Path) -> tuple[FoundRun, ...]:
    """Return the run folders that `words` name, each once; a check's folder stands for its scenarios' ones.

    Raises:
        NotARun: as `find_run`.
        NotACheck: a check's check.json cannot be read.
    """
    folders = (find_folder(word, root) for word in words)
    found = {run.layout.root.resolve(): run for folder in folders for run in _runs_of(folder)}
    return tuple(found.values())


def _runs_of(folder: Path) -> tuple[FoundRun, ...]:
    if not is_check(folder):
        return (find_run(str(folder), folder.parent),)
    check = find_check(str(folder), folder.parent)
    outcomes = [each for each in check.result.outcomes if each.folder]
    runs = ((each.folder, look(check.layout.root / each.folder)) for each in outcomes)
    return tuple(replace(run, label=name) for name, run in runs if run)


def events_files(layout: RunLayout) -> tuple[Path, ...]:
    """Return a run's event files, one for each guest that took part in it."""
    return tuple(_guests(layout))


def _guests(layout: RunLayout) -> Iterator[Path]:
    number = 1
    while (file := layout.of_guest(number).events).is_file():
        yield file
        number += 1


def pending_text(layout: RunLayout) -> str:
    """Return who held stuck transitions, with kernel stacks; empty where none got stuck."""
    guests = [layout.of_guest(number) for number in range(1, len(events_files(layout)) + 1)]
    files = [each.pending for each in guests if each.pending.is_file()]
    return "\n".join(file.read_text(errors="replace") for file in files)


def remove_folder(folder: Path) -> None:
    """Remove a folder of a run or a check, with all that is in it.

    Raises:
        HostLacks: it may not be removed.
    """
    try:
        remove_tree(folder)
    except OSError as error:
        raise HostLacks(f"{error.filename}: {error.strerror}") from error
