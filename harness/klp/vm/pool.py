# SPDX-License-Identifier: Apache-2.0
"""A pool of guests: leased, used, discarded, and made anew in the background.

Every lease is a guest nobody has used. Whatever happens to it (a panic, a wedged task, a killed QEMU)
ends with its lease.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from klp.errors import Interrupted
from klp.vm.hostlimits import HostFiles, usable_cpus, usable_mib

T = TypeVar("T")

# A restored guest takes what it touches, seldom more than half of its memory, for its memory file is mapped
# privately; QEMU itself takes some 100 MiB.
_QEMU_MIB = 100
_TOUCHED = 0.5


def size_that_fits(
    memory_mib: int,
    asked: int | None = None,
    files: HostFiles = HostFiles(),  # noqa: B008 (a frozen value)
) -> int:
    """Return how many guests of `memory_mib` this host holds at once: at least one, at most `asked`.

    One for each CPU that this process may use, for a guest under TCG keeps one busy; and no more than there
    is memory for.
    """
    by_memory = int(usable_mib(files) / (memory_mib * _TOUCHED + _QEMU_MIB))
    fits = max(1, min(usable_cpus(files), by_memory))
    return fits if asked is None else max(1, min(asked, fits))


@dataclass(frozen=True, slots=True)
class _Ready(Generic[T]):
    """A guest that waits to be leased, with what ends it; or why there is none.

    Neither of the two says that the pool is closed: no guest comes any more.
    """

    value: T | None
    context: AbstractContextManager[T] | None
    failure: BaseException | None


class Pool(Generic[T]):
    """Keeps up to `size` guests alive, leased ones included.

    Args:
        make: returns a context manager that starts a guest and ends it.
        size: how many guests there may be at once.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[T]], size: int) -> None:
        self._make = make
        self._ready: queue.SimpleQueue[_Ready[T]] = queue.SimpleQueue()
        self._slots = threading.Semaphore(size)
        self._closing = threading.Event()
        # One thread starts all guests and outlives them: QEMU dies with the thread that started it, and not
        # only with the process (PR_SET_PDEATHSIG; see `klp.process.spawn`).
        self._maker = threading.Thread(target=self._fill, name="pool", daemon=True)

    def __enter__(self) -> Self:
        self._maker.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        self._slots.release()  # the maker may be waiting for room
        self._maker.join()

    def _fill(self) -> None:
        """Make a guest whenever there is room for one; at the end, wait for nothing and end all."""
        try:
            while True:
                self._slots.acquire()
                if self._closing.is_set():
                    return
                self._ready.put(self._one())
        finally:
            self._discard_waiting()
            self._ready.put(_Ready(None, None, None))  # for whoever waits for a guest that never comes

    def _one(self) -> _Ready[T]:
        try:
            context = self._make()
            return _Ready(context.__enter__(), context, None)
        except BaseException as failure:  # told to whoever leases next, in their own thread
            return _Ready(None, None, failure)

    def _discard_waiting(self) -> None:
        with suppress(queue.Empty):  # whoever leases may be quicker
            while True:
                waiting = self._ready.get_nowait()
                if waiting.context is not None:
                    waiting.context.__exit__(None, None, None)

    @contextmanager
    def lease(self) -> Iterator[T]:
        """Have a fresh guest for the length of a block; it is discarded after it.

        Raises:
            Interrupted: the pool was closed meanwhile.
            Exception: what `make` raised, if no guest could be started.
        """
        ready = self._ready.get()
        if ready.context is None and ready.failure is None:
            self._ready.put(ready)  # others may wait, too
            raise Interrupted("no further guest is to be had")
        try:
            if ready.context is None or ready.value is None:
                assert ready.failure is not None
                raise ready.failure
            with _ended(ready.context):
                yield ready.value
        finally:
            self._slots.release()


@contextmanager
def _ended(context: AbstractContextManager[object]) -> Iterator[None]:
    """End a context that was entered elsewhere when this block ends, telling it of the block's error."""
    try:
        yield
    except BaseException as error:
        context.__exit__(type(error), error, error.__traceback__)
        raise
    context.__exit__(None, None, None)
