# SPDX-License-Identifier: Apache-2.0
"""Progress shown: in place on a terminal, plain lines elsewhere.

No step stays silent: what lasts is told again at least every ten seconds, with how far it is, and with what
is left if the same was done before.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.segment import Segment
from rich.spinner import Spinner
from rich.text import Text

from klp.durations import Durations
from klp.printable import printable
from klp.progress import MINUTES_FROM_S, Progress, spoken, unheard

# Whoever saw nothing for ten seconds begins to wonder. A little less, for the ticks in between.
_QUIET_S = 9.0
_TICK_S = 0.5
_REDRAWS_A_SECOND = 5
# Of what takes less, nobody needs to know how much is left.
_WORTH_TELLING_S = 5.0


class PrintableConsole(Console):
    """A console on which texts hold nothing that a terminal obeys; see `klp.printable`."""

    def render_str(self, text: str, **options: Any) -> Text:
        """See rich's own; widths are measured after it."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """See rich's own; what is `control` comes from rich, all else was said by somebody."""
        for each in super().render(renderable, options):
            yield each if each.control else Segment(printable(each.text), each.style)


def _elapsed(seconds: float) -> str:
    """Return a time that goes on: to the second, or a line that is told again would be the same."""
    if seconds < MINUTES_FROM_S:
        return spoken(seconds)
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


@dataclass(slots=True)
class _Doing:
    """Something that is being done.

    Attributes:
        path: the words of what it is part of, then its own.
        last_s: what it took the last time, if that is known.
        thread: who does it.
        stays: whether it leaves a line.
        counted: what its pieces are called, and how many of them are done.
    """

    path: tuple[str, ...]
    begun: float
    last_s: float | None
    thread: int
    stays: bool
    far: str = ""
    counted: tuple[str, int] | None = None

    @property
    def what(self) -> str:
        return self.path[-1]

    def tell(self, words: str) -> None:
        """Take how far it is."""
        self.far = words

    @property
    def indent(self) -> str:
        return "  " * (len(self.path) - 1)

    def state(self, now: float) -> str:
        """Return how long it has taken, how far it is, and what is left of it."""
        elapsed = now - self.begun
        return ", ".join(words for words in (_elapsed(elapsed), self.far, self._left(elapsed)) if words)

    def _left(self, elapsed: float) -> str:
        if self.last_s is None or self.last_s < _WORTH_TELLING_S:
            return ""
        left = self.last_s - elapsed
        return f"about {spoken(left)} left" if left >= 1 else f"it took {spoken(self.last_s)} last time"


class _Shown:
    """What is being done, by any number of threads; how it is shown is the subclasses' part.

    What other threads do is part of what the thread does that began first. Subclasses print without `_lock`
    where rich may wait for a lock of its own, which it holds as it asks for the picture.
    """

    def __init__(
        self,
        console: Console,
        durations: Durations | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._durations = durations or Durations(None)
        self._clock = clock
        self._lock = threading.RLock()
        self._switch = threading.Lock()
        self._open: list[_Doing] = []
        self._running = False

    def step(self, what: str) -> AbstractContextManager[None]:
        """See `Progress.step`."""
        return self._doing(what, stays=True)

    def under_way(self, what: str) -> AbstractContextManager[None]:
        """See `klp.progress.under_way`."""
        return self._doing(what, stays=False)

    def teller(self) -> Callable[[str], None]:
        """See `klp.progress.teller`."""
        with self._lock:
            own = self._of(threading.get_ident())
        return own[-1].tell if own else unheard

    def counter(self, of: str) -> Callable[[int], None]:
        """See `klp.progress.counter`."""
        with self._lock:
            own = self._of(threading.get_ident())
        if not own:
            return lambda done: None
        doing, last = own[-1], self._durations.last((*own[-1].path, of))

        def count(done: int) -> None:
            doing.counted = of, done
            doing.tell(f"{done} of {last:.0f} {of}" if last and done <= last else f"{done} {of}")

        return count

    @contextmanager
    def _doing(self, what: str, *, stays: bool) -> Iterator[None]:
        doing = self._begin(what, stays=stays)
        done = False
        try:
            yield
            done = True
        finally:
            self._end(doing, done=done)

    def _begin(self, what: str, *, stays: bool) -> _Doing:
        me = threading.get_ident()
        with self._lock:
            first = self._open[0].thread if self._open else me
            above = self._of(me) or self._of(first)
            path = (*(above[-1].path if above else ()), what)
        doing = _Doing(path, self._clock(), self._durations.last(path), me, stays)
        if stays:
            self._begins(doing)
        with self._lock:
            self._open.append(doing)
        self._settle()
        return doing

    def _end(self, doing: _Doing, *, done: bool) -> None:
        took = self._clock() - doing.begun
        with self._lock:
            self._open.remove(doing)
        self._settle()
        if doing.stays:
            self._ends(doing, took, done=done)
        if done:
            self._durations.keep(doing.path, took)
            if doing.counted:
                of, number = doing.counted
                self._durations.keep((*doing.path, of), number)

    def _of(self, thread: int) -> list[_Doing]:
        return [each for each in self._open if each.thread == thread]

    def _settle(self) -> None:
        """Begin to redraw, or to tick, with the first that is done; end it with the last."""
        with self._switch:
            wanted = bool(self._open)
            if wanted != self._running:
                self._running = wanted
                (self._start if wanted else self._stop)()

    @property
    def _indent(self) -> str:
        with self._lock:
            own = self._of(threading.get_ident())
        return "  " * len(own[-1].path) if own else ""

    def _begins(self, doing: _Doing) -> None:
        """Tell that a step has begun."""

    def _ends(self, doing: _Doing, took: float, *, done: bool) -> None:
        """Tell that a step has ended."""
        raise NotImplementedError

    def _start(self) -> None:
        raise NotImplementedError

    def _stop(self) -> None:
        raise NotImplementedError


class PlainLines(_Shown):
    """One line when a step begins, one when it ends, with the seconds it took; one now and then between."""

    def __init__(
        self,
        console: Console,
        durations: Durations | None = None,
        clock: Callable[[], float] = time.monotonic,
        quiet_s: float = _QUIET_S,
    ) -> None:
        super().__init__(console, durations, clock)
        self._quiet_s = quiet_s
        self._said_at = clock()

    def _say(self, line: str) -> None:
        with self._lock:
            self._said_at = self._clock()
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def note(self, line: str) -> None:
        """See `Progress.note`."""
        self._say(self._indent + line)

    def tick(self) -> None:
        """Say what is being done, if nothing was said for long."""
        with self._lock:
            if self._open and self._clock() - self._said_at >= self._quiet_s:
                self._say(self._state())

    def _state(self) -> str:
        now, first = self._clock(), self._open[0].thread
        beside = dict.fromkeys(each.thread for each in self._open if each.thread != first)
        leaves = [self._of(thread)[-1] for thread in beside]
        own = self._of(first)[-1]
        if own.far or not leaves:
            leaves.insert(0, own)
        return "  " * len(own.path) + "; ".join(f"{each.what}: {each.state(now)}" for each in leaves)

    def _begins(self, doing: _Doing) -> None:
        worth = doing.last_s is not None and doing.last_s >= _WORTH_TELLING_S
        last = f" (last time {spoken(doing.last_s or 0)})" if worth else ""
        self._say(f"{doing.indent}{doing.what} …{last}")

    def _ends(self, doing: _Doing, took: float, *, done: bool) -> None:
        how = "" if done else "failed after "
        self._say(f"{doing.indent}{doing.what}: {how}{took:.1f} s")

    def _start(self) -> None:
        self._said_at = self._clock()
        self._over = threading.Event()
        every_s = min(_TICK_S, self._quiet_s)
        self._ticker = threading.Thread(target=self._ticks, args=(self._over, every_s), daemon=True)
        self._ticker.start()

    def _ticks(self, over: threading.Event, every_s: float) -> None:
        while not over.wait(every_s):
            self.tick()

    def _stop(self) -> None:
        self._over.set()
        self._ticker.join()


class InPlace(_Shown):
    """All that is being done with its elapsed seconds in the last lines; finished steps stay above them.

    Args:
        above: returns what else is redrawn, above those lines; None for nothing.
    """

    def __init__(
        self,
        console: Console,
        durations: Durations | None = None,
        clock: Callable[[], float] = time.monotonic,
        above: Callable[[], RenderableType | None] = lambda: None,
    ) -> None:
        super().__init__(console, durations, clock)
        self._above = above
        self._spinner = Spinner("line")

    def note(self, line: str) -> None:
        """See `Progress.note`."""
        self._console.print(self._indent + line, highlight=False, markup=False)

    def _picture(self) -> RenderableType:
        above = self._above()
        with self._lock:
            lines = [self._line(each) for each in self._open]
        return Group(*([] if above is None else [above]), *lines)

    def _line(self, doing: _Doing) -> Text:
        line = Text(doing.indent, no_wrap=True, overflow="ellipsis")
        frame = self._spinner.render(self._console.get_time())
        return line.append(f"{frame} {doing.what} ").append(doing.state(self._clock()), style="dim")

    def _ends(self, doing: _Doing, took: float, *, done: bool) -> None:
        with self._switch:
            if self._running:
                self._live.refresh()  # or the line would stand above one that says it is still being done
        mark = "[green]✓[/green]" if done else "[red]✗[/red]"
        line = f"{doing.indent}{mark} {escape(doing.what)} [dim]{took:.1f} s[/dim]"
        self._console.print(line, highlight=False, markup=True)

    def _start(self) -> None:
        self._live = Live(
            get_renderable=self._picture, console=self._console, transient=True,
            refresh_per_second=_REDRAWS_A_SECOND,
            # What goes into a file or a pipe is to go there, also while something is shown here.
            redirect_stdout=sys.stdout.isatty(), redirect_stderr=sys.stderr.isatty(),
        )  # fmt: skip
        self._live.start()

    def _stop(self) -> None:
        self._live.stop()


def for_console(
    console: Console,
    durations: Durations | None = None,
    above: Callable[[], RenderableType | None] = lambda: None,
) -> Progress:
    """Return what suits the console: lines that are redrawn on a terminal, plain lines elsewhere.

    Args:
        durations: what is known of earlier times; None for teller no estimates.
        above: returns what a terminal redraws above the steps.
    """
    if console.is_terminal:
        return InPlace(console, durations, above=above)
    return PlainLines(console, durations)
