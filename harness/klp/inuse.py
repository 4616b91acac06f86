# SPDX-License-Identifier: Apache-2.0
"""Folders and files that a process uses: it holds a lock on each, which ends with the process.

By flock(2), which asks nothing of whoever is killed, and on the folder itself, so that none is left in it.
Those who use one share its lock; who removes one must be alone.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def locked(handle: int, how: int) -> bool:
    """Lock an open file or folder as flock(2) has it, if that can be done at once; return whether it is."""
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def held_alone(place: Path) -> bool:
    """Whether a process holds a file or folder alone; two who ask at once do not take each other for it."""
    try:
        handle = os.open(place, os.O_RDONLY)
    except OSError:  # gone, or not to be read
        return False
    try:
        return not locked(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


class Uses:
    """The folders that this process uses, each from the first use to `let_go` or to its end."""

    def __init__(self) -> None:
        self._handles: dict[Path, int] = {}
        self._lock = threading.Lock()

    def use(self, folder: Path) -> bool:
        """Use a folder; return whether it is there: whoever removed it may have been quicker."""
        with self._lock:
            handle = self._handles.get(folder)
            if handle is not None and _is(folder, handle):
                return True
            self._drop(folder)
            try:
                handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                return False
            # Waits for whoever is removing it: who looks whether it is used, does so for an instant.
            fcntl.flock(handle, fcntl.LOCK_SH)
            if not _is(folder, handle):
                os.close(handle)
                return False
            self._handles[folder] = handle
            return True

    def let_go(self, folder: Path) -> None:
        """Use a folder no longer."""
        with self._lock:
            self._drop(folder)

    def _drop(self, folder: Path) -> None:
        handle = self._handles.pop(folder, None)
        if handle is not None:
            os.close(handle)


# Of the whole process, for what one thread uses no other may remove.
USES = Uses()


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Tell whether nobody uses a folder; if so, nobody begins to for the length of the block.

    A block that renames or removes it thus has it alone.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield True
        return
    try:
        yield locked(handle, fcntl.LOCK_EX)
    finally:
        with suppress(OSError):
            os.close(handle)


def _is(folder: Path, handle: int) -> bool:
    """Whether an open folder is the one that has the name now."""
    try:
        there = folder.stat()
    except OSError:
        return False
    ours = os.fstat(handle)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
