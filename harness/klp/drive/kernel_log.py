# SPDX-License-Identifier: Apache-2.0
"""The kernel log of a test's guest, from the test's beginning on."""

from __future__ import annotations

import re

from klp.errors import CheckFailed
from klp.guest.kernel_log import lines_after
from klp.klog.lines import without_stamp
from klp.lab.ready import ReadyGuest
from klp.waiting import DeadlineMissed, wait_until

# A command in the kept shell costs the guest little; a new SSH channel each time took 0.08 s under
# emulation.
_LOOK_S = 0.1


class KernelLog:
    """The guest's kernel log since the test began."""

    def __init__(self, ready_guest: ReadyGuest, deadline_s: float) -> None:
        self._ready_guest = ready_guest
        self._deadline_s = deadline_s

    def lines(self) -> tuple[str, ...]:
        """Return its lines, without their time stamps.

        Raises:
            CheckFailed: the log overflowed.
        """
        found = lines_after(self._ready_guest.lab.guest, self._ready_guest.canary)
        return tuple(without_stamp(line) for line in found)

    def find(self, pattern: str) -> tuple[str, ...]:
        """Return the lines in which a regular expression is found (`re.search`)."""
        return tuple(line for line in self.lines() if re.search(pattern, line))

    def wait(self, pattern: str, *, deadline_s: float | None = None) -> str:
        """Wait for a line with a regular expression in it, and return it.

        Raises:
            CheckFailed: none came in time.
        """
        limit = deadline_s or self._deadline_s
        try:
            found = wait_until(lambda: self.find(pattern), what=pattern, timeout_s=limit, every_s=_LOOK_S)
        except DeadlineMissed as missed:
            raise CheckFailed(f"the kernel log: {missed}") from None
        return found[0]
