# SPDX-License-Identifier: Apache-2.0
"""Which accelerator runs the guests, and why.

A /dev/kvm that opens, and even creates a VM, may still not run a kernel: a paravirtual KVM (module
kvm_pvm) on a CPU without vmx or svm hangs before the kernel's first line, or aborts on an MSR. So KVM
counts only where the CPU has the flag *and* a guest of ours was seen to boot with it; the answer is
kept for as long as the host is up. QEMU's own `-accel kvm:tcg` is of no help: it falls back where /dev/kvm
does not open, and not where it opens and does not work.
"""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

import msgspec

from klp import arch
from klp.errors import HostLacks, VmLost
from klp.model import Accelerator, Image
from klp.paths import CacheLayout, RunLayout
from klp.settings import Settings
from klp.vm.deadlines import deadlines
from klp.vm.machine import Machine, make_overlay
from klp.vm.request import MachineRequest

_KVM = Path("/dev/kvm")
_CPUINFO = Path("/proc/cpuinfo")
# What tells CPUs apart, on x86 and on Arm; not their speed, nor which of them it is.
_OF_A_CPU = (
    "vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features",
)  # fmt: skip
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class AcceleratorVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What will run the guests.

    Attributes:
        accelerator: the choice.
        reason: why, in words for a user.
        proven: False while KVM looks usable and no guest has been booted with it yet.
    """

    accelerator: Accelerator
    reason: str
    proven: bool


class _Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt to boot with KVM ended in, and in which boot of the host."""

    boot_id: str
    booted: bool
    reason: str


def kvm_obstacle(
    kvm: Path = _KVM, cpuinfo: Path = _CPUINFO, machine: str = platform.machine()
) -> str | None:
    """Return why KVM cannot be used, from what can be seen without booting; None where it may be."""
    if not kvm.exists():
        return f"{kvm} does not exist"
    if not os.access(kvm, os.R_OK | os.W_OK):
        return f"{kvm} may not be opened by this user"
    wanted = next((each.kvm_flags for each in arch.ALL if each.uname == machine), ())
    flags = next((li for li in cpuinfo.read_text().splitlines() if li.startswith("flags")), "")
    if wanted and not set(wanted) & set(flags.split()):
        neither = " nor ".join(wanted)
        return f"{kvm} opens, but the CPU shows neither {neither}: it cannot run a stock kernel"
    return None


def choose_accelerator(
    settings: Settings, layout: CacheLayout, image: Image | None = None
) -> AcceleratorVerdict:
    """Return the accelerator for this host.

    Args:
        image: what KVM is proved with where that has not been done in this boot of the host; without
            one the answer may be unproven.

    Raises:
        HostLacks: the settings demand KVM, and it cannot be had.
    """
    if settings.accelerator == "tcg":
        return _verdict(Accelerator.TCG, "the settings ask for it")
    # Asked each time, unlike the proof: whether this user may open the device can change at any time.
    obstacle = kvm_obstacle()
    if obstacle is None:
        proof = _read_proof(layout) or (_prove(layout, image) if image else None)
        if proof is None:
            reason = "KVM looks usable; the first guest will show whether it is"
            return AcceleratorVerdict(accelerator=Accelerator.KVM, reason=reason, proven=False)
        if proof.booted:
            return _verdict(Accelerator.KVM, "a guest was seen to boot with it")
        obstacle = proof.reason
    if settings.accelerator == "kvm":
        raise HostLacks(f"KVM was asked for: {obstacle}", hint="unset KLP_ACCELERATOR to use TCG")
    return _verdict(Accelerator.TCG, obstacle)


def _verdict(accelerator: Accelerator, reason: str) -> AcceleratorVerdict:
    return AcceleratorVerdict(accelerator=accelerator, reason=reason, proven=True)


def forget_failure(layout: CacheLayout) -> str:
    """Forget that no guest booted with KVM, so that it is tried once more; return why none did, if so.

    What kept one from booting may be gone long before the host is booted anew: a module was loaded, another
    hypervisor has ended.
    """
    proof = _read_proof(layout)
    if proof is None or proof.booted:
        return ""
    layout.accelerator.unlink(missing_ok=True)
    return proof.reason


def host_cpu(cpuinfo: Path = _CPUINFO) -> str:
    """Return what a guest under KVM has of this host's CPU: a saved one goes on only on such a CPU."""
    first = cpuinfo.read_text().split("\n\n")[0].splitlines()
    words = (line.partition(":") for line in first)
    pairs = {name.strip(): value.strip() for name, _, value in words}
    return " ".join(f"{name}={pairs[name]}" for name in _OF_A_CPU if name in pairs)


def _read_proof(layout: CacheLayout) -> _Proof | None:
    try:
        proof = msgspec.json.decode(layout.accelerator.read_bytes(), type=_Proof)
    except (OSError, msgspec.DecodeError):
        return None
    return proof if proof.boot_id == _BOOT_ID.read_text().strip() else None


def _prove(layout: CacheLayout, image: Image) -> _Proof:
    """Boot a guest with KVM, and keep what came of it."""
    with tempfile.TemporaryDirectory(prefix="klp-kvm-") as folder:
        scratch = RunLayout(Path(folder))
        make_overlay(image.root_disk, scratch.disk)
        spec = MachineRequest(image, Accelerator.KVM).spec(scratch)
        booted, reason = True, "booted"
        try:
            with Machine(spec, scratch.qemu_log, deadlines(Accelerator.KVM)):
                pass
        except VmLost as lost:
            booted, reason = False, f"/dev/kvm opens, but no guest boots with it ({lost.message})"
    proof = _Proof(boot_id=_BOOT_ID.read_text().strip(), booted=booted, reason=reason)
    # A name of this process alone: another klp may be proving the same at this moment.
    growing = layout.accelerator.with_suffix(f".{os.getpid()}")
    growing.write_bytes(msgspec.json.encode(proof))
    growing.replace(layout.accelerator)
    return proof
