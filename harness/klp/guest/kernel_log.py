# SPDX-License-Identifier: Apache-2.0
"""The kernel log of a guest, from a canary on: a line of our own, written before what is to be read.

The log is a cross-check of the trace, never its source: it is a ring, and a line may be lost unseen.
"""

from __future__ import annotations

import shlex

from klp.guest.ssh import Guest
from klp.klog.canary import Canary, after, new_canary


def write_canary(guest: Guest, what: str) -> Canary:
    """Write a unique line to the kernel log and return it."""
    canary = new_canary(what)
    # Without its newline a record stays open for continuation (kernel/printk/printk.c), and no reader sees
    # it until the next one comes: that looks as if the ring had overflowed.
    guest.run(f"printf '%s\\n' {shlex.quote(canary.token)} >/dev/kmsg").must("writing to /dev/kmsg")
    return canary


def lines_after(guest: Guest, canary: Canary) -> tuple[str, ...]:
    """Return the kernel log's lines after `canary`, with their time stamps.

    Raises:
        CheckFailed: the canary is gone: the ring overflowed, and lines are lost.
    """
    return after(canary, guest.run("dmesg").must("reading the kernel log").stdout.splitlines())
