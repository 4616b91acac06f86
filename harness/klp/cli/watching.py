# SPDX-License-Identifier: Apache-2.0
"""What `klp trace` shows of a transition while it runs."""

from __future__ import annotations

import threading

from rich.console import Console, RenderableType

from klp.analysis.live import Watcher
from klp.guest.livepatch import PendingTask
from klp.report.live import holder_lines, live_line, live_picture
from klp.trace.events import AnyEvent


class TransitionScreen:
    """Shows transitions as they go; the run's `Watch`.

    Lines stay: on a terminal one for each transition that is over, elsewhere one at each change. What of it
    is redrawn on a terminal is `picture`, for whatever redraws the steps as well.
    """

    def __init__(self, console: Console) -> None:
        # Locked: events, and the tasks that hold a transition, come from several threads.
        self._console = console
        self._watcher = Watcher()
        self._lock = threading.Lock()

    def event(self, event: AnyEvent) -> None:
        """See `klp.drive.watch.Watch`."""
        with self._lock:
            changed = self._watcher.take(event)
            now = self._watcher.now()
        if changed and now and (now.over or not self._console.is_terminal):
            self._console.print(live_line(now), soft_wrap=True)

    def slow(self, tasks: tuple[PendingTask, ...]) -> None:
        """See `klp.drive.watch.Watch`; their stacks have come as an event before."""
        with self._lock:
            now = self._watcher.now()
        if self._console.is_terminal:
            return
        for line in holder_lines(now) if now else ():
            self._console.print(f"            {line}", soft_wrap=True)

    def picture(self) -> RenderableType | None:
        """Return the transition that runs: bar, phase, and who holds it up; None when none does."""
        with self._lock:
            now = self._watcher.now()
        return live_picture(now) if now and not now.over else None
