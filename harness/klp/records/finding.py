# SPDX-License-Identifier: Apache-2.0
"""The folders of runs and checks that a user's words name: by path, name, pattern, or `latest`.

Names in the folder of runs begin with the time they were made at, so sorting them sorts by time.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from klp.analysis.recording import NotARecord
from klp.errors import did_you_mean
from klp.paths import CheckLayout, RunLayout
from klp.records.running import is_running

LATEST = "latest"
_LIST = "`klp runs` lists those that are there"
_PATTERN = re.compile(r"[*?\[]")


def is_run(folder: Path) -> bool:
    """Whether a folder is one of a run; its run.json may be damaged, or missing where it was cut short."""
    layout = RunLayout(folder)
    try:
        layout.summary.lstat()
    except FileNotFoundError:
        return layout.events.is_file()
    except OSError:  # no permission: counts as a run, so that reading it can say so
        return folder.is_dir()
    return True


def is_check(folder: Path) -> bool:
    """Whether a folder is one of `klp check`; its check.json may be damaged."""
    return CheckLayout(folder).summary.is_file()


def is_record(folder: Path) -> bool:
    """Whether a folder is one of a run or a check."""
    return is_check(folder) or is_run(folder)


def all_folders(root: Path) -> tuple[Path, ...]:
    """Return every folder of a run or a check directly below `root`, oldest first."""
    if not root.is_dir():
        return ()
    return tuple(each.absolute() for each in sorted(root.iterdir()) if each.is_dir() and is_record(each))


def find_folder(word: str, root: Path) -> Path:
    """Return the folder of a run or a check that `word` names, also one whose summary cannot be read.

    Args:
        word: a path, a name below `root`, or ``latest``: the newest of both.

    Raises:
        NotARecord: there is nothing there, or nothing of the kind.
    """
    if word == LATEST:
        return _newest(root, is_record, NotARecord(f"{root}: no runs yet", hint="klp run makes one"))
    folder = _existing(word, root, is_record)
    if not is_record(folder):
        why = "neither run.json nor events.jsonl is in it"
        raise NotARecord(f"{word}: not a run folder: {why}", hint=_LIST)
    return folder


def _existing(word: str, root: Path, wanted: Callable[[Path], bool]) -> Path:
    """Return the folder that `word` names, whatever is in it, or else tell of one that is wanted."""
    folder = _place(word, root)
    if not folder.exists():
        meant = did_you_mean(word, (LATEST, *(each.name for each in all_folders(root) if wanted(each))))
        raise NotARecord(f"{word}: no such run", hint=f"{meant} {_LIST}".strip())
    return folder.absolute()


def find_run_folder(word: str, root: Path) -> Path:
    """Return the folder of a run that `word` names, as `find_folder`; ``latest`` is the newest run.

    Raises:
        NotARecord: there is nothing there, or a check, which has a run for each of its scenarios.
    """
    if word == LATEST:
        return _newest(root, is_run, NotARecord(f"{root}: no runs yet", hint="klp run makes one"))
    folder = find_folder(word, root)
    if is_check(folder):
        inside = next(iter(runs_below(folder)), None)
        hint = f"name one, such as {shlex.quote(str(inside))}" if inside else "it has none"
        raise NotARecord(f"{word}: a check, which has a run for each scenario", hint=hint)
    return folder


def find_check_folder(word: str, root: Path) -> Path:
    """Return the folder of a check that `word` names, as `find_folder`; ``latest`` is the newest check.

    Raises:
        NotARecord: there is nothing there, or no check.
    """
    if word == LATEST:
        return _newest(root, is_check, NotARecord(f"{root}: no checks yet", hint="klp check makes one"))
    folder = _existing(word, root, is_check)
    if not is_check(folder):
        raise NotARecord(f"{word}: no check.json in it", hint="name a folder of klp check")
    return folder


def _newest(root: Path, wanted: Callable[[Path], bool], none: NotARecord) -> Path:
    # Not one that is being made: of it nothing can be told yet.
    found = (each for each in reversed(all_folders(root)) if wanted(each) and not is_running(each))
    newest = next(found, None)
    if newest is None:
        raise none
    return newest


def _place(word: str, root: Path) -> Path:
    return Path(word) if Path(word).exists() else root / word


def find_folders(words: Sequence[str], root: Path) -> tuple[Path, ...]:
    """Return the folders of runs and checks that words name, each once; raises as `find_folder`."""
    return _each_once(find_folder(word, root) for word in words)


def find_sets(words: Sequence[str], root: Path) -> tuple[Path, ...]:
    """Return the folders of runs and checks that words name, each once.

    Args:
        words: as for `find_folder`; folders of such folders; or patterns.

    Raises:
        NotARecord: a word names nothing of the kind.
    """
    return _each_once(folder for word in words for folder in _set(word, root))


def _each_once(folders: Iterable[Path]) -> tuple[Path, ...]:
    return tuple({each.resolve(): each for each in folders}.values())


def _set(word: str, root: Path) -> Iterator[Path]:
    folder = _place(word, root)
    if folder.is_dir() and not is_record(folder) and (inside := all_folders(folder)):
        yield from inside
    elif not folder.exists() and _PATTERN.search(word):
        yield from _matching(word, root)
    else:
        yield find_folder(word, root)


def _matching(pattern: str, root: Path) -> Iterator[Path]:
    """Yield the runs and checks that a pattern matches, in the current folder or in the folder of runs."""
    places = (Path("/"),) if pattern.startswith("/") else (Path(), root)
    folders = (each for place in places for each in sorted(place.glob(pattern.lstrip("/"))))
    found = [each.absolute() for each in folders if each.is_dir() and is_record(each)]
    if not found:
        raise NotARecord(f"{pattern}: matches no run folder", hint=_LIST)
    yield from found


def runs_below(folder: Path) -> tuple[Path, ...]:
    """Return the run that a folder is, and all that lie in it: a check's scenarios have one each."""
    return tuple(each for each in (folder, *folder.rglob("*")) if each.is_dir() and is_run(each))
