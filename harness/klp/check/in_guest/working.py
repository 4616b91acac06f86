# SPDX-License-Identifier: Apache-2.0
"""What workers are there for: workloads tried, run alone, or run over and over beside others."""

from __future__ import annotations

import itertools
import mmap
import select
import time
from collections.abc import Callable
from typing import Any

from .performing import Entry, Outcome, Slot, run_once
from .probes import profile

SHOWN_EVERY_S = 0.25
# Each task rests seven times as long as it worked: four of them keep half a CPU busy, for beside busy tasks
# a transition takes an emulated guest many seconds, or minutes.
_LEAST_REST_S, _MOST_REST_S, _REST_TIMES = 0.015, 1.5, 7.0
# While it is enabled there is none, and calls are what is wanted.
_ENABLED, _ENABLED_REST_TIMES = "enabled", 2.0
# A task goes on to its next workload after that long, so that a quick one runs often beside slow ones.
_TURN_S = 0.15
_CALIBRATIONS, _IDLE_S = 5, 0.3
_REPEATS = 2
# In place of a workload's number: none is run now.
NONE = -1

Say = Callable[[dict[str, Any]], None]
Work = Callable[[Say, Slot], None]


class Finder:
    """Tries workloads one by one; which of them have a probe hit that is not hit anyway?

    Args:
        wanted: the probes that are to be hit by something.
        more: how many workloads of each probe are of use.
    """

    def __init__(self, say: Say, order: dict[str, Any], slot: Slot) -> None:
        self._say, self._slot = say, slot
        self._workloads: list[Entry] = order["workloads"]
        self._found = {name: int(count) for name, count in order["found"].items()}
        self._more = order["more"]
        self._extra_s, self._likely = order["extra_s"], order["likely"]
        self._until = time.monotonic() + order["budget_s"]
        self._first = order["first"]

    def __call__(self) -> None:
        self._calibrate()
        for index in range(self._first, len(self._workloads)):
            if time.monotonic() > self._until or not self._wanted(index):
                break
            self._try(index)

    def _calibrate(self) -> None:
        """Learn how often the probes are hit by nothing but the reading of their counts, and by others."""
        seen = [profile() for _ in range(_CALIBRATIONS)]
        pairs = list(itertools.pairwise(seen))
        self._own = {
            name: max(after.get(name, 0) - before.get(name, 0) for before, after in pairs)
            for name in seen[0]
        }
        before = profile()
        select.select([], [], [], _IDLE_S)
        after = profile()
        self._rate = {name: (after[name] - before.get(name, 0)) / _IDLE_S for name in after}
        self._say({"idle": self._rate})

    def _wanted(self, index: int) -> bool:
        if all(self._found.values()):
            if index >= self._likely:
                return False
            # Enough to go on with; a few more, for what calls a function in another way shows more of it.
            self._until = min(self._until, time.monotonic() + self._extra_s)
            self._extra_s = max(0.0, self._until - time.monotonic())
        return any(count < self._more for count in self._found.values())

    def _run(self, index: int) -> tuple[set[str], dict[str, int], Outcome, float]:
        before, begun = profile(), time.monotonic()
        outcome = run_once(self._workloads[index], self._slot, index, index)
        took = time.monotonic() - begun
        after = profile()
        hits = {name: after[name] - before.get(name, 0) - self._own.get(name, 0) for name in after}
        reached = {name for name in self._found if hits.get(name, 0) > 2 * self._rate.get(name, 0) * took}
        return reached, hits, outcome, took

    def _try(self, index: int) -> None:
        reached, hits, outcome, took = self._run(index)
        reached = {name for name in reached if self._found[name] < self._more}
        for _ in range(_REPEATS if reached else 0):
            again, _, same, _ = self._run(index)
            reached = reached & again if same.result == outcome.result else set()
        for name in reached:
            self._found[name] += 1
        if reached:
            self._say(
                {"found": index, "hits": {each: hits[each] for each in sorted(reached)}, "seconds": took}
            )


def alone(workloads: list[Entry], say: Say, slot: Slot) -> None:
    """Run each workload once."""
    for index, workload in enumerate(workloads):
        begun = time.monotonic()
        outcome = run_once(workload, slot, index, index)
        took = time.monotonic() - begun
        text = outcome.output.decode(errors="replace")
        say({"ran": index, "result": outcome.result, "output": text, "seconds": took})


def phase_in(memory: mmap.mmap) -> str:
    """Return the name of the phase that is set in shared memory."""
    return bytes(memory).decode().strip(" \0")


def rest_s(took_s: float, phase: str) -> float:
    """Return how long a task rests after a workload."""
    times = _ENABLED_REST_TIMES if phase == _ENABLED else _REST_TIMES
    return min(max(_LEAST_REST_S, times * took_s), _MOST_REST_S)


def task(number: int, workloads: list[Entry], phases: mmap.mmap, stop: int) -> Work:
    """Return what runs workloads in turns, from the `number`-th on, until there is something in `stop`."""

    def loop(say: Say, slot: Slot) -> None:
        counts: dict[tuple[int, str, str], list[Any]] = {}
        runs, turn, rest = 0, number, 0.0
        shown = turned = time.monotonic()
        while not select.select([stop], [], [], rest)[0]:
            index, phase, begun = turn % len(workloads), phase_in(phases), time.monotonic()
            outcome = run_once(workloads[index], slot, index, runs)
            now, runs = time.monotonic(), runs + 1
            known = counts.setdefault((index, phase, outcome.result), [0, 0.0, ""])
            known[0], known[1] = known[0] + 1, max(known[1], now - begun)
            if outcome.result not in ("ok", "exit 0"):
                known[2] = outcome.output[-200:].decode(errors="replace")
            rest = rest_s(now - begun, phase)
            if now - turned > _TURN_S:
                turn, turned = turn + 1, now + rest
            if now - shown > SHOWN_EVERY_S:
                say({"ran": [[*key, *value] for key, value in counts.items()]})
                counts, shown = {}, now
            slot.put(NONE, runs, 0)
        say({"ran": [[*key, *value] for key, value in counts.items()]})

    return loop
