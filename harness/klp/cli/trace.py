# SPDX-License-Identifier: Apache-2.0
"""`klp trace`: a transition as it goes."""

from __future__ import annotations

import threading
from pathlib import Path

import click
from rich.console import Console, RenderableType

from klp.analysis.evidence import Verdict
from klp.analysis.live import Watcher
from klp.cli.common import bootable, durations, kernel_option, progress, settings, stdout
from klp.drive.job import wishes
from klp.drive.prepare import prepare_run
from klp.drive.run import Run
from klp.errors import ExitCode
from klp.guest.livepatch import PendingTask
from klp.progress import for_console
from klp.report.live import holder_lines, live_line, live_picture
from klp.report.table import failed_checks
from klp.trace.events import AnyEvent

_SAMPLE = "version-banner"


class _Screen:
    """Shows a transition as it goes.

    Lines stay: on a terminal one for each transition that is over, elsewhere one at each change. A terminal
    shows the running transition above the steps as well, until it is over.
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
        """See `klp.drive.watch.Watch`."""
        with self._lock:
            self._watcher.stacks({each.pid: each.stack for each in tasks})
            now = self._watcher.now()
        if self._console.is_terminal:
            return
        for line in holder_lines(now) if now else ():
            self._console.print(f"            {line}", soft_wrap=True)

    def picture(self) -> RenderableType | None:
        """Return the transition that runs, as a picture; None when none does."""
        with self._lock:
            now = self._watcher.now()
        return live_picture(now) if now and not now.over else None


@click.command()
@click.argument("patch", default=_SAMPLE)
@kernel_option
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Run folder; new or empty.")
@click.option("--deadline", "deadline_s", type=float, metavar="S", help="Seconds a transition may take.")
def trace(patch: str, *, kernel: str | None, out: Path | None, deadline_s: float | None) -> int:
    """Watch a livepatch's transitions as they go: phase, tasks left, who is stuck on what.

    PATCH is what `klp run` takes; without one it is a livepatch of klp's own. A transition that lasts names
    the tasks that hold it, with patch_state, reason and kernel stack.
    """
    wanted = settings(kernel=kernel, deadline_s=deadline_s)
    wished = wishes((patch,))
    prepared = prepare_run(wished, bootable(wanted), out, progress())
    screen = _Screen(stdout)
    # On a terminal the picture and the steps are one, which is redrawn as a whole.
    steps = for_console(stdout, durations(), screen.picture) if stdout.is_terminal else progress()
    result, failure = Run(prepared, progress=steps, watch=screen).execute()
    for line in failed_checks(result):
        stdout.print(f"violated: {line}", style="red", soft_wrap=True)
    stdout.print(f"run folder: {prepared.layout.root}", soft_wrap=True)
    if failure:
        raise failure
    return ExitCode.CHECK_FAILED if result.verdict is Verdict.VIOLATED else ExitCode.OK
