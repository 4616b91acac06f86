# SPDX-License-Identifier: Apache-2.0
"""Which folders a klp is adding to at this moment: it holds a lock on each, which ends with the process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from klp.errors import Busy
from klp.inuse import held_alone, locked
from klp.waiting import DeadlineMissed, wait_until

# Whoever looks holds the lock for an instant, too.
_PATIENCE_S = 2.0


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Let others see that this process adds to a folder, for the length of a block.

    Raises:
        Busy: another process does.
    """
    # On the folder itself: nothing is left in it by whoever is killed.
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        wait_until(
            lambda: locked(handle, fcntl.LOCK_EX),
            what="end of another klp",
            timeout_s=_PATIENCE_S,
            every_s=0.05,
        )
    except DeadlineMissed:
        os.close(handle)
        raise Busy(f"{folder}: another klp is at work there", hint="wait for its end") from None
    try:
        yield
    finally:
        os.close(handle)


def is_running(folder: Path) -> bool:
    """Whether a klp adds to a folder."""
    return held_alone(folder)


def running_folders(root: Path) -> tuple[Path, ...]:
    """Return the folders directly below `root` that a klp adds to, oldest first; some hold nothing yet."""
    if not root.is_dir():
        return ()
    return tuple(each.absolute() for each in sorted(root.iterdir()) if each.is_dir() and is_running(each))
