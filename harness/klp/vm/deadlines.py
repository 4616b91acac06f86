# SPDX-License-Identifier: Apache-2.0
"""How long each step may take before it is called a failure, in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from klp.model import Accelerator

# Measured: the slowest step under TCG on two busy cores takes about eight times what KVM takes. It is for
# what the guest does: QEMU itself is not emulated, so its own two limits are only doubled, for a busy host.
_TCG_FACTOR = 8


@dataclass(frozen=True, slots=True)
class Deadlines:
    """One named limit for each step; none is ever waited out when the failure shows itself earlier.

    Attributes:
        launch: QEMU's start to its QMP greeting.
        qmp: one QMP command.
        boot: the kernel's start to the SSH server listening.
        quiet: from armed probes to a guest that can be saved: it writes zeros over its free memory first.
        banner: TCP connection to the SSH server's banner.
        auth: banner to an authenticated connection.
        channel: opening a channel on it.
        command: one command in the guest, where its caller names no other limit.
        selftest: one script of the kernel's own selftests. Each wait in them gives up within a minute
            (functions.sh: MAX_RETRIES of RETRY_INTERVAL), which tells more than our limit would.
    """

    launch: float
    qmp: float
    boot: float
    quiet: float
    banner: float
    auth: float
    channel: float
    command: float
    selftest: float


_ON_KVM = Deadlines(
    launch=15, qmp=10, boot=15, quiet=60, banner=5, auth=5, channel=5, command=15, selftest=120
)  # fmt: skip


def deadlines(accelerator: Accelerator) -> Deadlines:
    """Return the limits for guests under `accelerator`."""
    if accelerator is Accelerator.KVM:
        return _ON_KVM
    return Deadlines(
        launch=_ON_KVM.launch * 2, qmp=_ON_KVM.qmp * 2,
        boot=_ON_KVM.boot * _TCG_FACTOR, quiet=_ON_KVM.quiet * _TCG_FACTOR,
        banner=_ON_KVM.banner * _TCG_FACTOR, auth=_ON_KVM.auth * _TCG_FACTOR,
        channel=_ON_KVM.channel * _TCG_FACTOR,
        command=_ON_KVM.command * _TCG_FACTOR, selftest=_ON_KVM.selftest * _TCG_FACTOR,
    )  # fmt: skip
