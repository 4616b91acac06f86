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
from klp.settings import Settings
from klp.vm.deadlines import deadlines
from klp.vm.machine import Machine, make_overlay
from klp.vm.spec import MachineSpec


@dataclass(frozen=True, slots=True)
class Lab:
    """A booted guest.

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

        `Livepatches` has it open before it loads anything: later the guest may not answer a new one.
        """
        return self.second()


def connected(image: Image, machine: Machine, accel: Accelerator, stack: ExitStack) -> Lab:
    """Connect to a guest that listens; its connections are closed with `stack`.

    Raises:
        VmLost: it does not answer.
    """
    address, limits = guest_address(image, machine.ssh_port()), connection_limits(accel)

    def connect() -> Guest:
        return stack.enter_context(Guest(address, limits, machine.check_alive, machine.silent))

    guest, second = connect(), cache(connect)
    return Lab(image, machine, guest, Livepatches(guest, second), second)


def machine_spec(image: Image, layout: RunLayout, settings: Settings, accel: Accelerator) -> MachineSpec:
    """Return the machine that boots `image` with its files in `layout`."""
    return MachineSpec(
        kernel=image.kernel.image,
        initrd=image.kernel.initrd,
        disk=layout.disk,
        kernel_disk=image.kernel.disk,
        console=layout.console,
        accelerator=accel,
        memory_mib=settings.memory_mib,
        cpus=settings.cpus,
        mitigations=settings.mitigations,
    )


def connection_limits(accel: Accelerator) -> ConnectionLimits:
    """Return the seconds each step of talking to a guest may take."""
    all_of_them = deadlines(accel)
    return ConnectionLimits(
        banner=all_of_them.banner,
        auth=all_of_them.auth,
        channel=all_of_them.channel,
        command=all_of_them.command,
    )


def guest_address(image: Image, port: int) -> Address:
    """Return where a guest of `image` is reached."""
    return Address(port=port, key=image.ssh_key, host_key=image.host_key)


@contextmanager
def booted(
    image: Image, layout: RunLayout, settings: Settings, accel: Accelerator, progress: Progress
) -> Iterator[Lab]:
    """Boot a guest for the length of a block; its overlay goes with it, its console log stays.

    Raises:
        VmLost: it did not come up.
        HostLacks: QEMU is missing, or the folder cannot be written.
    """
    with ExitStack() as stack:
        stack.callback(_remove, layout.disk)
        with progress.step(f"booting {image.kernel.release} ({accel.value})"):
            make_overlay(image.root_disk, layout.disk)
            spec = machine_spec(image, layout, settings, accel)
            machine = stack.enter_context(Machine(spec, layout.qemu_log, deadlines(accel)))
        with progress.step("connecting"):
            lab = connected(image, machine, accel, stack)
        yield lab


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)
