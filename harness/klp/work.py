# SPDX-License-Identifier: Apache-2.0
"""Work in units: handed to an executor, performed by one function, its results collected as they come.

Whatever has the shape of `concurrent.futures.Executor` will do: threads of this process, processes, or
other machines. A unit, and what comes of it, can be pickled; what a process makes ready once for many units
(a saved guest, a pool of them) cannot, and stays in that process, in `Hosts`.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, Protocol, TypeVar

U = TypeVar("U")
R = TypeVar("R")


def collect(
    executor: Executor,
    units: Sequence[U],
    submit: Callable[[Executor, U], Future[R]],
    take: Callable[[U, R], None],
    stop: Callable[[], None],
) -> None:
    """Have units performed, as many at once as the executor does, and take what comes of each as it comes.

    Args:
        submit: hands a unit to the executor.
        stop: ends what is under way, once an error or an interrupt has ended the collecting.

    Raises:
        Exception: what performing or taking a unit raised; units that were not begun are not begun.
    """
    futures: dict[Future[R], U] = {}
    try:
        for unit in units:  # within the `try`, for an interrupt may come as a worker is started, too
            futures[submit(executor, unit)] = unit
        for future in as_completed(futures):
            take(futures[future], future.result())
    except BaseException:
        for future in futures:
            future.cancel()
        stop()
        raise


class UnitHost(Protocol):
    """What a process has made ready to perform the units of one piece of work."""

    def close(self) -> None:
        """End it all; a later unit begins anew."""


H = TypeVar("H", bound=UnitHost)


class Hosts(Generic[H]):
    """The hosts of this process, each by the folder of the work that it is for.

    Args:
        make: makes the host where no `serving` block has set one up: in a process that an executor started.
    """

    def __init__(self, make: Callable[[Path], H]) -> None:
        self._make = make
        self._hosts: dict[Path, H] = {}
        self._lock = threading.Lock()

    def of(self, folder: Path) -> H:
        """Return the host of the work in a folder, made where there is none yet."""
        with self._lock:
            if folder not in self._hosts:
                self._hosts[folder] = self._make(folder)
                # An executor ends its processes without a word to what runs in them.
                atexit.register(self._hosts[folder].close)
            return self._hosts[folder]

    @contextmanager
    def serving(self, folder: Path, host: H) -> Iterator[H]:
        """Have a host for the work in a folder for a block; it is closed after it."""
        with self._lock:
            self._hosts[folder] = host
        try:
            yield host
        finally:
            with self._lock:
                del self._hosts[folder]
            host.close()
