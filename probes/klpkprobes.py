# SPDX-License-Identifier: Apache-2.0
"""Kprobes as events of tracefs: they can name functions of modules to come, and are counted.

Where a kprobe's program comes to a CPU on which another one, or a system call on a map, is at work, the
kernel leaves it out. Since 6.7 it counts that; until then nobody does, but every event has a count of how
often its place was reached, and every program one of how often it ran.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from klpname import system_call
from klpring import LOOK_S, fdinfo

TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
MISSES_COUNTED_SINCE = (6, 7)
# Of include/uapi/linux/bpf.h: the command, and its argument, BPF_STATS_RUN_TIME.
_BPF_ENABLE_STATS = 32
_RUN_TIME = b"\0\0\0\0"
# What is under way in the kernel while the two counts are read is told apart by reading them again.
_TRIES = 5


@dataclass
class KprobeEvents:
    """The kprobe events of one process of a tool.

    Attributes:
        counting: whether the kernel counts the runs of programs (see `count_runs`).
    """

    root: Path
    tool: str
    pid: int = field(default_factory=os.getpid)
    counting: bool = False
    attached: list[tuple[Any, str, str]] = field(default_factory=list)
    _before: int = 0
    _left_out: int = 0

    @classmethod
    def find(cls, tool: str) -> KprobeEvents | None:
        """Return those of this machine; None where tracefs is not mounted."""
        roots = (root for root in TRACEFS if (root / "kprobe_events").exists())
        return next((cls(root, tool) for root in roots), None)

    @property
    def group(self) -> str:
        """The folder of tracefs that they are in."""
        return f"{self.tool}_{self.pid}"

    def _write(self, line: str) -> None:
        # Not open("ab"): Python then seeks to the end, after which this file refuses every write.
        descriptor = os.open(self.root / "kprobe_events", os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)

    def add(self, bpf: Any, name: str, where: str, function: str, kind: str = "p") -> bool:
        """Run a BPF function at `[module:]symbol+offset`; False if the kernel refuses the place.

        Args:
            kind: ``p``, or ``r`` for where a function returns.
        """
        try:
            self._write(f"{kind}:{self.group}/{name} {where}")
        except OSError:
            return False
        event = f"{self.group}:{name}"
        try:
            bpf.load_func(function, bpf.KPROBE)  # first: else it would be loaded as a tracepoint's
            bpf.attach_tracepoint(tp=event, fn_name=function)
        except Exception:  # bcc raises nothing narrower
            self._write(f"-:{self.group}/{name}")
            return False
        self.attached.append((bpf, event, function))
        return True

    def count_runs(self) -> None:
        """Have the kernel count how often programs run, as long as this process lives.

        Raises:
            OSError: the kernel refuses.
        """
        system_call(_BPF_ENABLE_STATS, _RUN_TIME)  # until the descriptor that it returns is closed
        self.counting = True

    def settle(self) -> None:
        """Count from now on: an event is armed before it has its program."""
        self._before, self._left_out = self._difference(), 0

    def left_out(self) -> int:
        """Return how often a program did not run although its place was reached, as far as is known."""
        if not self.attached:
            return 0
        return self._profile()[1] + (self._never_run() if self.counting else 0)

    def _never_run(self) -> int:
        """Return how many hits were followed by no run, and not only by none yet."""
        for _ in range(_TRIES):
            difference = self._difference() - self._before
            if difference <= self._left_out:
                return self._left_out
            signal.sigtimedwait((), LOOK_S)
        self._left_out = difference
        return difference

    def _difference(self) -> int:
        # The hits first: a run that comes in between only makes the difference smaller, until next time.
        hits = self._profile()[0]
        functions = {function: bpf for bpf, _, function in self.attached}
        programs = (bpf.load_func(each, bpf.KPROBE).fd for each, bpf in functions.items())
        return hits - sum(fdinfo(each).get("run_cnt", 0) for each in programs)

    def _profile(self) -> tuple[int, int]:
        """Return the hits of all, and how often a kprobe was being handled on the CPU already."""
        names = set(self._names(self.group))
        lines = (line.split() for line in (self.root / "kprobe_profile").read_text().splitlines())
        own = [(int(hits), int(missed)) for name, hits, missed in lines if name in names]
        return sum(hits for hits, _ in own), sum(missed for _, missed in own)

    def _names(self, group: str) -> list[str]:
        folder = self.root / "events" / group
        return [one.name for one in folder.iterdir() if one.is_dir()] if folder.is_dir() else []

    def remove(self) -> None:
        """Remove the probes, and those of dead processes of this tool."""
        for bpf, event, _ in self.attached:
            bpf.detach_tracepoint(event)
        self.attached.clear()
        for group in self._groups():
            for name in self._names(group):
                self._write(f"-:{group}/{name}")

    def _groups(self) -> Iterator[str]:
        """Yield the folders to be removed."""
        for folder in (self.root / "events").glob(f"{self.tool}_*"):
            pid = folder.name.rpartition("_")[2]
            if folder.name == self.group or not Path("/proc", pid).exists():
                yield folder.name
