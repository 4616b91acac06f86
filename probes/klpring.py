# SPDX-License-Identifier: Apache-2.0
"""The ring buffer that hands over a BPF program's events: when it is read, and what never was in it."""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# So many are read at a tick, and the next tick comes so soon while more are there.
CHUNK_EVENTS, LOOK_S = 512, 0.01
# More than any tool's ring buffer holds: after so many chunks, all that was there before has been read.
RING_CHUNKS = 256
# Of a ring buffer, by the kernel's include/uapi/linux/bpf.h: the positions are a page each.
CONSUMER_AT, PRODUCER_AT = 0, mmap.PAGESIZE
U64 = 8
# Events are left in the kernel while more bytes a second than this come, for this long at most.
RUSH = 10_000
HOLD_S = 1.0


class Backlog:
    """How much of the ring buffer `events` has not been read: seen in shared memory, without a system call.

    A system call on a map keeps BPF programs from running on its CPU meanwhile, and reading events takes
    CPU time from whoever makes them: where CPUs are emulated, or few, that is most of what a probe costs.
    """

    def __init__(self, memory: Any, size: int) -> None:
        self._memory, self._size = memory, size
        self._produced, self._looked, self._since = 0, 0.0, 0.0

    @classmethod
    def of(cls, table: Any) -> Backlog:
        """Map the positions of a ring buffer of bcc's."""
        memory = mmap.mmap(table.map_fd, PRODUCER_AT + mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)
        return cls(memory, fdinfo(table.map_fd)["max_entries"])

    def waiting(self) -> int:
        """Return the bytes that have not been read."""
        return self._at(PRODUCER_AT) - self._at(CONSUMER_AT)

    def _at(self, position: int) -> int:
        return int(struct.unpack_from("=Q", self._memory, position)[0])

    def due(self, now_s: float) -> bool:
        """Tell at a tick whether to read: not in a rush, unless it is long or the ring nearly full."""
        produced, waiting = self._at(PRODUCER_AT), self.waiting()
        rush = produced - self._produced > RUSH * (now_s - self._looked)
        self._produced, self._looked = produced, now_s
        held = rush and waiting < self._size * 3 // 4 and now_s - self._since < HOLD_S
        if not held:
            self._since = now_s
        return waiting > 0 and not held


class Counters:
    """A BPF array of u64 that can be mapped: read without a system call, as `Backlog` is."""

    def __init__(self, memory: Any, count: int) -> None:
        self._memory, self._count = memory, count

    @classmethod
    def of(cls, table: Any) -> Counters:
        """Map an array of bcc's that has BPF_F_MMAPABLE."""
        count = fdinfo(table.map_fd)["max_entries"]
        return cls(mmap.mmap(table.map_fd, count * U64, mmap.MAP_SHARED, mmap.PROT_READ), count)

    def total(self) -> int:
        """Return the sum of all."""
        return sum(struct.unpack_from(f"={self._count}Q", self._memory))


@contextmanager
def unpreempted() -> Iterator[None]:
    """Let no other task run on this CPU but those of real time, as long as system calls read BPF maps.

    The kernel leaves out a kprobe's program that comes to its CPU in the middle of such a call.
    """
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    with suppress(PermissionError):  # a cgroup without a share of real time: what is left out is counted
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)


def misses(bpf: Any) -> int:
    """Return how often the kernel left out a program because another, or a map's user, was at work.

    Kernels before 6.7 do not count that for kprobes: there `KprobeEvents` does.
    """
    return sum(fdinfo(function.fd).get("recursion_misses", 0) for function in bpf.funcs.values())


def fdinfo(descriptor: int) -> dict[str, int]:
    """Return the numbers in /proc about a BPF program or map of this process."""
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    return {name: int(value) for name, value in re.findall(r"^(\w+):\s*(\d+)$", lines, re.MULTILINE)}


def open_ring(bpf: Any) -> Callable[[], list[Any]]:
    """Open the ring buffer `events`; return the function that empties it."""
    table = bpf["events"]
    batch: list[Any] = []

    def keep(_context: Any, data: Any, _size: int) -> int:
        event = table.event(data)
        batch.append(type(event).from_buffer_copy(event))  # the ring's memory is reused
        return -1 if len(batch) >= CHUNK_EVENTS else 0  # a ring that fills as fast would never end

    table.open_ring_buffer(keep)

    def drain() -> list[Any]:
        batch.clear()
        bpf.ring_buffer_consume()
        return list(batch)

    return drain
