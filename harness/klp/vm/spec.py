# SPDX-License-Identifier: Apache-2.0
"""What a machine is, and the QEMU command line as a pure function of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from klp import arch
from klp.model import Accelerator
from klp.process import run
from klp.vm.start import Boot, MachineStart, Restore, Save, SaveAgain

# Refuses what a guest's escape would need: other programs, other privileges, old system calls. It is why
# files are handed over as descriptors (`Monitor.send_file`).
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
# The address that QEMU's user network has for its first guest; vm-images/guest/boot sets it, without DHCP.
GUEST_ADDRESS = "10.0.2.15"
SSH_PORT = 22


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """A machine, whole.

    Attributes:
        architecture: of its CPU.
        kernel: what QEMU starts directly: an ELF kernel with a PVH entry, or what boot loaders take.
        initrd: cpio archive.
        disk: qcow2 overlay; the only file QEMU writes besides `console`.
        kernel_disk: read-only raw image.
        console: file that gets every byte of the guest's serial port.
        accelerator: KVM only where it was proven to boot a kernel here.
        memory_mib: MiB of memory.
        cpus: virtual CPUs.
        mitigations: leave the kernel's CPU-bug mitigations on.
        append: more words for the kernel's command line.
        qmp_fd: descriptor that QEMU inherits and speaks QMP on; its peer is ours.
        start: by booting, or from a snapshot.
    """

    architecture: arch.Architecture
    kernel: Path
    initrd: Path
    disk: Path
    kernel_disk: Path
    console: Path
    accelerator: Accelerator = Accelerator.TCG
    memory_mib: int = 1024
    cpus: int = 2
    mitigations: bool = False
    append: tuple[str, ...] = ()
    qmp_fd: int = 3
    start: MachineStart = field(default_factory=Boot)

    def with_qmp(self, descriptor: int) -> MachineSpec:
        """Return the same machine with another QMP descriptor."""
        return replace(self, qmp_fd=descriptor)


def qemu_version(architecture: arch.Architecture = arch.DEFAULT) -> str:
    """Return the version of the QEMU that is started for an architecture.

    Raises:
        HostLacks: it is not installed.
    """
    words = run([architecture.qemu, "--version"]).stdout.split()
    return words[words.index("version") + 1] if "version" in words else "unknown"


def kernel_command_line(spec: MachineSpec) -> str:
    """Return what the kernel is booted with.

    An oops ends the guest (``oops=panic panic=-1`` with QEMU's -no-reboot), so that nothing runs on
    in a kernel that has already failed.
    """
    words = [
        # net.ifnames: the network card is eth0, whatever slot it is in. printk.devkmsg: a canary that the
        # rate limit dropped (kernel/printk/printk.c: devkmsg_write) would look like an overflowed log.
        f"console={spec.architecture.console}", "oops=panic", "panic=-1", "net.ifnames=0",
        "printk.devkmsg=on",
        # Small messages in a large ring: a lost kernel log is a lost cross-check.
        "log_buf_len=4M",
        # The kernel tries each cipher and hash as it comes to it, an eighth of what an emulated boot takes.
        "cryptomgr.notests",
        *spec.architecture.kernel_words,
        # With huge pages a snapshot's size is a matter of chance: the probes' heaps had 84 or 152 MiB of
        # them, and the saved guest 370 or 430 MiB in all.
        "transparent_hugepage=never",
    ]  # fmt: skip
    if not spec.mitigations:
        words.append("mitigations=off")
    if spec.accelerator is Accelerator.TCG:
        # A busy host may keep an emulated CPU waiting for longer than a real one ever stands still; by
        # default a soft lockup is told after 20 s (twice watchdog_thresh), and an RCU stall after 21 s.
        words += ["watchdog_thresh=30", "rcupdate.rcu_cpu_stall_timeout=60"]
    return " ".join([*words, *spec.append])


def argv(spec: MachineSpec) -> list[str]:
    """Return the whole QEMU command line; the process is started elsewhere."""
    return [
        spec.architecture.qemu, *_machine(spec), *_kernel(spec), *_disks(spec), *_network(),
        *_console(spec), *_monitor(spec), *_restore(spec), "-sandbox", _SANDBOX,
    ]  # fmt: skip


def _machine(spec: MachineSpec) -> list[str]:
    # One thread for all vCPUs: with a thread each, one vCPU can run code that another is patching,
    # and TCG then executes half of it: once 7.2 panicked so, with "Oops: int3" in __schedule, when its
    # first transition flipped a static key. The price: an interrupt to a busy vCPU is answered milliseconds
    # later.
    accel = "kvm" if spec.accelerator is Accelerator.KVM else "tcg,thread=single"
    known = spec.architecture
    cpu = known.cpu_kvm if spec.accelerator is Accelerator.KVM else known.cpu_tcg
    return [
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
        "-machine", f"{known.machine}{_memory_backend(spec)}",
        "-accel", accel, *_memory(spec),
        "-cpu", cpu, "-smp", str(spec.cpus), "-m", f"{spec.memory_mib}M",
        "-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0",
        *_generation(spec),
    ]  # fmt: skip


def _generation(spec: MachineSpec) -> list[str]:
    # Tells a restored kernel that it is another machine now, so that it reseeds its random numbers.
    return ["-device", "vmgenid,guid=auto"] if spec.architecture.vmgenid else []


def _memory_backend(spec: MachineSpec) -> str:
    return "" if isinstance(spec.start, Boot) else ",memory-backend=ram0"


def _memory(spec: MachineSpec) -> list[str]:
    if isinstance(spec.start, Boot):
        return []
    # Not shared, each guest has its own copy of what it writes, and has the rest in common with others.
    share = "on" if isinstance(spec.start, Save | SaveAgain) else "off"
    return ["-object", f"memory-backend-file,id=ram0,size={spec.memory_mib}M,share={share},"
            f"mem-path={_escaped(spec.start.files.memory)}"]  # fmt: skip


def _restore(spec: MachineSpec) -> list[str]:
    # Deferred: the capability that leaves the memory to its file is set over QMP first.
    return ["-incoming", "defer"] if isinstance(spec.start, SaveAgain | Restore) else []


def _kernel(spec: MachineSpec) -> list[str]:
    return ["-kernel", str(spec.kernel), "-initrd", str(spec.initrd),
            "-append", kernel_command_line(spec)]  # fmt: skip


def _disks(spec: MachineSpec) -> list[str]:
    # In this order they are vda and vdb to vm-images/guest/init. cache=unsafe: the guest's flushes are
    # ignored, for the overlay need not survive a crash of the host, only QEMU's orderly end.
    return [
        "-drive", f"if=none,id=root,format=qcow2,cache=unsafe,file={_escaped(spec.disk)}",
        "-device", "virtio-blk-pci,drive=root",
        "-drive", f"if=none,id=kernel,format=raw,readonly=on,file={_escaped(spec.kernel_disk)}",
        "-device", "virtio-blk-pci,drive=kernel",
    ]  # fmt: skip


def _network() -> list[str]:
    # Port 0: QEMU lets the host pick a free one and tells it over QMP, so no two guests can race for it.
    # `restrict`: the guest reaches neither the host nor the net; no `romfile`: no PXE to set up at boot.
    # guest_announce: a restored guest would tell a net without other machines where it is now.
    forward = f"hostfwd=tcp:127.0.0.1:0-{GUEST_ADDRESS}:{SSH_PORT}"
    return [
        "-netdev", f"user,id=net,restrict=on,ipv6=off,{forward}",
        "-device", "virtio-net-pci,netdev=net,romfile=,guest_announce=off",
    ]  # fmt: skip


def _console(spec: MachineSpec) -> list[str]:
    # Appended: a restored guest's console begins with a copy of what was said until it was saved.
    return ["-chardev", f"file,id=console,path={_escaped(spec.console)},append=on",
            "-serial", "chardev:console"]  # fmt: skip


def _monitor(spec: MachineSpec) -> list[str]:
    # Not by `-mon chardev=qmp,mode=control`, which is the same, and which QEMU 11.1 calls deprecated.
    return ["-chardev", f"socket,id=qmp,fd={spec.qmp_fd}", "-qmp", "chardev:qmp"]


def _escaped(path: Path) -> str:
    """Double the commas, as QEMU's option syntax wants."""
    return str(path).replace(",", ",,")
