# SPDX-License-Identifier: Apache-2.0
"""Slots for guests on one host, shared by several processes: each guest holds one while it lives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from klp.waiting import wait_until

_LOOK_S = 0.1
_PATIENCE_S = 3600.0


class GuestSlots:
    """As many locks as there may be guests.

    They are locks on files, which the kernel takes from a process that dies: no slot is lost with it.

    Args:
        folder: shared by the processes.
        count: returns how many there are. Only the first process calls it, and the others take its number:
            it goes by free memory, of which the first one's guests have taken some by then.
    """

    def __init__(self, folder: Path, count: Callable[[], int]) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # Held while it is counted, so that a second process does not read a file that is still empty.
        with FileLock(folder / "count.lock"):
            count_file = folder / "count"
            if not count_file.exists():
                count_file.write_text(str(count()))
            self.count = int(count_file.read_text())

    @contextmanager
    def take(self, wanted: Callable[[], None]) -> Iterator[None]:
        """Hold a slot for the length of a block, waiting for one while `wanted` does not raise.

        Raises:
            DeadlineMissed: none became free within an hour.
        """
        # Not by waiting for a lock: that could not end when the guest is no longer wanted.
        locks = [FileLock(self._folder / f"{number}.lock") for number in range(self.count)]

        def look() -> FileLock | None:
            wanted()
            return next((lock for lock in locks if _taken(lock)), None)

        lock = wait_until(look, what="a slot for a guest", timeout_s=_PATIENCE_S, every_s=_LOOK_S)
        try:
            yield
        finally:
            lock.release()


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
