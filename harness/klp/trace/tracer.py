# SPDX-License-Identifier: Apache-2.0
"""Probes in a guest: shipped, armed, drained and stopped.

A probe runs in a session of its own (setsid) and writes to a file in the guest; the host follows that file.
So it outlives the SSH connection that started it, as it must in a guest that is saved and restored, and
whoever connects later reads the same events from the first one on.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import shlex
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from klp import paths
from klp.errors import CheckFailed, KlpError, TraceLost
from klp.guest.channels import Streams
from klp.guest.ssh import Guest
from klp.progress import Progress, teller, unheard
from klp.trace import tailing
from klp.trace.events import AnyEvent
from klp.trace.store import EventStore
from klp.trace.tailing import Apart
from klp.waiting import DeadlineMissed, wait_until

log = logging.getLogger(__name__)

PROBES = ("klptransition", "klpshadow", "klpcallbacks", "klpstates")
# This one has to be told which functions to watch, so it is armed only once they are known, and on request.
CONSISTENCY = "klpconsistency"
_FOLDER = "/run/klp"
GUEST_PROBES = f"{_FOLDER}/probes"  # where a guest has them
_LOOK_S = 0.02
# Where BCC compiles with clang inside the guest, it takes 12 s a probe under TCG, and several times that on
# a busy host.
# So what is limited is not the time it takes, but the time in which it gets nothing done.
_ARM_S = 1800.0
_IDLE_S = 60.0
_IDLE_LOOK_S = 5.0
_GONE_LOOK_S = 1.0
# A ring buffer that is full takes an emulated guest most of a minute to read.
_DRAIN_S = 180.0


@dataclass(frozen=True, slots=True)
class ProbeProcess:
    """A probe that runs in a guest: its name, and its process there."""

    name: str
    pid: int


@dataclass(frozen=True, slots=True)
class _Followed:
    """A probe's process, and the thread that copies what it and maybe others write."""

    process: ProbeProcess
    follower: threading.Thread

    @property
    def name(self) -> str:
        """The probe's name."""
        return self.process.name


def probe_program(name: str) -> str:
    """Return where in a guest a probe's program is, once it was shipped."""
    return f"{GUEST_PROBES}/{name}.py"


def probe_output(name: str) -> str:
    """Return the file in a guest that an armed probe writes to."""
    return f"{_FOLDER}/trace/{name}.jsonl"


def ship_probes(guest: Guest, programs: Iterable[Path] = ()) -> None:
    """Put all that the probes need into a guest, with the programs that they load.

    Raises:
        CheckFailed, VmLost: it cannot be written there; the machine was lost meanwhile.
    """
    # All at once: to put a file takes an emulated guest a tenth of a second, whatever its size.
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as packed:
        for file in [*paths.probe_files(), *programs]:
            # Where Python looks for the bytecode of what is beside it.
            packed.add(file, f"__pycache__/{file.name}" if file.suffix == ".pyc" else file.name)
    unpack = f"mkdir -p {GUEST_PROBES} {_FOLDER}/trace && tar -x -C {GUEST_PROBES} --no-same-owner"
    guest.run(unpack, stdin=archive.getvalue()).must("shipping the probes")


class Tracer:
    """The armed probes of one guest, writing to one store."""

    def __init__(self, guest: Guest, store: EventStore) -> None:
        self._guest = guest
        self.store = store
        self._armed: list[_Followed] = []
        self._marks = 0

    def arm(
        self,
        names: tuple[str, ...] = PROBES,
        *,
        programs: Iterable[Path] = (),
        tell: Callable[[str], None] = unheard,
    ) -> tuple[ProbeProcess, ...]:
        """Ship the probes, start them, and wait until each has said that it is attached.

        Args:
            programs: what they load; a probe that has none compiles its own.
            tell: gets which probes it is about.

        Raises:
            CheckFailed: a probe ended before it was; with what it said.
            VmLost: the machine was lost meanwhile.
        """
        ship_probes(self._guest, programs)
        if names:
            tell(f"starting {', '.join(names)}")
            self._follow(self._start_together(names, tell), CheckFailed)
        return tuple(probe.process for probe in self._armed)

    def _start_together(
        self, names: tuple[str, ...], tell: Callable[[str], None]
    ) -> tuple[ProbeProcess, ...]:
        # They start one after the other: side by side they take a quarter more of an emulated CPU
        # (docs/facts.md).
        command = f"python3 {GUEST_PROBES}/klptogether.py {_FOLDER}/trace {' '.join(names)} </dev/null"
        out, err = bytearray(), bytearray()

        def take(chunk: bytes) -> None:
            out.extend(chunk)
            tell(starting(out.decode(), len(names)))

        ended = self._guest.run(command, timeout_s=_ARM_S, streams=Streams(take, err.extend))
        dataclasses.replace(ended, stderr=err.decode(errors="replace")).must("starting the probes")
        pairs = (line.split() for line in out.decode().splitlines())
        return tuple(ProbeProcess(name, int(pid)) for name, pid in pairs)

    def watch(self, functions: Iterable[str]) -> None:
        """Arm klpconsistency, for T12, for functions told as PATCH:OBJECT:OLD:NEW (see its manual).

        The livepatches must not be loaded yet: the kernel arms a kprobe event ``module:symbol`` when the
        module comes, before any of its code runs.

        Raises:
            CheckFailed, VmLost: as `arm`.
        """
        words = " ".join(f"-f {shlex.quote(each)}" for each in functions)
        self._follow((self._start(CONSISTENCY, words),), CheckFailed)

    def follow(self, processes: tuple[ProbeProcess, ...]) -> None:
        """Read what running probes write, from their first event on; they may run since long ago.

        Raises:
            TraceLost: a probe does not run any more.
            VmLost: the machine was lost meanwhile.
        """
        self._follow(processes, TraceLost)

    def _follow(self, processes: tuple[ProbeProcess, ...], failure: type[KlpError]) -> None:
        follower = self._follower(processes)
        self._armed += [_Followed(each, follower) for each in processes]
        # The header is a probe's first event, written once all is attached: nothing may be loaded before.
        for probe in self._armed:
            self._wait(probe, self._started(probe), _ARM_S, "start", failure)

    def _follower(self, processes: tuple[ProbeProcess, ...]) -> threading.Thread:
        names = tuple(each.name for each in processes)
        follower = threading.Thread(
            target=self._copy, args=(names,), name=f"follow {', '.join(names)}", daemon=True
        )
        follower.start()
        return follower

    def _started(self, probe: _Followed) -> Callable[[], bool]:
        """Return a function that tells whether a probe is attached, and raises if it gets nothing done."""
        worked, worked_at, looked_at = "", time.monotonic(), time.monotonic()

        def look() -> bool:
            nonlocal worked, worked_at, looked_at
            if self.store.header(probe.name) is not None:
                return True
            now = time.monotonic()
            if now - looked_at < _IDLE_LOOK_S:
                return False
            looked_at = now
            # Its time on a CPU, in user and kernel mode (proc(5)); the name before them may hold blanks.
            fields = self._guest.run(f"cat /proc/{probe.process.pid}/stat").stdout.rpartition(") ")[2]
            if (used := " ".join(fields.split()[11:13])) != worked:
                worked, worked_at = used, now
            if now - worked_at > _IDLE_S:
                raise DeadlineMissed("start", now - worked_at)
            return False

        return look

    def _start(self, name: str, options: str = "") -> ProbeProcess:
        out, err = probe_output(name), f"{_FOLDER}/trace/{name}.err"
        command = f"python3 {probe_program(name)} -j {options}"
        # $! is the probe's own process: setsid forks only if it leads a process group, as nothing does that
        # a shell without job control starts. Without the redirections it would hold the SSH channel open.
        started = self._guest.run(f"setsid {command} >{out} 2>{err} </dev/null & echo $!")
        return ProbeProcess(name, int(started.must(f"starting {name}").stdout))

    def _copy(self, names: tuple[str, ...]) -> None:
        """Copy the lines of some probes to the store until the connection ends."""
        apart = Apart()
        for chunk in self._guest.stream(tailing.command(map(probe_output, names))):
            if lines := apart.lines(chunk):
                self.store.append(lines)
        if rest := apart.unfinished():
            log.debug("what %s wrote ended in the middle of a line: %r", names, rest)

    def _gone(self, probe: _Followed) -> Callable[[], bool]:
        """Return a function that tells whether a probe's process was gone at two looks in a row.

        The second look gives what it wrote last the time to reach the host.
        """
        looked_at, gone = time.monotonic(), False

        def look() -> bool:
            nonlocal looked_at, gone
            now = time.monotonic()
            if now - looked_at < _GONE_LOOK_S:
                return False
            looked_at, before = now, gone
            gone = self._guest.run(f"kill -0 {probe.process.pid}").status != 0
            return gone and before

        return look

    def _wait(
        self,
        probe: _Followed,
        done: Callable[[], bool],
        limit_s: float,
        what: str,
        failure: type[KlpError] = TraceLost,
    ) -> None:
        gone = self._gone(probe)

        def look() -> bool:
            self._guest.check_alive()
            self.store.check()
            if done():
                return True
            # Looked at once more: what was waited for may have come between the two looks.
            if (gone() or not probe.follower.is_alive()) and not done():
                raise failure(self._last_words(probe, what))
            return False

        try:
            wait_until(look, what=what, timeout_s=limit_s, every_s=_LOOK_S)
        except DeadlineMissed as missed:
            raise failure(
                f"the probe {probe.name} gave no {what} within {missed.waited_s:.0f} s",
                hint=f"in the guest: python3 {probe_program(probe.name)}",
            ) from None

    def _last_words(self, probe: _Followed, what: str) -> str:
        said = self._guest.run(f"tail -n 3 {_FOLDER}/trace/{probe.name}.err").stdout.strip()
        return f"the probe {probe.name} ended before its {what}: {said or 'no word'}"

    def mark(self) -> int:
        """Have every probe write out what it has seen so far; return the store's position after it.

        Needed before a module is unloaded, which takes its symbols along: an event that is read after that
        names no function of it.

        Raises:
            TraceLost: a probe is dead or silent, which says nothing of the livepatch.
            HostLacks: what it wrote cannot be written down here.
        """
        self._marks += 1
        number = self._marks
        if self._armed:
            pids = " ".join(str(probe.process.pid) for probe in self._armed)
            # Each mark is waited for before the next: of a signal that is pending already, a second is
            # dropped (signal(7)).
            self._guest.run(f"kill -USR1 {pids}").must("marking the trace")
        for probe in self._armed:
            self._wait(probe, partial(self.store.marked, probe.name, number), _DRAIN_S, "mark")
        return self.store.count()

    def recompiled(self) -> tuple[str, ...]:
        """Return why probes that were given programs compiled their own, one line each."""
        said = self._guest.run(f"grep -hs 'compiling it here$' {_FOLDER}/trace/*.err").stdout
        return tuple(said.splitlines())

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
        pids = " ".join(str(probe.process.pid) for probe in self._armed)
        # A shell without job control has what it starts in the background ignore SIGINT. A probe blocks the
        # signal and waits for it, and Linux keeps a blocked one (sig_ignored(), kernel/signal.c).
        self._guest.run(f"kill -INT {pids}").must("stopping the probes")
        for probe in self._armed:
            self._wait(probe, partial(self.store.ended, probe.name), _DRAIN_S, "end")
        self._armed.clear()


def starting(begun: str, count: int) -> str:
    """Return which probe of how many starts, in words, by the line of klptogether.py for each."""
    lines = begun.splitlines()
    return f"{lines[-1].split()[0]}, {len(lines)} of {count}" if lines else ""


@contextmanager
def traced(
    guest: Guest,
    file: Path,
    progress: Progress,
    running: tuple[ProbeProcess, ...] = (),
    listen: Callable[[AnyEvent], None] | None = None,
    *,
    programs: Iterable[Path] = (),
) -> Iterator[Tracer]:
    """Have probes armed for the length of a block, their events going to `file`.

    Args:
        running: the probes that run in the guest already; none for arming them now.
        listen: gets every event as it comes.
        programs: see `Tracer.arm`.
    """
    with EventStore(file, listen) as store:
        tracer = Tracer(guest, store)
        if running:
            tracer.follow(running)
        else:
            with progress.step(f"arming {', '.join(PROBES)}"):
                tracer.arm(programs=programs, tell=teller(progress))
            for line in tracer.recompiled():
                progress.note(line)
        yield tracer
        # Not after an error: a lost guest answers no more, and all that the probes told is in the file.
        with progress.step("draining the probes"):
            tracer.stop()
