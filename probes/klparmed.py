# SPDX-License-Identifier: Apache-2.0
"""Print what a probe that is armed already writes, in place of arming another one.

Compiling a probe takes seconds, and an emulated machine most of a minute. Where one runs with `-j`, its
output in a file, the same tool with `--armed FILE` shows the events that come from now on, in columns.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from klpoutput import Fields, Output, complain, unread

PROCESSES = Path("/proc")
# How often the file is looked at.
TICK_S = 0.1
# What was counted in the kernel comes with a mark. A probe that does not answer is not waited for.
MARK_S = 3.0
# Events of the stream itself: what the probe that writes it says of itself.
OF_THE_STREAM = ("header", "mark", "end")


def writer(file: Path, processes: Path = PROCESSES) -> int | None:
    """Return the process whose standard output is `file`, None if there is none."""
    for output in processes.glob("[0-9]*/fd/1"):
        try:
            if output.samefile(file):
                return int(output.parent.parent.name)
        except OSError:  # no such file, or a process that has gone
            continue
    return None


class Lines:
    """The whole lines that a file gains, from its present end on."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._stream.seek(0, os.SEEK_END)
        self._rest = self._begun_line()

    def _begun_line(self) -> bytes:
        """Return what there is of a line that is being written."""
        size = self._stream.tell()
        self._stream.seek(max(0, size - 4096))
        return self._stream.read(size).rpartition(b"\n")[2]

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield what has come since."""
        *whole, self._rest = (self._rest + self._stream.read()).split(b"\n")
        for line in whole:
            yield json.loads(line)


class Follower:
    """Shows the events of an armed probe.

    Args:
        pid: the armed probe's process.
        wants: tells whether to show an event, by its kind and its fields.
    """

    def __init__(self, lines: Lines, pid: int, out: Output, wants: Callable[[str, Fields], bool]) -> None:
        self._lines, self._pid, self._out, self._wants = lines, pid, out, wants
        self._marks = 0
        self.ended = False

    def read(self) -> None:
        """Show what has come."""
        for event in self._lines.read():
            kind, at_ns = event.pop("type"), event.pop("ts_ns")
            del event["probe"], event["seq"]
            if kind == "lost":
                self._out.lose(self._out.lost + event["count"])
            elif kind not in OF_THE_STREAM and self._wants(kind, event):
                self._out.event(kind, at_ns, **event)
            self._marks += kind == "mark"
            self.ended = self.ended or kind == "end"
        sys.stdout.flush()

    def settle(self) -> None:
        """Have the probe write what it counted, and show that, too."""
        before, deadline = self._marks, time.monotonic() + MARK_S
        try:
            os.kill(self._pid, signal.SIGUSR1)
        except ProcessLookupError:
            return
        while self._marks == before and not self.ended and time.monotonic() < deadline:
            signal.sigtimedwait((), TICK_S)
            self.read()

    def follow(self, stop: set[signal.Signals], duration_s: float | None) -> None:
        """Show events until told to stop, or until the probe ends."""
        deadline = time.monotonic() + (duration_s if duration_s is not None else float("inf"))
        while not (self.ended or unread()) and time.monotonic() < deadline:
            if signal.sigtimedwait(stop, min(TICK_S, max(0.0, deadline - time.monotonic()))):
                break
            self.read()
        if self.ended:
            complain(f"{self._out.probe}: the armed probe has ended")
        else:
            self.settle()
