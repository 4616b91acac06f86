# SPDX-License-Identifier: Apache-2.0
"""A disk that is full, told as that: which disk it is, and the way out."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from klp.errors import DiskFull, KlpError

# Of the disk, of a user's quota on it, of a process's limit on the size of a file (ulimit -f).
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MIB = 2**20


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk had no room; a command that met one (tar, gcc) has words for it."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    output = getattr(error, "output", "")
    return any(os.strerror(number) in output for number in (errno.ENOSPC, errno.EDQUOT))


def free_mib(place: Path) -> int:
    """Return the free MiB of the disk that `place` is on, or would be on."""
    return shutil.disk_usage(_there(place)).free // _MIB


def disk_full(place: Path, *, what: str = "", hint: str = "free some, or name a larger disk") -> DiskFull:
    """Return the error for a disk that is full.

    Args:
        place: the file or folder that had no room.
        what: said besides, such as how much is needed.
        hint: the way out.
    """
    disk = _there(place.absolute())
    while not os.path.ismount(disk):
        disk = disk.parent
    more = f"; {what}" if what else ""
    return DiskFull(f"{place}: no space left ({free_mib(place)} MiB free on {disk}{more})", hint=hint)


@contextmanager
def room_on(
    place: Path, *, what: str = "", hint: str = "free some, or name a larger disk"
) -> Iterator[None]:
    """Tell a disk that a block finds full as such: see `disk_full`.

    Raises:
        DiskFull: it was.
    """
    try:
        yield
    except (OSError, KlpError) as error:
        if not is_full(error):
            raise
        raise disk_full(place, what=what, hint=hint) from error


def _there(place: Path) -> Path:
    return next(each for each in (place, *place.parents) if each.exists())
