# SPDX-License-Identifier: Apache-2.0
"""The kernel log of a guest, from a canary on: a cross-check of the trace, never its source."""

from __future__ import annotations

import shlex

from klp.guest.ssh import Guest
from klp.klog.canary import Canary, after, new_canary


def write_canary(guest: Guest, what: str) -> Canary:
    """Write a unique line to the kernel log and return it."""
    canary = new_canary(what)
    # Without its newline a record stays open for continuation, and no reader sees it until the next one.
    guest.run(f"printf '%s\\n' {shlex.quote(canary.token)} >/dev/kmsg").must("writing to /dev/kmsg")
    return canary


def lines_after(guest: Guest, canary: Canary) -> tuple[str, ...]:
    """Return the kernel log's lines after `canary`, with their time stamps.

    Raises:
        CheckFailed: the canary is gone: the ring overflowed, and lines are lost.
    """
    return after(canary, guest.run("dmesg").must("reading the kernel log").stdout.splitlines())
