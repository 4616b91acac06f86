# SPDX-License-Identifier: Apache-2.0
"""A worker as the main process sees it, and who in it does not get on."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .performing import READ_BYTES, Slot

ROUND_S = 0.1
_WAITS_FOR_CHILD = re.compile(r"\b(do_wait|kernel_wait4|sigsuspend|do_sigtimedwait)\b")
# Of the seconds between two looks, in clock ticks of 10 ms.
_ALL_THE_TIME = 200


@dataclass
class Worker:
    """A forked process that runs workloads.

    Attributes:
        idle_s: for how long it has run none, in the main process's rounds.
        looks: what was seen of who sleeps, and at which `idle_s`.
    """

    pid: int
    pipe: int
    slot: Slot
    begun: float = field(default_factory=time.monotonic)
    runs: int = -1
    idle_s: float = 0.0
    looks: list[tuple[float, list[dict[str, Any]]]] = field(default_factory=list)
    buffer: bytes = b""
    ended: bool = False

    def count(self, elapsed_s: float) -> None:
        """Take a round into account."""
        runs = self.slot.get()[1]
        if runs != self.runs:
            self.runs, self.idle_s, self.looks = runs, 0.0, []
        else:
            # A round that took long is the host's doing, or this process's: it counts as one.
            self.idle_s += min(elapsed_s, 2 * ROUND_S)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield what it has said."""
        try:
            while chunk := os.read(self.pipe, READ_BYTES):
                self.buffer += chunk
            self.ended = True
        except BlockingIOError:
            pass
        *whole, self.buffer = self.buffer.split(b"\n")
        yield from (json.loads(each) for each in whole)

    def look(self, apart_s: float) -> list[dict[str, Any]]:
        """Look at who sleeps, if the last look is long ago; return who has not moved since."""
        if self.looks and self.idle_s - self.looks[-1][0] < apart_s:
            return []
        self.looks.append((self.idle_s, who_sleeps(self)))
        return stays(self.looks[-2][1], self.looks[-1][1]) if len(self.looks) > 1 else []

    def kill(self) -> None:
        """End it, and the command that it runs; one that sleeps uninterruptibly stays."""
        child = self.slot.get()[2]
        for pid, kill in ((self.pid, os.kill), *([(child, os.killpg)] if child else [])):
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)

    def reap(self) -> bool:
        """Whether it is gone."""
        with suppress(ChildProcessError):
            return os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
        return True


def _stat(task: Path) -> list[str]:
    return (task / "stat").read_text().rpartition(")")[2].split()


def who_sleeps(worker: Worker) -> list[dict[str, Any]]:
    """Return the tasks of a worker's workload: name, pid, state, kernel stack, CPU time in the kernel."""
    child = worker.slot.get()[2]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = _stat(process)
            session = int(fields[3])
            if (child and session == child) or (not child and int(process.name) == worker.pid):
                found += [_task(each) for each in (process / "task").iterdir()]
        except OSError:
            continue  # it has ended
    leaves = [each for each in found if not _WAITS_FOR_CHILD.search(" ".join(each["stack"]))]
    return leaves or found


def _task(task: Path) -> dict[str, Any]:
    fields = _stat(task)
    stack = (task / "stack").read_text().splitlines()
    comm = (task / "comm").read_text().strip()
    frames = [line.partition("] ")[2] for line in stack]
    return {
        "pid": int(task.name),
        "comm": comm,
        "state": fields[0],
        "stack": frames,
        "ticks": int(fields[12]),
    }


def stays(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return who sleeps in the kernel at the same place in two looks, or has run in it all the time."""
    before = {each["pid"]: each for each in first}
    found = []
    for each in second:
        was = before.get(each["pid"])
        if was is None:
            continue
        asleep = each["state"] in "DS" and was["state"] in "DS"
        if (asleep and each["stack"] and each["stack"] == was["stack"]) or each["ticks"] - was[
            "ticks"
        ] > _ALL_THE_TIME:
            found.append(each)
    return found
