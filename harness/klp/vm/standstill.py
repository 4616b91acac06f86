# SPDX-License-Identifier: Apache-2.0
"""Whether this host let a guest run: the CPU time that QEMU got, against the host's own clock.

A guest's clock goes on while its host is stopped or gives it no CPU (under TCG as under KVM it follows the
host's), so its kernel may call a lockup what was none, and a transition may outlast its deadline without
having had a second to run in.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# So often QEMU's CPU time is read, at most: a look at one file of /proc.
_EVERY_S = 1.0
# Of a span as long as this, a QEMU that could run has used more than that share, even if its guest idles:
# timers alone take an emulated guest some five times as much.
_LONG_S = 10.0
_IDLES = 0.002
# Of a kernel that spins a vCPU is always busy; beside others on a host it gets less, but not so little.
_SPINS = 0.25
_LOOKS = 4096


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU time that a process has used, with all of its threads; None of one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was seen of a process: when, by the host's clock, and the CPU time it had used; in seconds."""

    at: float
    used: float


class StandStill:
    """Looks at a process now and then, and tells whether it could run meanwhile.

    Args:
        used: returns the CPU time of the process, in seconds.
        clock: returns the host's time, in seconds.
    """

    def __init__(
        self, used: Callable[[], float | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._used = used
        self._clock = clock
        self._looks: deque[_Seen] = deque(maxlen=_LOOKS)
        self._lock = threading.Lock()

    def look(self) -> bool:
        """Look at it, unless that was done a moment ago; return whether it was looked at now."""
        with self._lock:
            now = self._clock()
            if self._looks and now - self._looks[-1].at < _EVERY_S:
                return False
            used = self._used()
            if used is not None:
                self._looks.append(_Seen(now, used))
            return used is not None

    def stood_still_s(self, since: float) -> float:
        """Return the longest time, since a moment of the host's clock, in which it did not run at all."""
        with self._lock:
            looks = [each for each in self._looks if each.at >= since - _EVERY_S]
        longest, begin = 0.0, 0
        for end in range(1, len(looks)):
            while begin < end and not _idle(looks[begin], looks[end]):
                begin += 1
            longest = max(longest, looks[end].at - looks[begin].at)
        return longest if longest >= _LONG_S else 0.0

    def kept_waiting(self, seconds: float) -> bool:
        """Whether it got too little CPU for a kernel that spins, in the last `seconds`."""
        with self._lock:
            looks = tuple(self._looks)
        if not looks:
            return False
        last = looks[-1]
        before = [each for each in looks if each.at <= last.at - seconds]
        first = before[-1] if before else looks[0]
        return last.used - first.used < _SPINS * min(seconds, last.at - first.at)


def _idle(first: _Seen, last: _Seen) -> bool:
    """Whether less was used between two looks than a guest takes that only idles."""
    return last.used - first.used < _IDLES * max(last.at - first.at, _LONG_S)
