# SPDX-License-Identifier: Apache-2.0
"""Cold boots and warm starts beside vng; the cost of a command, and of each further guest."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.measure import Series, in_turn, seconds
from bench.peer import Peer
from klp.lab.lab import Lab, booted
from klp.lab.warm import WarmStart, restored
from klp.paths import RunLayout
from klp.progress import Silent
from klp.vm.request import MachineRequest

VNG = "vng --disable-kvm: uname"
_COMMANDS = 20
_GUESTS = 4


class Boots:
    """The measurements that need a machine that boots and, for warm starts, a snapshot."""

    def __init__(self, request: MachineRequest, warm: WarmStart) -> None:
        self._request = request
        self._warm = warm

    def _folder(self, stack: ExitStack) -> RunLayout:
        return RunLayout(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="klp-bench-"))))

    def _cold(self, stack: ExitStack) -> Lab:
        layout = self._folder(stack)
        return stack.enter_context(booted(self._request, layout, Silent()))

    def _restored(self, stack: ExitStack) -> Lab:
        layout = self._folder(stack)
        return stack.enter_context(restored(self._warm, layout))

    def cold_seconds(self) -> float:
        """Seconds from the call to the first answer of a guest that was booted."""
        with ExitStack() as stack:
            return seconds(lambda: self._cold(stack).guest.run("uname -a"))

    def warm_seconds(self) -> float:
        """Seconds from the call to the first answer of a guest that was restored."""
        with ExitStack() as stack:
            return seconds(lambda: self._restored(stack).guest.run("uname -a"))

    def against(self, peer: Peer, rounds: int) -> list[Series]:
        """Cold boot, warm start and vng in turn."""
        return in_turn({VNG: lambda: seconds(peer.boot), **self._own()}, rounds, "s")

    def alone(self, rounds: int) -> list[Series]:
        """Cold boot and warm start in turn: for kernels that vng cannot be given."""
        return in_turn(self._own(), rounds, "s")

    def _own(self) -> dict[str, Callable[[], float]]:
        return {
            "klp: cold boot to the first answer": self.cold_seconds,
            "klp: warm start to the first answer, probes armed": self.warm_seconds,
        }

    def commands(self) -> list[Series]:
        """One command over an open connection."""
        with ExitStack() as stack:
            guest = self._restored(stack).guest
            guest.run("true")
            taken = tuple(seconds(lambda: guest.run("true")) for _ in range(_COMMANDS))
        return [Series("one command over an open connection", "s", taken)]

    def further_guests(self) -> list[Series]:
        """What each further guest of one snapshot takes: its own share of memory (PSS), and time."""
        times, memory, pids = [], [], []
        labs: list[Lab] = []
        with ExitStack() as stack:
            for _ in range(_GUESTS):
                times.append(seconds(lambda: labs.append(self._restored(stack))))
                pids.append(labs[-1].machine.pid)
                memory.append(_pss_mib(pids[-1]))
            peaks = tuple(_peak_mib(pid) for pid in pids)
        return [
            Series("a further guest: start", "s", tuple(times)),
            Series("a further guest: memory (PSS)", "MiB", tuple(memory)),
            Series("a guest: peak memory (VmHWM)", "MiB", peaks),
        ]


def _peak_mib(pid: int) -> float:
    """Return the most that QEMU had resident at once: what it shares with other guests included."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _pss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
