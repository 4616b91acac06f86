# SPDX-License-Identifier: Apache-2.0
"""A guest with everything attached: machine, two connections, livepatch control."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from klp.guest.livepatch import Livepatches
from klp.guest.ssh import Address, ConnectionLimits, Guest
from klp.model import Accelerator, Image
from klp.paths import RunLayout
from klp.progress import Progress
from klp.vm.deadlines import deadlines
from klp.vm.debugging import START_KFENCE
from klp.vm.machine import Machine, make_overlay
from klp.vm.request import MachineRequest


@dataclass(frozen=True, slots=True)
class Lab:
    """A guest that runs, and what it is reached by.

    Attributes:
        guest: the connection that works.
        livepatches: control of the guest's livepatches.
        second: returns a second connection, the same each time; see `diagnosis`.
    """

    image: Image
    machine: Machine
    guest: Guest
    livepatches: Livepatches
    second: Callable[[], Guest]

    @property
    def diagnosis(self) -> Guest:
        """A second connection, kept free to find out why the first waits; opened when first needed.

        `ModuleSubject.load` has it open before it loads anything: later a new one may get no answer.
        """
        return self.second()


def connected(request: MachineRequest, machine: Machine, stack: ExitStack) -> Lab:
    """Connect to a guest that listens; its connections are closed with `stack`.

    Raises:
        VmLost: it does not answer.
    """
    address = guest_address(request, machine.ssh_port())
    limits = connection_limits(request.accelerator)

    def connect() -> Guest:
        return stack.enter_context(Guest(address, limits, machine.check_alive, machine.silent))

    guest, second = connect(), cache(connect)
    guest.keep_shell()
    return Lab(request.image, machine, guest, Livepatches(guest, second), second)


def start_looking(guest: Guest, request: MachineRequest) -> None:
    """Have the guest's kernel begin to look for faults in memory by what is not at it since its boot.

    Raises:
        CheckFailed: the guest refused it.
    """
    if request.looking and request.looking.kfence:
        guest.run(START_KFENCE).must("starting KFENCE")


def connection_limits(accel: Accelerator) -> ConnectionLimits:
    """Return the seconds each step of talking to a guest may take."""
    all_of_them = deadlines(accel)
    return ConnectionLimits(
        banner=all_of_them.banner,
        auth=all_of_them.auth,
        channel=all_of_them.channel,
        command=all_of_them.command,
    )


def guest_address(request: MachineRequest, port: int) -> Address:
    """Return where the guest that was asked for is reached."""
    return Address(port=port, key=request.image.ssh_key, host_key=request.image.host_key)


@contextmanager
def booted(request: MachineRequest, layout: RunLayout, progress: Progress) -> Iterator[Lab]:
    """Boot a guest for the length of a block; its overlay goes with it, its console log stays.

    Raises:
        VmLost: it did not come up.
        HostLacks: QEMU is missing, or the folder cannot be written.
    """
    with ExitStack() as stack:
        stack.callback(_remove, layout.disk)
        accelerator = request.accelerator
        with progress.step(f"booting {request.image.kernel.release} ({accelerator.value})"):
            make_overlay(request.image.root_disk, layout.disk)
            spec = request.spec(layout)
            machine = stack.enter_context(Machine(spec, layout.qemu_log, deadlines(accelerator)))
        with progress.step("connecting"):
            lab = connected(request, machine, stack)
        start_looking(lab.guest, request)
        yield lab


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)
