# SPDX-License-Identifier: Apache-2.0
"""Folders of runs, checks and selftests: made, given their summaries, removed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from klp import paths
from klp.analysis.checked import CheckResult
from klp.analysis.result import RunResult
from klp.analysis.selftests import SelftestsResult
from klp.errors import Busy, HostLacks, UsageError
from klp.files import remove_tree, write_whole
from klp.guest.livepatch import PendingTask
from klp.paths import CheckLayout, RunLayout, SelftestsLayout
from klp.records.encoding import encode
from klp.records.running import at_work, is_running
from klp.settings import Settings

_STAMP = "%Y%m%d-%H%M%S"


@contextmanager
def new_folder(settings: Settings, out: Path | None, name: str) -> Iterator[RunLayout]:
    """Make the folder of a new run; nothing of an earlier run is ever written over.

    The block prepares a run: builds modules, makes a guest ready. If it raises, nothing was run yet, and
    the folder is removed again, or emptied where `out` was there before; if it ends well, the folder stays.

    Raises:
        UsageError: `out` is not empty, or something is in its way.
        HostLacks: it cannot be made.
    """
    users_own = out is not None and out.is_dir()
    try:
        root = _given(out) if out else _stamped(paths.runs_root(settings.runs), name)
    except OSError as error:
        in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
        raise (UsageError if in_the_way else HostLacks)(
            f"{error.filename}: {error.strerror}", hint="--out DIR puts the run folder elsewhere"
        ) from error
    try:
        with at_work(root):
            yield RunLayout(root)
    except BaseException:
        # What is removed was made here: of a folder that was there, be it by a link, only what it got.
        for each in root.iterdir() if users_own else (root,):
            _remove(each)
        raise


def _remove(place: Path) -> None:
    if place.is_dir():
        remove_tree(place)
    else:
        place.unlink(missing_ok=True)


def made_at(folder: Path) -> float | None:
    """Return when a folder of the folder of runs was made, by its name; None where that does not tell."""
    try:
        return time.mktime(time.strptime(folder.name[: len("20261130-105406")], _STAMP))
    except ValueError:
        return None


def _given(out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise UsageError(f"{out}: not empty", hint="-o DIR names another; or remove it")
    return out.absolute()


def _stamped(parent: Path, name: str) -> Path:
    """Make a folder that is called after this second, and numbered where that has one already."""
    stamp = time.strftime(_STAMP)
    for number in range(1, 1000):
        folder = parent / (f"{stamp}-{name}" if number == 1 else f"{stamp}-{name}-{number}")
        try:
            # Making it is also the claim to it: of two processes in the same second, one fails here.
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise HostLacks(f"{parent}: too many runs in one second")


def add_pending(layout: RunLayout, tasks: Iterable[PendingTask]) -> None:
    """Write down who holds a stuck transition, each with its kernel stack; what is there already stays."""
    # Appended: in one guest several transitions may get stuck, and each is told as it is found.
    with layout.pending.open("a") as file:
        for task in tasks:
            file.write("\n  ".join([task.line(), *task.stack]) + "\n")


def write_run(layout: RunLayout, result: RunResult) -> None:
    """Write run.json, whole or not at all."""
    write_whole(layout.summary, encode(result))


def write_check(layout: CheckLayout, result: CheckResult) -> None:
    """Write check.json, whole or not at all."""
    write_whole(layout.summary, encode(result))


def write_selftests(layout: SelftestsLayout, result: SelftestsResult) -> None:
    """Write selftests.json, whole or not at all."""
    write_whole(layout.summary, encode(result))


def remove_folder(folder: Path) -> None:
    """Remove a folder of a run or a check, with all that is in it.

    Raises:
        Busy: a klp is at work there.
        HostLacks: it may not be removed.
    """
    if is_running(folder):
        raise Busy(f"{folder}: a klp is at work there", hint="wait for its end")
    try:
        remove_tree(folder)
    except OSError as error:
        raise HostLacks(f"{error.filename}: {error.strerror}") from error
