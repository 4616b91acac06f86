# SPDX-License-Identifier: Apache-2.0
"""Modules that were built before, by the digest of their sources and of the kernel they are for.

Kbuild takes seconds for one small module, and every session of tests wants the same dozen folders. What
nobody has asked for in a month is removed, when something else is kept.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from klp.model import Kernel, Module

_KEPT_S = 30 * 24 * 3600.0
# Raised whenever the same sources are built in another way.
_RECIPE = b"1"


class ModuleCache:
    """A folder with a folder for each build.

    Nothing is kept for a tree that its user builds (`Kernel.tree`): modules depend on its makefiles and
    scripts, too, which the digest of its kernel does not cover.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def place(self, sources: Path, kernel: Kernel) -> Path | None:
        """Return where the modules of a folder of sources are, or would be; None if they are not kept."""
        if kernel.tree is not None:
            return None
        digest = hashlib.sha256(_RECIPE + kernel.digest.encode())
        for file in sorted(each for each in sources.rglob("*") if each.is_file()):
            # Each part with its length before it, so that no two folders make the same bytes.
            for part in (str(file.relative_to(sources)).encode(), file.read_bytes()):
                digest.update(len(part).to_bytes(8, "little") + part)
        return self._root / digest.hexdigest()[:32]

    def files(self, place: Path | None) -> list[Path]:
        """Return the modules of an earlier build, sorted; none if there is none."""
        found = sorted(place.glob("*.ko")) if place else []
        if place and found:
            with suppress(OSError):  # a cache that cannot be written is good enough to read
                os.utime(place)  # asked for now: `_forget` goes by this
        return found

    def keep(self, modules: Iterable[Module], place: Path | None, beside: Iterable[Path] = ()) -> None:
        """Keep what was built; where that cannot be written, it is built again the next time.

        Args:
            beside: other files that are kept with the modules.
        """
        if place is None:
            return
        with suppress(OSError):
            self._root.mkdir(parents=True, exist_ok=True)
            self._forget()
            with tempfile.TemporaryDirectory(prefix=".new-", dir=self._root) as name:
                whole = Path(name, place.name)
                whole.mkdir()
                for module in modules:
                    shutil.copyfile(module.file, whole / module.file.name)
                for file in beside:
                    shutil.copyfile(file, whole / file.name)
                whole.rename(place)  # fails where another process was faster, with the same

    def _forget(self) -> None:
        for place in self._root.glob("[!.]*"):
            if time.time() - place.stat().st_mtime > _KEPT_S:
                shutil.rmtree(place, ignore_errors=True)
