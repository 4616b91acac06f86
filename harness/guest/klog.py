# SPDX-License-Identifier: Apache-2.0
"""The guest's kernel log after a canary: a cross-check of the trace, never its source.

A unique line is written to /dev/kmsg; what follows it belongs to whoever wrote it. A canary that is no
longer in the ring means that the log overflowed, and is said so rather than passed over.
"""

from __future__ import annotations

import re
import secrets
import shlex
from dataclasses import dataclass

from harness.errors import CheckFailed
from harness.guest.ssh import Guest

_STAMP = re.compile(r"^\[\s*\d+\.\d+\]\s?")
# What no scenario may cause unless it says so: kernel/panic.c, lib/bug.c, lockdep, RCU, hung_task.
_ALARMS = re.compile(
    r"WARNING: |BUG: |kernel BUG at |Oops|general protection fault|Call Trace:|rcu: INFO"
    r"|INFO: task .* blocked for more than|possible circular locking|suspicious RCU usage"
    r"|unregister_netdevice: waiting|watchdog: BUG|UBSAN:|KASAN:|refcount_t:"
)


@dataclass(frozen=True, slots=True)
class Canary:
    """A line in the kernel log that occurs once."""

    token: str


def write_canary(guest: Guest, what: str) -> Canary:
    """Write a unique line to the kernel log and return it."""
    canary = Canary(f"klp: {what} [{secrets.token_hex(6)}]")
    # Without its newline a record stays open for continuation, and no reader sees it until the next one.
    guest.run(f"printf '%s\\n' {shlex.quote(canary.token)} >/dev/kmsg").must("writing to /dev/kmsg")
    return canary


def lines_after(guest: Guest, canary: Canary) -> tuple[str, ...]:
    """Return the kernel log's lines after `canary`, with their time stamps.

    Raises:
        CheckFailed: the canary is gone: the ring overflowed, and lines are lost.
    """
    lines = guest.run("dmesg").must("reading the kernel log").stdout.splitlines()
    for number, line in enumerate(lines):
        if canary.token in line:
            return tuple(lines[number + 1 :])
    raise CheckFailed(
        "the kernel log overflowed: lines of this run are lost",
        hint="log_buf_len= on the kernel's command line makes it larger",
    )


def without_stamp(line: str) -> str:
    """Return a log line's text."""
    return _STAMP.sub("", line)


def alarms(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Return the lines by which a kernel says that something is wrong with it."""
    return tuple(line for line in lines if _ALARMS.search(line))
