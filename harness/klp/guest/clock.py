# SPDX-License-Identifier: Apache-2.0
"""The guest's monotonic clock, by which the probes stamp their events: ktime_get().

What klp does and sees is told on the same clock, so that a trace can say what came before what.
A reading that is asked for over SSH is late by the way of its answer: on a busy host more than a tenth of a
second, enough to put an rmmod before the free of its livepatch. So the clock is read in the guest, by the
same line of shell that runs the command, right before it and right after it.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from klp.guest.ssh import CommandResult, Guest

# Prints $1, NUL, the clock and a newline; nothing where the kernel does not show it. The third line of
# /proc/timer_list is `now at N nsecs`, ktime_get() when the file was opened (kernel/time/timer_list.c);
# /proc/uptime has hundredths of a second only. In bash alone: in an emulated guest each program that is
# started takes 80 ms of CPU time, a word of the shell's own hardly any.
NOW = (
    "now() { local -a top; mapfile -n 3 -t top 2>/dev/null </proc/timer_list; "
    '[[ ${top[2]} =~ ^"now at "([0-9]+)" nsecs" ]] && printf \'%s\\0%s\\n\' "$1" "${BASH_REMATCH[1]}"; }'
)
_READINGS = re.compile(r"\Abegun\0(\d+)\n(.*)ended\0(\d+)\n\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when something was done, in ns of the guest's monotonic clock."""

    begun_ns: int
    ended_ns: int


class Clock:
    """Tells the guest's time on the host, between the bounds that every reading sets.

    A reading was made after it was asked for and before its answer came; where all those agree, the time
    is taken from their middle.
    """

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._least_ns: int | None = None
        self._most_ns: int | None = None
        self.run(":")

    def now_ns(self) -> int:
        """Return the guest's time, as near as it is known: 0 where the guest shows none."""
        if self._least_ns is None or self._most_ns is None:
            return 0
        return time.monotonic_ns() + (self._least_ns + self._most_ns) // 2

    def run(self, command: str | Sequence[str]) -> tuple[CommandResult, Span | None]:
        """Run a command, and say from when to when it ran: None where the guest shows no clock.

        A line has to be one that may stand between semicolons: no here-document, nothing in the background.

        Raises:
            VmLost: the machine went away meanwhile.
        """
        line = command if isinstance(command, str) else shlex.join(command)
        sent = time.monotonic_ns()
        timed = f"{NOW}; now begun; {line}; s=$?; now ended; exit $s"
        result = self._guest.run(timed, shown_as=line)
        received = time.monotonic_ns()
        span = None
        if read := _READINGS.match(result.stdout):
            span = Span(int(read[1]), int(read[3]))
            self._narrow(span, sent, received)
            result = replace(result, stdout=read[2])
        return result, span

    def _narrow(self, span: Span, sent: int, received: int) -> None:
        """Draw the bounds closer; begin anew where they no longer meet, for the two clocks may drift."""
        least, most = span.ended_ns - received, span.begun_ns - sent
        if self._least_ns is not None and self._most_ns is not None:
            closer = max(least, self._least_ns), min(most, self._most_ns)
            if closer[0] <= closer[1]:
                least, most = closer
        self._least_ns, self._most_ns = least, most
