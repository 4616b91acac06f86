# SPDX-License-Identifier: Apache-2.0
"""The host's end of the program that runs workloads in a guest (`klp.check.in_guest.exerciser`)."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from klp.check import in_guest
from klp.check.exercise.workloads import GuestWorkload
from klp.drive.case import TestedGuest
from klp.errors import CheckFailed
from klp.waiting import DeadlineMissed, wait_until

T = TypeVar("T")

FOLDER = "/run/klp/exercise"
_LOOK_S = 0.15
_ANSWER_S = 60.0
# Two digits longer than a line may be: a FIFO takes what is not longer than PIPE_BUF in one piece.
_LIST = f"{FOLDER}/workloads.json"


class Sleeper(msgspec.Struct, frozen=True, kw_only=True):
    """A task of a workload that does not end; its stack, innermost first, and time in the kernel."""

    pid: int
    comm: str
    state: str
    stack: tuple[str, ...]
    ticks: int = 0


class Hanging(msgspec.Struct, frozen=True, kw_only=True):
    """A workload that hangs, by its number, since when, and in which phase."""

    hangs: int
    seconds: float
    phase: str
    tasks: tuple[Sleeper, ...]


class RunCount(msgspec.Struct, frozen=True, array_like=True):
    """How a workload ended in a phase, how often, how long it took at most, what it said of a failure."""

    index: int
    phase: str
    result: str
    runs: int
    longest_s: float
    output: str


class Alone(msgspec.Struct, frozen=True, kw_only=True):
    """How a workload ended that ran by itself, and what it printed."""

    ran: int
    result: str
    output: str
    seconds: float


class Exerciser:
    """Runs workloads in a guest.

    Attributes:
        ran: of the tasks, by now.
        hits: of each probe, by now.
        hanging: the workloads that hang.
        idle_s: for how long each task has ended no workload.
    """

    def __init__(self, guest: TestedGuest) -> None:
        self._guest = guest
        self._read = 0
        self.ran: tuple[RunCount, ...] = ()
        self.hits: dict[str, int] = {}
        self.hanging: list[Hanging] = []
        self.idle_s: tuple[float, ...] = ()

    def start(self) -> None:
        """Ship the program, and start it.

        Raises:
            CheckFailed: the guest does not take it.
        """
        program = Path(in_guest.__file__).parent
        made = f"mkdir -p {FOLDER}/{program.name} && mkfifo {FOLDER}/control && >{FOLDER}/answers"
        self._guest.run(made).must("making room for the exerciser")
        for file in program.glob("*.py"):
            self._guest.write(f"{FOLDER}/{program.name}/{file.name}", file.read_bytes())
        # -E -s -S: without site-packages Python starts in a third of the time.
        words = f"python3 -E -s -S -m {program.name}.exerciser {FOLDER}"
        self._guest.run(f"cd {FOLDER} && setsid {words} </dev/null >said 2>&1 &").must("the exerciser")

    def use(self, workloads: Sequence[GuestWorkload]) -> None:
        """Say which workloads are meant from now on."""
        self._guest.write(_LIST, msgspec.json.encode(list(workloads)))
        self.order("use", file=_LIST)
        self.await_answer(lambda answer: answer.get("done") == "use")

    def probe(self, probes: Mapping[str, str]) -> dict[str, str]:
        """Put probes, by name, on symbols as kprobe_events takes them; return those refused, and why."""
        self.order("probe", probes=dict(probes))
        answer = self.await_answer(lambda answer: answer if answer.get("done") == "probe" else None)
        return {str(name): str(why) for name, why in answer["refused"].items()}

    def count(self) -> dict[str, int]:
        """Return the hits of each probe."""
        self.order("hits")
        answer = self.await_answer(lambda answer: answer if answer.get("done") == "hits" else None)
        self.hits = dict(answer["hits"])
        return self.hits

    def alone(self) -> dict[int, Alone]:
        """Run each workload once, one after the other; return how each ended, until one hung."""
        found: dict[int, Alone] = {}
        known = len(self.hanging)
        self.order("alone")

        def ended(answer: dict[str, Any]) -> bool:
            if answer.get("from") == "alone":
                one = msgspec.convert(answer, Alone)
                found[one.ran] = one
            return answer.get("done") == "alone" or len(self.hanging) > known

        self.await_answer(ended)
        return found

    def begin(self, tasks: int, phase: str) -> None:
        """Have the workloads run by several tasks, over and over."""
        self.phase(phase)
        self.order("tasks", count=tasks)
        self.await_answer(lambda answer: answer.get("done") == "tasks")

    def phase(self, name: str) -> None:
        """Have what runs from now on counted as of a phase."""
        self.order("phase", phase=name)

    def rest(self) -> None:
        """Have the tasks end with the workload that they run now, unless one hangs."""
        known = len(self.hanging)
        self.order("rest")
        self.await_answer(lambda answer: answer.get("done") == "rest" or len(self.hanging) > known)

    def end(self) -> None:
        """End the program, and its tasks."""
        self.order("end")

    def order(self, what: str, **more: Any) -> None:
        """Tell the program to do something."""
        line = msgspec.json.encode({"do": what, **more}).decode()
        self._guest.run(f"printf '%s\\n' {shlex.quote(line)} >{FOLDER}/control").must(f"exerciser: {what}")

    def look(self) -> list[dict[str, Any]]:
        """Read what it has answered since the last time."""
        text = self._guest.run(f"tail -c +{self._read + 1} {FOLDER}/answers").stdout
        whole = text[: text.rfind("\n") + 1]
        self._read += len(whole.encode())
        answers: list[dict[str, Any]] = [msgspec.json.decode(line) for line in whole.splitlines()]
        for answer in answers:
            self._take(answer)
        return answers

    def _take(self, answer: dict[str, Any]) -> None:
        if "tasks" in answer and "hits" in answer:
            self.ran = msgspec.convert(answer["tasks"], tuple[RunCount, ...])
            self.hits = dict(answer["hits"])
            self.idle_s = tuple(answer["idle_s"])
        elif "hangs" in answer:
            self.hanging.append(msgspec.convert(answer, Hanging))

    def await_answer(
        self, wanted: Callable[[dict[str, Any]], T | None], *, timeout_s: float = _ANSWER_S
    ) -> T:
        """Wait until it has answered something, and return what `wanted` makes of that.

        Raises:
            CheckFailed: it does not; with what it wrote to standard error.
        """

        def look() -> T | None:
            return next((found for answer in self.look() if (found := wanted(answer))), None)

        try:
            return wait_until(look, what="answer", timeout_s=timeout_s, every_s=_LOOK_S)
        except DeadlineMissed as missed:
            said = self._guest.run(f"tail -n 1 {FOLDER}/said").stdout.strip()
            raise CheckFailed(f"the guest's exerciser: {missed}: {said}") from None
