# SPDX-License-Identifier: Apache-2.0
"""The folder of kept guests, which has to be nobody else's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from klp import paths
from klp.errors import HostLacks

_ELSEWHERE = "set XDG_RUNTIME_DIR to a folder of your own"


def own_guests_root(*, make: bool = True) -> Path:
    """Return the folder of guests, once it is seen that no other user has prepared it, or may write there.

    Without a runtime folder it is in one that all users share. What stands in it is trusted: who owns it
    could have klp, as root, write over any file, or end any process.

    Raises:
        HostLacks: it is another user's.
    """
    root = paths.guests_root()
    for folder in (root.parent, root):
        try:
            if make or os.path.lexists(folder):
                folder.mkdir(mode=0o700)
        except FileExistsError:
            _check_own(folder)
        except OSError as error:
            raise HostLacks(f"{folder}: {error.strerror}", hint=_ELSEWHERE) from error
    return root


def _check_own(folder: Path) -> None:
    found = folder.lstat()
    if found.st_uid != os.getuid():
        raise HostLacks(f"{folder}: belongs to another user (uid {found.st_uid})", hint=_ELSEWHERE)
    if not stat.S_ISDIR(found.st_mode):
        raise HostLacks(f"{folder}: is no folder, and guests are to be kept there", hint=_ELSEWHERE)
    if found.st_mode & 0o022:
        raise HostLacks(
            f"{folder}: others may write there (mode {stat.S_IMODE(found.st_mode):o})",
            hint=f"see what is in it, then: chmod 700 {folder}",
        )
