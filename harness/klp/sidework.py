# SPDX-License-Identifier: Apache-2.0
"""Work that a thread does for another: what ends the one ends the commands of the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

from klp.errors import Interrupted

T = TypeVar("T")


class _Work:
    """Work that another thread does, and the command that it waits for: nothing else would end that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unwanted = False
        self._end: Callable[[], None] | None = None

    def check(self) -> None:
        """Raise Interrupted once it is no longer wanted."""
        if self._unwanted:
            raise Interrupted("no longer wanted")

    @contextmanager
    def ended_by(self, end: Callable[[], None]) -> Iterator[None]:
        """Have a command ended by `end`, for the length of a block that waits for it."""
        with self._lock:
            self.check()
            self._end = end
        try:
            yield
        finally:
            with self._lock:
                self._end = None

    def stop(self) -> None:
        """End what it waits for, and have it begin nothing more."""
        with self._lock:
            self._unwanted = True
            if self._end:
                self._end()


class _Own(threading.local):
    """The work that a thread does for another, if any."""

    work: _Work | None = None


_OWN = _Own()


def check_wanted() -> None:
    """Raise Interrupted if this thread works for one that no longer waits for it."""
    if _OWN.work:
        _OWN.work.check()


def ended_by(end: Callable[[], None]) -> AbstractContextManager[None]:
    """Have `end` called, in a block that waits for a command, when this work is no longer wanted."""
    return _OWN.work.ended_by(end) if _OWN.work else nullcontext()


@contextmanager
def beside(work: Callable[[], T]) -> Iterator[Callable[[], T]]:
    """Have work done by another thread for the length of a block; yields what waits for its result.

    An error of the block, or an interrupt, ends the commands of that work, which no signal reaches.
    """
    state = _Work()

    def in_its_thread() -> T:
        _OWN.work = state
        return work()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(in_its_thread)
        try:
            yield future.result
        except BaseException:
            state.stop()
            raise


@contextmanager
def looked_at(look: Callable[[], object], every_s: float = 0.5) -> Iterator[None]:
    """Have another thread look at something, again and again, for the length of a block.

    For what a program makes that says nothing of how far it is.
    """
    over = threading.Event()

    def looks() -> None:
        while not over.wait(every_s):
            look()

    looker = threading.Thread(target=looks, name="look", daemon=True)
    looker.start()
    try:
        yield
    finally:
        over.set()
        looker.join()
