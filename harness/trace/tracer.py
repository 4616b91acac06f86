# SPDX-License-Identifier: Apache-2.0
"""Probes in a guest: shipped, armed, drained and stopped.

A probe runs on its own (setsid) and writes to a file of the guest; the host follows that file. So it
outlives an SSH connection, and whoever connects later reads the same events from the start.
"""

from __future__ import annotations

import logging
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness import paths
from harness.errors import CheckFailed
from harness.guest.ssh import Guest
from harness.progress import Progress
from harness.trace.store import EventStore
from harness.waiting import DeadlineMissed, wait_until

log = logging.getLogger(__name__)

PROBES = ("klptransition", "klpshadow", "klpcallbacks")
_FOLDER = "/run/klp"
_LOOK_S = 0.02
# BCC compiles with clang inside the guest: 12 s a probe under TCG, one after another.
_ARM_S = 180.0
_DRAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class ArmedProbe:
    """A probe that runs in the guest: its name, its process there, and the thread that follows it."""

    name: str
    pid: int
    follower: threading.Thread


class Tracer:
    """The armed probes of one guest, writing to one store."""

    def __init__(self, guest: Guest, store: EventStore) -> None:
        self._guest = guest
        self.store = store
        self._armed: list[ArmedProbe] = []
        self._marks = 0

    def arm(self, names: tuple[str, ...] = PROBES) -> None:
        """Ship the probes, start them, and wait until each has said that it is attached.

        Raises:
            CheckFailed: a probe ended before it was; with what it said.
            VmLost: the machine was lost meanwhile.
        """
        self._ship()
        self._armed += [self._start(name) for name in names]
        for probe in self._armed:
            self._wait(probe, partial(self._attached, probe.name), _ARM_S, "start")

    def _attached(self, name: str) -> bool:
        return self.store.header(name) is not None

    def _ship(self) -> None:
        self._guest.run(f"mkdir -p {_FOLDER}/probes {_FOLDER}/trace").must("making room for probes")
        for pattern in ("*.py", "*.bpf.c"):
            for file in sorted(paths.PROBES.glob(pattern)):
                self._guest.put(file, f"{_FOLDER}/probes/{file.name}")

    def _start(self, name: str) -> ArmedProbe:
        out, err = f"{_FOLDER}/trace/{name}.jsonl", f"{_FOLDER}/trace/{name}.err"
        command = f"python3 {_FOLDER}/probes/{name}.py -j"
        started = self._guest.run(f"setsid {command} >{out} 2>{err} </dev/null & echo $!")
        pid = int(started.must(f"starting {name}").stdout)
        follower = threading.Thread(
            target=self._follow, args=(out, pid), name=f"follow {name}", daemon=True
        )
        follower.start()
        return ArmedProbe(name, pid, follower)

    def _follow(self, file: str, pid: int) -> None:
        """Copy a probe's lines to the store until the probe, or the connection, ends."""
        rest = b""
        # --pid: tail ends with the probe, after its last line; -s is how often it looks for that.
        for chunk in self._guest.stream(f"tail -c +1 -f -s 0.1 --pid={pid} {shlex.quote(file)}"):
            *lines, rest = (rest + chunk).split(b"\n")
            if lines:
                self.store.append(lines)
        if rest:
            log.debug("%s ended in the middle of a line: %r", file, rest)

    def _wait(self, probe: ArmedProbe, done: Callable[[], bool], limit_s: float, what: str) -> None:
        def look() -> bool:
            self._guest.check_alive()
            self.store.check()
            if done():
                return True
            if not probe.follower.is_alive() and not done():
                raise self._dead(probe, what)
            return False

        try:
            wait_until(look, what=what, timeout_s=limit_s, every_s=_LOOK_S)
        except DeadlineMissed as missed:
            raise CheckFailed(
                f"the probe {probe.name} gave no {what} within {missed.waited_s:.0f} s",
                hint=f"in the guest: python3 {_FOLDER}/probes/{probe.name}.py",
            ) from None

    def _dead(self, probe: ArmedProbe, what: str) -> CheckFailed:
        said = self._guest.run(f"tail -n 3 {_FOLDER}/trace/{probe.name}.err").stdout.strip()
        return CheckFailed(f"the probe {probe.name} ended before its {what}: {said or 'no word'}")

    def mark(self) -> int:
        """Have every probe write out what it has seen so far; return the store's position after it.

        Raises:
            CheckFailed: a probe is dead or silent.
        """
        self._marks += 1
        number = self._marks
        if self._armed:
            pids = " ".join(str(probe.pid) for probe in self._armed)
            self._guest.run(f"kill -USR1 {pids}").must("marking the trace")
        for probe in self._armed:
            self._wait(probe, partial(self.store.marked, probe.name, number), _DRAIN_S, "mark")
        return self.store.count()

    def missing(self) -> tuple[str, ...]:
        """Return what the probes cannot see on this kernel, one line each."""
        heads = (self.store.header(probe.name) for probe in self._armed)
        return tuple(
            f"{head.probe}: no {each.symbol}: {each.unseen}"
            for head in heads
            if head
            for each in head.missing
        )

    def stop(self) -> None:
        """Stop the probes in order, and wait for their last events."""
        if not self._armed:
            return
        pids = " ".join(str(probe.pid) for probe in self._armed)
        self._guest.run(f"kill -INT {pids}").must("stopping the probes")
        for probe in self._armed:
            self._wait(probe, partial(self.store.ended, probe.name), _DRAIN_S, "end")
            probe.follower.join(_DRAIN_S)
        self._armed.clear()


@contextmanager
def traced(
    guest: Guest, file: Path, progress: Progress, names: tuple[str, ...] = PROBES
) -> Iterator[Tracer]:
    """Arm probes in a guest for the length of a block, their events going to `file`."""
    with EventStore(file) as store:
        tracer = Tracer(guest, store)
        with progress.step(f"arming {', '.join(names)}"):
            tracer.arm(names)
        yield tracer
        with progress.step("draining the probes"):
            tracer.stop()
