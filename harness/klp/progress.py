# SPDX-License-Identifier: Apache-2.0
"""Progress of long work: in place on a terminal, plain lines elsewhere, always on stderr.

The library calls `Progress.step` and `Progress.note`; the CLI alone decides how they are shown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.markup import escape

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status


class Progress(Protocol):
    """Where long work says what it is doing."""

    def step(self, what: str) -> AbstractContextManager[None]:
        """Context manager around one piece of work; nested steps are indented."""

    def note(self, line: str) -> None:
        """Say one line that stays."""


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
    """Passes notes on, but shows no steps: they would mix with those of the work beside it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """See `Progress.step`."""
        del what
        yield

    def note(self, line: str) -> None:
        """See `Progress.note`."""
        self._progress.note(line)


class PlainLines:
    """One line when a step begins, one when it ends, with the seconds it took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._depth = 0

    def _say(self, line: str) -> None:
        self._console.print("  " * self._depth + line, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """See `Progress.step`."""
        begun = time.monotonic()
        self._say(f"{what} …")
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            self._say(f"{what}: failed after {time.monotonic() - begun:.1f} s")
            raise
        self._depth -= 1
        self._say(f"{what}: {time.monotonic() - begun:.1f} s")

    def note(self, line: str) -> None:
        """See `Progress.note`."""
        self._say(line)


class InPlace:
    """The running step with its elapsed seconds in the last line; finished ones stay above it."""

    _REDRAW_S = 0.2

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps: list[tuple[str, float]] = []

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """See `Progress.step`."""
        begun = time.monotonic()
        self._steps.append((what, begun))
        indent, shown = "  " * (len(self._steps) - 1), escape(what)
        mark = "[red]✗[/red]"
        try:
            with self._console.status(f"{indent}{shown}", spinner="line") as status:
                # rich turns the spinner by itself, but shows other text only when it is given some.
                stop = threading.Event()
                ticker = threading.Thread(
                    target=self._tick, args=(status, f"{indent}{shown}", begun, stop), daemon=True
                )
                ticker.start()
                try:
                    yield
                    mark = "[green]✓[/green]"
                finally:
                    stop.set()
                    ticker.join()
        finally:
            self._steps.pop()
            took = time.monotonic() - begun
            line = f"{indent}{mark} {shown} [dim]{took:.1f} s[/dim]"
            self._console.print(line, highlight=False, markup=True)

    def _tick(self, status: Status, shown: str, begun: float, stop: threading.Event) -> None:
        while not stop.wait(self._REDRAW_S):
            status.update(f"{shown} [dim]{time.monotonic() - begun:.0f} s[/dim]")

    def note(self, line: str) -> None:
        """See `Progress.note`."""
        self._console.print("  " * len(self._steps) + line, highlight=False, markup=False)


def for_console(console: Console) -> Progress:
    """Return what suits the console: a line that is redrawn on a terminal, plain lines elsewhere."""
    return InPlace(console) if console.is_terminal else PlainLines(console)
