# SPDX-License-Identifier: Apache-2.0
"""One QEMU process: launched, watched, and gone when its context ends, whatever happens."""

from __future__ import annotations

import logging
import re
import socket
import time
from pathlib import Path
from typing import Self, cast

from klp import arch
from klp.diskspace import disk_full, free_mib
from klp.errors import (
    BootFailed,
    Category,
    CrashReport,
    GuestOutOfMemory,
    GuestPanicked,
    GuestSilent,
    GuestStalled,
    HostStalled,
    QemuGone,
    VmLost,
)
from klp.klog import crash
from klp.model import Accelerator
from klp.process import Child, SignalsHeld, run, spawn
from klp.vm.console import Console, ReportStart
from klp.vm.deadlines import Deadlines
from klp.vm.monitor import Monitor
from klp.vm.spec import MachineSpec, argv
from klp.vm.standstill import StandStill, cpu_seconds
from klp.waiting import DeadlineMissed, wait_until

log = logging.getLogger(__name__)

_LOOK_S = 0.02
_QUIT_S = 5.0
# A report is written in 5 to 50 ms, even under emulation; less than the 2 s in which a loss is told.
_REPORT_S = 1.5
_PAUSE_S = 0.2
# With less left on the disk QEMU is asked whether it had room; it answers at once, unless it is stopped.
_TIGHT_MIB = 64
# A host's standing still is told by the guest's kernel within this time, or not as a consequence of it.
_RECENT_S = 120.0
_STUCK_FOR = re.compile(r"soft lockup - CPU#\d+ stuck for (\d+)s")

# Which error tells of a guest that was lost so; any other category is a stall.
_TOLD_BY: dict[Category, type[VmLost]] = {
    Category.PANIC: GuestPanicked,
    Category.OOPS: GuestPanicked,
    Category.OUT_OF_MEMORY: GuestOutOfMemory,
    Category.OOM_KILL: GuestOutOfMemory,
}


def programs(architecture: arch.Architecture = arch.DEFAULT) -> tuple[str, ...]:
    """Return the programs that starting a guest takes; callers look for them before they build anything."""
    return (architecture.qemu, "qemu-img", "setpriv")


def make_overlay(backing: Path, overlay: Path) -> None:
    """Make the qcow2 file that takes a guest's writes, over an image that is never written."""
    run(overlay_command(backing, overlay))


def overlay_command(backing: Path, overlay: Path) -> list[str]:
    """Return the command that makes such a file."""
    kind = "qcow2" if backing.suffix == ".qcow2" else "raw"
    return ["qemu-img", "create", "-q", "-f", "qcow2", "-F", kind, "-b", str(backing), str(overlay)]


class Machine:
    """A guest from QEMU's point of view.

    Entering starts it and waits until its SSH server listens; leaving ends it.

    Attributes:
        fatal: the categories of kernel reports by which the guest counts as lost; may be changed at
            any time. A panic always counts.
    """

    def __init__(self, spec: MachineSpec, qemu_log: Path, limits: Deadlines) -> None:
        self.spec = spec
        self.console = Console(spec.console)
        self.fatal = crash.FATAL
        self._log = qemu_log
        self._limits = limits
        self._process: Child | None = None
        self._monitor: Monitor | None = None
        self._report: CrashReport | None = None
        self._time = StandStill(self._cpu_seconds)

    def __enter__(self) -> Self:
        try:
            self.launch()
            self.wait_booted()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def monitor(self) -> Monitor:
        """The QMP connection of a launched machine."""
        assert self._monitor is not None, "launch() comes first"
        return self._monitor

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        assert self._process is not None, "launch() comes first"
        return self._process.pid

    def launch(self) -> None:
        """Start QEMU and connect to its monitor.

        Raises:
            HostLacks: QEMU is not installed.
            QemuGone: it ended, or did not greet in time; with what it said.
        """
        ours, theirs = socket.socketpair()
        # Our copy of QEMU's end is closed at once: with it open, QEMU's death would not end the connection.
        try:
            with theirs, self._log.open("wb") as said, SignalsHeld():
                command = argv(self.spec.with_qmp(theirs.fileno()))
                self._process = spawn(command, stderr=said, pass_fds=[theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        try:
            self._monitor = Monitor(ours, launch_s=self._limits.launch, command_s=self._limits.qmp)
        except QemuGone as error:
            raise self._why_gone(error) from error

    def _why_gone(self, error: QemuGone) -> VmLost:
        """Return with what QEMU ended: its connection closes a moment before it has."""
        ended: list[VmLost] = []

        def look() -> bool:
            ended.extend(filter(None, [self._gone()]))
            return bool(ended)

        try:
            wait_until(look, what="QEMU's end", timeout_s=_QUIT_S, every_s=_LOOK_S)
        except DeadlineMissed:  # it lives, and does not answer
            return error
        return ended[0]

    def wait_booted(self) -> None:
        """Wait until the SSH server in the guest listens.

        Raises:
            BootFailed: the guest said that it cannot go on, or said nothing of use in time.
            GuestPanicked: the kernel panicked.
            QemuGone: QEMU ended.
        """

        def look() -> bool:
            why = self.console.boot_failure()
            if why:
                raise BootFailed(f"the guest did not boot: {why}", console_tail=self.console.tail())
            self.check_alive()
            return self.console.ready()

        try:
            wait_until(look, what="boot", timeout_s=self._limits.boot, every_s=_LOOK_S)
        except DeadlineMissed as missed:
            raise BootFailed(
                f"the guest's SSH server did not listen within {missed.waited_s:.0f} s",
                console_tail=self.console.tail(),
            ) from None

    def check_alive(self) -> None:
        """Return if nothing is known to be wrong with the machine.

        A report that has just begun on the console is waited for, so that it is told whole.

        Raises:
            GuestPanicked: the kernel oopsed or panicked.
            GuestOutOfMemory: it did so for want of memory.
            GuestStalled: it reported a lockup or a stall that counts as `fatal`.
            HostStalled: it did so because this host gave it no time to run.
            QemuGone: QEMU ended, and the kernel had said nothing of the kind.
            DiskFull: the guest stands still, for the disk that it writes to here is full.
        """
        looked = self._time.look()
        start = self.console.loss(self.fatal)
        lost = self._lost(start) if start else self._gone()
        if lost:
            raise lost
        if looked:
            self._check_disk()

    def _check_disk(self) -> None:
        """See that QEMU has not stopped the guest for want of room: what it writes goes into a file here.

        It stops it by itself (werror=enospc, the default), so that the guest meets no error of its disk.
        """
        if self._monitor is None or free_mib(self.spec.disk) >= _TIGHT_MIB:
            return
        try:
            status = cast("dict[str, object]", self._monitor.execute("query-status")).get("status")
        except QemuGone as gone:  # told by the next look, with what QEMU said
            log.debug("query-status: %s", gone)
            return
        if status == "io-error":
            raise disk_full(self.spec.disk, hint="free some; or KLP_RUNS=DIR names a larger disk")

    def _lost(self, start: ReportStart) -> VmLost:
        if self._report is None:
            self._hear_out(start)
            self._report = self.console.report(start, emulated=self._emulated)
        kind = _TOLD_BY.get(start.category, GuestStalled)
        if kind is GuestStalled and (stalled := self._starved(start)):
            return stalled
        return kind(
            f"the guest is lost: {self._report.summary()}",
            console_tail=self.console.tail(30), report=self._report,
        )  # fmt: skip

    def _hear_out(self, start: ReportStart) -> None:
        """Wait for the end of a report: its last line and then a pause, or QEMU's end."""
        assert self._process is not None
        process = self._process

        def heard() -> bool:
            if process.status() is not None:
                return True
            return self.console.told_whole(start) and self.console.quiet_s() >= _PAUSE_S

        try:
            wait_until(heard, what="end of the report", timeout_s=_REPORT_S, every_s=_LOOK_S)
        except DeadlineMissed as missed:
            log.debug("%s; it is told as far as it goes", missed)

    def _cpu_seconds(self) -> float | None:
        return cpu_seconds(self._process.pid) if self._process else None

    def stalled(self, since: float) -> HostStalled | None:
        """Return the loss that it is if this host stood still for long, since a moment of its clock."""
        seconds = self._time.stood_still_s(since)
        return self._host_stalled(f"QEMU could not run for {seconds:.0f} s") if seconds else None

    def _starved(self, start: ReportStart) -> HostStalled | None:
        """Return why the host, and not the guest, is to blame for a lockup or stall; None if it is not."""
        assert self._report is not None
        if stalled := self.stalled(time.monotonic() - _RECENT_S):
            return stalled
        # A kernel that is locked up spins. One that waits, as in a stall of RCU, uses no CPU on its own.
        stuck = _STUCK_FOR.search(self._report.title)
        if start.category is Category.SOFT_LOCKUP and stuck and self._time.kept_waiting(float(stuck[1])):
            return self._host_stalled(f"QEMU got hardly any CPU for {stuck[1]} s")
        return None

    def _host_stalled(self, what: str) -> HostStalled:
        return HostStalled(
            f"this host stood still: {what}, so what a guest's clock tells is no livepatch's doing",
            hint="do it again when this host is less busy (klp check --jobs 1 runs one guest at a time)",
            console_tail=self.console.tail(30), report=self._report,
        )  # fmt: skip

    @property
    def _emulated(self) -> bool:
        return self.spec.accelerator is Accelerator.TCG

    def survived(self) -> tuple[CrashReport, ...]:
        """Return what the kernel reported that is not `fatal`, such as hung tasks, each once."""
        return self.console.survived(self.fatal, emulated=self._emulated)

    def silent(self, what: str) -> GuestSilent:
        """Return the error for a guest that does not answer; it names the console's last line.

        Args:
            what: what got no answer.
        """
        tail = self.console.tail()
        last = f"its console, last {self.console.quiet_s():.0f} s ago: {tail[-1] if tail else 'nothing'}"
        before = "".join(f"; before: {each.summary()}" for each in self.survived()[-1:])
        return GuestSilent(
            f"{what}; {last}{before}", console_tail=tail,
            report=crash.wordless(Category.SILENT, what, tail),
        )  # fmt: skip

    def _gone(self) -> VmLost | None:
        assert self._process is not None
        status = self._process.status()
        if status is None:
            return None
        start = self.console.loss(self.fatal)
        if start:  # with -no-reboot a panic is also QEMU's end
            return self._lost(start)
        said = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        how = f"was killed by signal {-status}" if status < 0 else f"exited {status}"
        tail = self.console.tail()
        return QemuGone(
            f"QEMU {how}: {said[0] if said else 'it said nothing'}",
            hint=f"its log: {self._log}", console_tail=tail,
            report=crash.wordless(Category.QEMU_GONE, f"QEMU {how}", tail),
        )  # fmt: skip

    def ssh_port(self) -> int:
        """Return the port on 127.0.0.1 that leads to the guest's SSH server.

        Raises:
            QemuGone: QEMU has no such forwarding, or is gone.
        """
        # Only the human monitor tells which port the host picked; QMP has no command for it.
        table = self.monitor.human("info usernet")
        found = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", table)
        if not found:
            raise QemuGone(f"QEMU forwards no port to the guest: {table.strip()!r}")
        return int(found[1])

    def stop(self) -> None:
        """End QEMU: asked over QMP first, killed if it does not go. Safe to call again."""
        # A QEMU that quits closes its disk, which a snapshot needs; one that is killed does not.
        if self._monitor is not None:
            try:
                self._monitor.execute("quit")
            except QemuGone as error:
                log.debug("quit: %s", error)
            self._monitor.close()
            self._monitor = None
        if self._process is not None:
            if not self._process.wait(_QUIT_S):
                log.debug("QEMU %d did not quit; killing it", self._process.pid)
            self._process.end()
