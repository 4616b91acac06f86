# SPDX-License-Identifier: Apache-2.0
"""Where long work says what it is doing.

The library calls `Progress.step` and `Progress.note`, and says more of a step by `teller` and `under_way`;
the CLI alone decides how it is shown: see `klp.consoles`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, runtime_checkable

MINUTES_FROM_S = 100.0


class Progress(Protocol):
    """Where long work says what it is doing."""

    def step(self, what: str) -> AbstractContextManager[None]:
        """Context manager around one piece of work; nested steps are indented."""

    def note(self, line: str) -> None:
        """Say one line that stays."""


@runtime_checkable
class Detailed(Protocol):
    """A `Progress` that also shows how far a step is; one without this is told steps and notes alone."""

    def teller(self) -> Callable[[str], None]:
        """Return what says how far this thread's innermost step is; any thread may call it."""

    def under_way(self, what: str) -> AbstractContextManager[None]:
        """Context manager around what is shown while it lasts, and leaves no line: see `under_way`."""


@runtime_checkable
class Counting(Protocol):
    """A `Progress` that remembers how many pieces a step had the last time."""

    def counter(self, of: str) -> Callable[[int], None]:
        """Return what says how many pieces of this thread's innermost step are done: see `counter`."""


def teller(progress: Progress) -> Callable[[str], None]:
    """Return what says how far this thread's innermost step is: ``12 of 40 MB``, ``klpshadow, 2 of 4``.

    What is said holds until something else is said, or the step ends. Any thread may say it.
    """
    return progress.teller() if isinstance(progress, Detailed) else unheard


def counter(progress: Progress, of: str) -> Callable[[int], None]:
    """Return what says how many pieces of this thread's innermost step are done.

    How many there are in all is what there was the last time, where that is known: ``12 of 260 objects``.

    Args:
        of: what is counted, in the plural.
    """
    if isinstance(progress, Counting):
        return progress.counter(of)
    tell = teller(progress)
    return lambda done: tell(f"{done} {of}")


def unheard(words: str) -> None:
    """Take how far something is, where nobody wants to know."""
    del words


def under_way(progress: Progress, what: str) -> AbstractContextManager[None]:
    """Have something shown while it lasts, that leaves no line behind.

    For what is mostly over at once, and for pieces that are done side by side by threads, of which a note
    tells what came of each.
    """
    return progress.under_way(what) if isinstance(progress, Detailed) else nullcontext()


class Silent:
    """Shows nothing: for tests and for scripts."""

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """See `Progress.step`."""
        del what
        yield

    def note(self, line: str) -> None:
        """See `Progress.note`."""


class NotesOnly:
    """Passes notes on; a step becomes how far the work is that it is part of: others are done beside it."""

    def __init__(self, progress: Progress, tell: Callable[[str], None] | None = None) -> None:
        """Pass notes on; `tell` is of the thread whose step this is part of, if that is not this one."""
        self._progress = progress
        self._tell = tell
        self._steps: list[str] = []

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """See `Progress.step`."""
        tell = self._tell or teller(self._progress)
        self._steps.append(what)
        tell(what)
        try:
            yield
        finally:
            self._steps.pop()
            tell(self._steps[-1] if self._steps else "")

    def note(self, line: str) -> None:
        """See `Progress.note`."""
        self._progress.note(line)

    def teller(self) -> Callable[[str], None]:
        """See `klp.progress.teller`."""
        tell, step = self._tell or teller(self._progress), self._steps[-1:]
        return lambda words: tell(", ".join([*step, words]))

    def under_way(self, what: str) -> AbstractContextManager[None]:
        """See `klp.progress.under_way`."""
        return self.step(what)


def spoken(seconds: float) -> str:
    """Return a length of time as people say it: ``40 s``, ``3 min``."""
    return f"{seconds:.0f} s" if seconds < MINUTES_FROM_S else f"{seconds / 60:.0f} min"
