# SPDX-License-Identifier: Apache-2.0
"""A host that stood still is told from a guest that is locked up, by the CPU time that QEMU got."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from klp.arch import DEFAULT
from klp.errors import GuestPanicked, GuestStalled, HostStalled
from klp.model import Accelerator
from klp.vm.deadlines import deadlines
from klp.vm.machine import Machine
from klp.vm.spec import MachineSpec
from klp.vm.standstill import StandStill, cpu_seconds
from klp.waiting import wait_until

RECORDED = Path(__file__).parent.parent / "data" / "consoles"


class Time:
    """A host's clock, and the CPU time that a process got, as a test has them go on."""

    def __init__(self) -> None:
        self.now = self.used = 1000.0
        self.seen = StandStill(lambda: self.used, lambda: self.now)
        self.seen.look()

    def go_on(self, seconds: float, share: float, step: float = 1.0) -> None:
        """Let time pass, looked at every `step`, while the process gets a share of a CPU."""
        end = self.now + seconds
        while self.now < end:
            self.now += min(step, end - self.now)
            self.used += step * share
            self.seen.look()


@pytest.mark.parametrize("step", [1.0, 70.0])
def test_a_process_that_was_stopped_stood_still(step: float) -> None:
    """Be klp stopped with it, and looks once before and once after, or not."""
    own = Time()
    own.go_on(30, 0.9)
    own.go_on(70, 0.0, step)
    own.go_on(2, 1.0)
    assert 69 < own.seen.stood_still_s(0.0) < 72
    assert own.seen.kept_waiting(67)


def test_a_kernel_that_spins_did_not() -> None:
    own = Time()
    own.go_on(30, 0.02)
    own.go_on(67, 0.97)
    assert own.seen.stood_still_s(0.0) == 0.0
    assert not own.seen.kept_waiting(67)


def test_a_guest_that_idles_did_not() -> None:
    own = Time()
    own.go_on(120, 0.01)
    assert own.seen.stood_still_s(0.0) == 0.0


def test_a_guest_that_gets_hardly_any_cpu_was_kept_waiting() -> None:
    own = Time()
    own.go_on(67, 0.05)
    assert own.seen.stood_still_s(0.0) == 0.0
    assert own.seen.kept_waiting(67)


def test_what_was_before_does_not_count() -> None:
    own = Time()
    own.go_on(70, 0.0)
    begun = own.now
    own.go_on(60, 0.5)
    assert own.seen.stood_still_s(begun) == 0.0
    assert own.seen.stood_still_s(0.0) >= 69


def test_the_time_of_a_process() -> None:
    """It grows while the process runs, and not while it is stopped."""
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as busy:
        try:
            wait_until(lambda: (cpu_seconds(busy.pid) or 0) > 0.05, what="work", timeout_s=60, every_s=0.01)
            busy.send_signal(signal.SIGSTOP)
            stopped = Path(f"/proc/{busy.pid}/stat")
            wait_until(lambda: ") T " in stopped.read_text(), what="stop", timeout_s=60, every_s=0.01)
            assert cpu_seconds(busy.pid) == cpu_seconds(busy.pid)
        finally:
            busy.kill()
    assert cpu_seconds(busy.pid) is None


# --- a machine -----------------------------------------------------------------------------------------


class Alive:
    """A QEMU that runs."""

    pid = os.getpid()

    def status(self) -> None:
        return None


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    nowhere = tmp_path / "none"
    spec = MachineSpec(DEFAULT, nowhere, nowhere, nowhere, nowhere, console=tmp_path / "console.log")
    spec.console.write_text("[    1.000000] Linux version 6.12\n")
    made = Machine(spec, tmp_path / "qemu.log", deadlines(Accelerator.TCG))
    made._process = Alive()
    return made


def with_time(machine: Machine) -> Time:
    own = Time()
    own.now = time.monotonic() - 200  # the machine asks for what is recent, by the host's own clock
    own.seen = machine._time = StandStill(lambda: own.used, lambda: own.now)
    own.seen.look()
    return own


def report(machine: Machine, fault: str) -> None:
    with machine.spec.console.open("ab") as file:
        file.write((RECORDED / f"6.12-{fault}.log").read_bytes())


@pytest.mark.parametrize("fault", ["preempt_off-soft", "preempt_off-rcu"])
def test_a_lockup_of_a_host_that_stood_still_is_the_hosts(machine: Machine, fault: str) -> None:
    own = with_time(machine)
    own.go_on(130, 0.9)
    own.go_on(68, 0.0)
    report(machine, fault)
    with pytest.raises(HostStalled, match=r"^this host stood still: QEMU could not run for \d+ s"):
        machine.check_alive()


@pytest.mark.parametrize("fault", ["preempt_off-soft", "preempt_off-rcu"])
def test_a_lockup_of_a_kernel_that_spins_is_the_guests(machine: Machine, fault: str) -> None:
    own = with_time(machine)
    own.go_on(198, 0.98)
    report(machine, fault)
    with pytest.raises(GuestStalled):
        machine.check_alive()


def test_a_soft_lockup_without_cpu_is_the_hosts(machine: Machine) -> None:
    own = with_time(machine)
    own.go_on(198, 0.04)
    report(machine, "preempt_off-soft")
    with pytest.raises(HostStalled, match="hardly any CPU"):
        machine.check_alive()


def test_a_panic_is_the_guests_whatever_the_host_did(machine: Machine) -> None:
    own = with_time(machine)
    own.go_on(130, 0.9)
    own.go_on(68, 0.0)
    report(machine, "panic")
    with pytest.raises(GuestPanicked):
        machine.check_alive()


def test_a_host_that_stood_still_is_a_loss_by_nobody(machine: Machine) -> None:
    own = with_time(machine)
    own.go_on(198, 0.5)
    assert machine.stalled(0.0) is None
    own.go_on(30, 0.0)
    stalled = machine.stalled(0.0)
    assert stalled is not None
    assert stalled.by_nobody
