# SPDX-License-Identifier: Apache-2.0
"""Runs workloads in a guest: one by one, or from several tasks at once, and says what came of each.

It is told what to do by JSON lines in a FIFO, and answers by JSON lines that it adds to a file; both are in
the folder that is its only argument. Its main process does no workload, so that none can stop it: each runs
in a worker, a process that is forked, which says in shared memory how many it has run. One that runs none
for too long is looked at: who sleeps, and where. Too long is counted in the main process's own rounds, of
which a slow host makes fewer.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .performing import READ_BYTES, Entry, Slot
from .probes import GROUP, TRACING, add_probe, profile
from .watching import ROUND_S, Worker
from .working import NONE, SHOWN_EVERY_S, Finder, Work, alone, phase_in, task

# While workloads are tried or run alone. From several tasks at once, see `_Tasks.limit`.
# One that is asleep at the same place hangs; one that gets on is given more time, for the host may be slow.
_TRIED_S, _TRIED_AT_MOST_S = 8.0, 30.0
_LEAST_LIMIT_S, _MOST_LIMIT_S, _TIMES_BEFORE = 10.0, 60.0, 20.0
# Between two looks at who sleeps: at the same place in both, it has not moved. The kernel itself waits a
# second and more in one place, as for a grace period when something is unmounted.
_LOOKS_APART_S = 4.0
_PHASE_BYTES = 16


class Tasks:
    """What several workers have done together, workload by workload.

    Attributes:
        counts: [workload, phase, result, runs, longest, what it printed last], by the first three.
    """

    def __init__(self, workloads: list[Entry]) -> None:
        self.workloads = workloads
        self.counts: dict[tuple[int, str, str], list[Any]] = {}

    def take(self, line: dict[str, Any]) -> None:
        """Add what a worker says it has run."""
        for index, phase, result, runs, longest, output in line["ran"]:
            known = self.counts.setdefault((index, phase, result), [index, phase, result, 0, 0.0, ""])
            known[3] += runs
            known[4] = max(known[4], longest)
            known[5] = output or known[5]

    def limit(self, index: int) -> float:
        """Return after how many seconds a workload hangs: many times what it took before loading."""
        before = [each[4] for each in self.counts.values() if each[0] == index and each[1] == "before"]
        return min(max(_LEAST_LIMIT_S, _TIMES_BEFORE * max(before, default=0.0)), _MOST_LIMIT_S)


class Server:
    """The main process."""

    def __init__(self, folder: Path) -> None:
        self._control = os.open(folder / "control", os.O_RDWR | os.O_NONBLOCK)
        self._answers = (folder / "answers").open("a", encoding="utf-8")
        self._workloads: list[Entry] = []
        self._tasks = Tasks([])
        self._workers: list[Worker] = []
        self._phase = mmap.mmap(-1, _PHASE_BYTES)
        self._doing: dict[str, Any] = {}
        self._stop = (-1, -1)
        self._shown = 0.0
        self._buffer = b""

    def say(self, answer: dict[str, Any]) -> None:
        """Answer."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def serve(self) -> None:
        """Do what is asked for until the end is."""
        last = time.monotonic()
        while True:
            pipes = [each.pipe for each in self._workers if not each.ended]
            ready, _, _ = select.select([self._control, *pipes], [], [], ROUND_S)
            if self._control in ready and not self._take():
                return
            now = time.monotonic()
            self._round(now - last)
            last = now

    def _take(self) -> bool:
        self._buffer += os.read(self._control, READ_BYTES)
        *whole, self._buffer = self._buffer.split(b"\n")
        for each in whole:
            order = json.loads(each)
            if order["do"] == "end":
                for worker in self._workers:
                    worker.kill()
                return False
            getattr(self, f"_do_{order['do']}")(order)
        return True

    def _do_use(self, order: dict[str, Any]) -> None:
        self._workloads = json.loads(Path(order["file"]).read_text(encoding="utf-8"))
        self._tasks = Tasks(self._workloads)
        self.say({"done": "use"})

    def _do_probe(self, order: dict[str, Any]) -> None:
        refused = {}
        for event, symbol in order["probes"].items():
            try:
                add_probe(event, symbol)
            except OSError as error:
                refused[event] = error.strerror
        with suppress(OSError):
            (TRACING / f"events/{GROUP}/enable").write_text("1")
        self.say({"done": "probe", "refused": refused})

    def _do_hits(self, _order: dict[str, Any]) -> None:
        self.say({"done": "hits", "hits": profile()})

    def _do_find(self, order: dict[str, Any]) -> None:
        self._doing = {**order, "workloads": self._workloads, "first": 0, "begun": time.monotonic()}
        self._begin_finder()

    def _begin_finder(self) -> None:
        spent = time.monotonic() - self._doing["begun"]
        order = {**self._doing, "budget_s": self._doing["budget_s"] - spent}
        self._workers = [self._fork(lambda say, slot: Finder(say, order, slot)())]

    def _do_alone(self, order: dict[str, Any]) -> None:
        self._doing = dict(order)
        self._workers = [self._fork(lambda say, slot: alone(self._workloads, say, slot))]

    def _do_tasks(self, order: dict[str, Any]) -> None:
        self._doing = dict(order)
        self._stop = os.pipe()
        self._workers = [
            self._fork(task(number, self._workloads, self._phase, self._stop[0]))
            for number in range(order["count"])
        ]
        self.say({"done": "tasks"})

    def _do_phase(self, order: dict[str, Any]) -> None:
        self._phase[:] = order["phase"].encode().ljust(_PHASE_BYTES)

    def _do_rest(self, _order: dict[str, Any]) -> None:
        self._doing["resting"] = True
        os.write(self._stop[1], b"stop")

    def _fork(self, work: Work) -> Worker:
        read, write = os.pipe()
        slot = Slot()
        pid = os.fork()
        if not pid:
            try:
                os.close(read)
                _work(work, write, slot)
            finally:
                os._exit(1)
        os.close(write)
        os.set_blocking(read, False)
        return Worker(pid, read, slot)

    def _round(self, elapsed_s: float) -> None:
        for worker in self._workers:
            worker.count(elapsed_s)
            for line in worker.lines():
                self._hear(line)
            if not worker.ended:
                self._watch(worker)
        now = time.monotonic()
        if self._workers and now - self._shown > SHOWN_EVERY_S:
            self._show()
            self._shown = now
        if self._workers and all(each.ended for each in self._workers):
            self._finish()

    def _hear(self, line: dict[str, Any]) -> None:
        if self._doing["do"] == "tasks":
            self._tasks.take(line)
            return
        for event in line.get("hits", {}):
            self._doing["found"][event] += 1
        self.say({"from": self._doing["do"], **line})

    def _show(self) -> None:
        if self._doing["do"] == "tasks":
            self.say({
                "tasks": list(self._tasks.counts.values()), "hits": profile(),
                "idle_s": [each.idle_s for each in self._workers if not each.ended],
            })  # fmt: skip
        else:
            self.say({"at": self._workers[0].slot.get()[0]})

    def _finish(self) -> None:
        for worker in self._workers:
            os.close(worker.pipe)
            worker.reap()
        if self._doing["do"] == "tasks":
            self._show()
            for end in self._stop:
                os.close(end)
        last = self._workers[0].slot.get()[0]
        self._workers = []
        self.say({"done": "rest" if self._doing["do"] == "tasks" else self._doing["do"], "at": last})

    def _watch(self, worker: Worker) -> None:
        index = worker.slot.get()[0]
        together = self._doing["do"] == "tasks"
        limit = self._tasks.limit(index) if together else _TRIED_S
        if index == NONE or worker.idle_s < limit:
            return
        hanging = worker.look(_LOOKS_APART_S)
        if self._doing["do"] == "find":
            if hanging or worker.idle_s > _TRIED_AT_MOST_S:
                self._give_up(worker, index, hangs=bool(hanging))
        elif hanging:
            self.say({"hangs": index, "seconds": worker.idle_s, "phase": self._name(), "tasks": hanging})
            if not together:
                worker.kill()

    def _name(self) -> str:
        return phase_in(self._phase)

    def _give_up(self, worker: Worker, index: int, *, hangs: bool) -> None:
        """Leave out a workload that does not end while workloads are tried, and go on after it."""
        worker.kill()
        os.close(worker.pipe)
        worker.reap()
        self.say({"harmful" if hangs else "slow": index, "seconds": worker.idle_s})
        self._doing["first"] = index + 1
        self._begin_finder()


def _work(work: Work, write: int, slot: Slot) -> None:
    """Be a worker, and end."""

    def say(line: Mapping[str, Any]) -> None:
        left = json.dumps(line).encode() + b"\n"
        while left:
            left = left[os.write(write, left) :]

    work(say, slot)
    os._exit(0)


if __name__ == "__main__":
    Server(Path(sys.argv[1])).serve()
