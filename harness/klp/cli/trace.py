# SPDX-License-Identifier: Apache-2.0
"""`klp trace`: a transition as it goes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from klp.analysis.evidence import Verdict
from klp.analysis.live import Watcher
from klp.cli.common import (
    bootable,
    deadline_option,
    example,
    folder_option,
    kernel_option,
    progress,
    settings,
    stdout,
    tell_folder,
)
from klp.cli.completing import livepatch_names
from klp.drive.job import wishes
from klp.drive.prepare import prepare_run
from klp.drive.run import Run
from klp.errors import ExitCode
from klp.guest.livepatch import PendingTask
from klp.report.live import holder_lines, live_line, live_picture
from klp.report.table import failed_checks
from klp.trace.events import AnyEvent

_SAMPLE = "version-banner"


class _Lines:
    """Shows a transition as plain lines, one at each change; also the run's `Progress`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._watcher = Watcher()
        self._lock = threading.Lock()

    def event(self, event: AnyEvent) -> None:
        """See `klp.drive.watch.Watch`."""
        with self._lock:
            changed = self._watcher.take(event)
            now = self._watcher.now()
        if changed and now:
            self._console.print(live_line(now), soft_wrap=True)

    def slow(self, tasks: tuple[PendingTask, ...]) -> None:
        """See `klp.drive.watch.Watch`."""
        with self._lock:
            self._watcher.stacks({each.pid: each.stack for each in tasks})
            now = self._watcher.now()
        for line in holder_lines(now) if now else ():
            self._console.print(f"            {line}", soft_wrap=True)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """See `klp.progress.Progress`."""
        self._console.print(f"{what} …", style="dim")
        yield

    def note(self, line: str) -> None:
        """See `klp.progress.Progress`."""
        self._console.print(line, style="dim", soft_wrap=True)


class _Picture:
    """Shows a transition in place: bar, phase, and who is stuck on what for how long."""

    def __init__(self, console: Console) -> None:
        # Locked: events, and the tasks that hold a transition, come from several threads.
        self._watcher = Watcher()
        self._lock = threading.Lock()
        self._doing: list[str] = []
        self._live = Live(get_renderable=self._picture, console=console, refresh_per_second=8)

    def __enter__(self) -> _Picture:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def _picture(self) -> RenderableType:
        with self._lock:
            now = self._watcher.now()
        doing = self._doing[-1] if self._doing else ""
        return live_picture(now, doing) if now else Text(doing, style="dim")

    def event(self, event: AnyEvent) -> None:
        """See `klp.drive.watch.Watch`."""
        with self._lock:
            self._watcher.take(event)
            now = self._watcher.now()
        if now and now.over:
            self._live.console.print(live_line(now), soft_wrap=True)

    def slow(self, tasks: tuple[PendingTask, ...]) -> None:
        """See `klp.drive.watch.Watch`."""
        with self._lock:
            self._watcher.stacks({each.pid: each.stack for each in tasks})

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """See `klp.progress.Progress`."""
        self._doing.append(what)
        try:
            yield
        finally:
            self._doing.pop()

    def note(self, line: str) -> None:
        """See `klp.progress.Progress`."""
        self._live.console.print(line, style="dim", soft_wrap=True)


@contextmanager
def _screen() -> Iterator[_Lines | _Picture]:
    if not stdout.is_terminal:
        yield _Lines(stdout)
        return
    with _Picture(stdout) as picture:
        yield picture


@click.command(epilog=example("klp trace version-banner"))
@click.argument("patch", default=_SAMPLE, shell_complete=livepatch_names)
@kernel_option
@folder_option
@deadline_option
def trace(patch: str, *, kernel: str | None, out: Path | None, deadline_s: float | None) -> int:
    """Watch a livepatch's transitions as they go: phase, tasks left, who is stuck on what.

    PATCH is what `klp run` takes; without one it is a livepatch of klp's own. A transition that lasts names
    the tasks that hold it, with patch_state, reason and kernel stack.
    """
    wanted = settings(kernel=kernel, deadline_s=deadline_s)
    wished = wishes((patch,))
    prepared = prepare_run(wished, bootable(wanted), out, progress())
    with _screen() as screen:
        run = Run(prepared, progress=screen, watch=screen)
        result, failure = run.execute()
    for line in failed_checks(result):
        stdout.print(f"violated: {line}", style="red", soft_wrap=True)
    tell_folder(prepared.layout.root)
    if failure:
        raise failure
    return ExitCode.CHECK_FAILED if result.verdict is Verdict.VIOLATED else ExitCode.OK
