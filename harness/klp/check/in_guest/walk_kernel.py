# SPDX-License-Identifier: Apache-2.0
"""Walk the guest kernel's own lists of what it will call, of which no file tells.

Run in the guest, with one argument, JSON: where structures have their members, and the addresses of the
lists. Prints a line for each function that is to be called: ``timer ADDRESS``, ``work ADDRESS`` or
``notifier CHAIN ADDRESS``; only for functions that are not the kernel's own. Where the timer itself lies in
memory that is gone, its own address stands in the function's place: what reads as zero is no function.
Nothing is locked meanwhile: a list may change under the walk, which then leads into freed memory. A walk
that does is begun anew, some times; ``walked NAME`` ends each that was walked to its end.
"""

import json
import os
import struct
import sys
from collections.abc import Iterator
from typing import Any

# No list has so many entries; one that leads in a circle does.
_MOST = 4096
_WALKS = 8
_LOAD = 1
_ALL_BITS = (1 << 64) - 1
_WORD = struct.Struct("<Q")


class Memory:
    """The kernel's memory, by its addresses: /proc/kcore, an ELF core file."""

    def __init__(self) -> None:
        self.file = os.open("/proc/kcore", os.O_RDONLY)
        head = os.read(self.file, 65536)
        (begin,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        self.segments = []
        for number in range(count):
            part = struct.unpack_from("<IIQQQQ", head, begin + number * size)
            kind, _, offset, address, _, length = part
            if kind == _LOAD:
                self.segments.append((address, address + length, offset))

    def read(self, address: int, length: int) -> bytes:
        """Return what is there; raises LookupError where nothing is."""
        for begin, end, offset in self.segments:
            if begin <= address < end:
                data = os.pread(self.file, length, offset + address - begin)
                if len(data) == length:
                    return data
        raise LookupError(hex(address))

    def word(self, address: int) -> int:
        """Return a pointer."""
        return int(_WORD.unpack(self.read(address, 8))[0])

    def ring(self, head: int) -> Iterator[int]:
        """Yield the entries of a list_head, by their addresses."""
        seen = {0, head}
        entry = self.word(head)
        while entry not in seen and len(seen) < _MOST:
            yield entry
            seen.add(entry)
            entry = self.word(entry)

    def chain(self, first: int, link: int) -> Iterator[int]:
        """Yield the entries of a list that ends in NULL, each with the next one's address at `link`.

        One that is in the memory of a module that is gone may lead anywhere, back to itself as well.
        """
        seen = {0}
        while first not in seen and len(seen) < _MOST:
            yield first
            seen.add(first)
            first = self.word(first + link)


class Walk:
    """One walk through all of the lists."""

    def __init__(self, memory: Memory, layout: dict[str, Any]) -> None:
        self.memory = memory
        self.at: dict[str, int] = layout["offsets"]
        self.symbols: dict[str, int] = layout["symbols"]
        self.layout = layout
        self.found: list[str] = []

    def _say(self, what: str, function: int, holder: int) -> None:
        if not self.symbols["_stext"] <= function < self.symbols["_end"]:
            self.found.append(f"{what} {function or holder:#x}")

    def timers(self) -> None:
        """The timer wheel: per CPU an array of bases, each with an array of lists."""
        lists = self.at["timer_base.vectors#"]
        for cpu in range(self.layout["cpus"]):
            # Since 6.15 an offset is negative on x86: per-CPU symbols are no longer counted from 0.
            here = (self.symbols["timer_bases"] + self._part_of(cpu)) & _ALL_BITS
            for number in range(self.at["timer_bases#"]):
                base = here + number * self.at["timer_base"] + self.at["timer_base.vectors"]
                heads = struct.unpack(f"<{lists}Q", self.memory.read(base, 8 * lists))
                for place, first in enumerate(heads):
                    self._list(base + 8 * place, first)

    def _part_of(self, cpu: int) -> int:
        return self.memory.word(self.symbols["__per_cpu_offset"] + 8 * cpu)

    def _list(self, link: int, first: int) -> None:
        for timer in self.memory.chain(first, 0):
            # An entry knows what points to it; one in the memory of a module that is gone reads as zeros.
            back = self.memory.word(timer + 8)
            if back not in (link, 0):
                raise LookupError(f"{timer:#x} is in no list")
            link = timer
            self._timer(timer)

    def _timer(self, timer: int) -> None:
        function = self.memory.word(timer + self.at["timer_list.function"])
        if function == self.symbols["delayed_work_timer_fn"]:
            work = timer - self.at["delayed_work.timer"]
            self._say("work", self.memory.word(work + self.at["work_struct.func"]), work)
        else:
            self._say("timer", function, timer)

    def works(self) -> None:
        """The queues of work: each has a pool of workers a CPU or node, whose lists others share."""
        pools = set()
        for queue in self.memory.ring(self.symbols["workqueues"]):
            first = queue - self.at["workqueue_struct.list"] + self.at["workqueue_struct.pwqs"]
            for entry in self.memory.ring(first):
                part = entry - self.at["pool_workqueue.pwqs_node"]
                pools.add(self.memory.word(part + self.at["pool_workqueue.pool"]))
                self._queued(part + self.at["pool_workqueue.inactive_works"])
        for pool in pools:
            self._queued(pool + self.at["worker_pool.worklist"])

    def _queued(self, head: int) -> None:
        for entry in self.memory.ring(head):
            work = entry - self.at["work_struct.entry"]
            self._say("work", self.memory.word(work + self.at["work_struct.func"]), work)

    def notifiers(self) -> None:
        """The chains whose heads have a name."""
        call = self.at["notifier_block.notifier_call"]
        for name, head in self.layout["chains"].items():
            first = self.memory.word(head)
            for block in self.memory.chain(first, self.at["notifier_block.next"]):
                self._say(f"notifier {name}", self.memory.word(block + call), block)


def main() -> None:
    """Walk; what cannot be walked is told in a line."""
    if not sys.argv[1]:
        return
    walk = Walk(Memory(), json.loads(sys.argv[1]))
    for each in (walk.timers, walk.works, walk.notifiers):
        for number in range(_WALKS):
            walk.found.clear()
            try:
                each()
                walk.found.append(f"walked {each.__name__}")
                break
            except (LookupError, OSError) as error:
                walk.found.append(f"unwalked {each.__name__} {number} {error!r}")
        sys.stdout.write("".join(f"{line}\n" for line in walk.found))


main()
