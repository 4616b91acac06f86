# SPDX-License-Identifier: Apache-2.0
"""A test session's kernels: each made ready when first asked for; only one has guests at a time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from filelock import FileLock

from klp import paths
from klp import settings as settings_room
from klp.errors import KlpError
from klp.files import digest_of
from klp.lab.ready import ReadyGuest, ReadyKernel
from klp.lab.slots import GuestSlots
from klp.progress import Progress
from klp.vm.pool import size_that_fits

# One guest in use by a test and one being made ready for the next: pytest runs one test at a time, so more
# would only take CPU time from the one in use.
_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Sharing:
    """The processes that share this host in one session.

    Attributes:
        workers: how many there are.
        folder: one that all of them see, for counting guests; None where there is one process.
    """

    workers: int = 1
    folder: Path | None = None


class Session:
    """The kernels of a session.

    Args:
        out: the folder for what is kept; None for one in the settings' folder of runs.
        label: a name for that one, equal in all processes of the session.
        progress: where the long first steps are told.
    """

    def __init__(self, out: Path | None, label: str, progress: Progress, sharing: Sharing) -> None:
        self._settings = settings_room.load()
        self.out = (out or paths.runs_root(self._settings.runs) / label).absolute()
        self._progress = progress
        self._sharing = sharing
        self._kernels: dict[str, ReadyKernel | KlpError] = {}
        self._leased_from: ReadyKernel | None = None

    def ready_kernel(self, kernel: str) -> ReadyKernel:
        """Return a kernel that is ready; what failed once is not tried again.

        Raises:
            KlpError: why it cannot be had.
        """
        if kernel not in self._kernels:
            try:
                with self._alone_with(kernel):
                    self._kernels[kernel] = self._make(kernel)
            except KlpError as error:
                self._kernels[kernel] = error
        found = self._kernels[kernel]
        if isinstance(found, KlpError):
            # Raised once for each test: Python would add each one's frames to those before.
            raise found.with_traceback(None)
        return found

    def _alone_with(self, kernel: str) -> AbstractContextManager[object]:
        """Have one process at a time make a kernel ready: the others wait, and leave it to that to tell."""
        if self._sharing.folder is None:
            return nullcontext()
        return FileLock(self._sharing.folder / f"{digest_of({'kernel': kernel})}.kernel")

    def _make(self, kernel: str) -> ReadyKernel:
        wanted = msgspec.structs.replace(self._settings, kernel=kernel)
        memory = wanted.memory_mib
        if self._sharing.folder is None:
            return ReadyKernel(wanted, self.out, self._progress, size=size_that_fits(memory, _AT_ONCE))
        slots = GuestSlots(self._sharing.folder, lambda: size_that_fits(memory))
        # A worker's share, so that no pool makes guests ready in slots that another worker's test waits
        # for.
        size = max(1, min(_AT_ONCE, slots.count // self._sharing.workers))
        return ReadyKernel(wanted, self.out, self._progress, size=size, take_slot=slots.take)

    @contextmanager
    def lease(self, kernel: str) -> Iterator[ReadyGuest]:
        """Have a guest of `kernel` that nobody has used; guests of another kernel are ended first.

        Raises:
            KlpError: why there is none.
        """
        ready_kernel = self.ready_kernel(kernel)
        if self._leased_from not in (None, ready_kernel):
            self.close()
        self._leased_from = ready_kernel
        with ready_kernel.lease() as ready_guest:
            yield ready_guest

    def folder_for(self, test: str) -> Path:
        """Return a folder, not there yet, for what is kept of a test: named after its id."""
        name = re.sub(r"[^\w.\[\]-]+", "-", test).strip("-.")[-120:]
        folders = (self.out / (name if number == 1 else f"{name}-{number}") for number in range(1, 10000))
        return next(each for each in folders if not each.exists())

    def close(self) -> None:
        """End every guest; a later lease begins anew."""
        if self._leased_from is not None:
            self._leased_from.close()
            self._leased_from = None

    def end(self) -> None:
        """Close, and leave no folder behind that holds nothing."""
        self.close()
        for ready_kernel in self._kernels.values():
            if isinstance(ready_kernel, ReadyKernel):
                ready_kernel.forget()
        with suppress(OSError):
            self.out.rmdir()


def label() -> str:
    """Return a name for a session's folder."""
    return time.strftime("%Y%m%d-%H%M%S-pytest")
