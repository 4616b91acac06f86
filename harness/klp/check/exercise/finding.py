# SPDX-License-Identifier: Apache-2.0
"""Finding out which workloads call the functions that a livepatch changes, before it is loaded.

Their originals have entry probes (events of kprobe_events in a group of the guest's own program), and a
workload after which a probe has more hits than it has anyway is what was looked for.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from klp.check.exercise.knowledge import Knowledge, Known, Reached, shunned
from klp.check.exercise.remote import Exerciser
from klp.check.exercise.workloads import (
    GuestWorkload,
    Origin,
    catalogue,
    commands,
    files,
    of_author,
    ranked,
    stressors,
    tried_words,
)
from klp.check.stage import Stage
from klp.drive.calls import CountedFunction, address_of
from klp.errors import VmLost

# With --quick there is time for the likeliest, and for a thousand files.
_BUDGET_S, _QUICK_BUDGET_S = 90.0, 8.0
# For each function.
_MOST = 3
# What is looked for after each function has one workload, for another that calls it in another way.
_EXTRA_S = 1.5
# Together, in the life.
_MOST_TOGETHER = 12
# Of the likeliest one's likeness.
_LIKELY = 0.6
_QUICK_S = 0.7
_FIND = (
    "find /proc/sys /proc/self /proc/1 /proc/net/ /proc /sys /sys/kernel/debug /sys/kernel/tracing -xdev "
    "-type f -perm /444 2>/dev/null | grep -v '^/proc/[0-9]*[02-9]'"
)
_FIND_WRITABLE = "find /proc/sys -type f -perm /222 -perm /444"
_IDLE_CALLS = 0.5


@dataclass(frozen=True, slots=True)
class ProbedFunction:
    """A function that is changed: its object, its name with position as sysfs has it, and its probe."""

    object: str
    position: str
    probe: str

    @property
    def name(self) -> str:
        """Its name alone."""
        return self.position.partition(",")[0]

    @property
    def key(self) -> tuple[str, str]:
        """What tells it apart."""
        return (self.object, self.position)

    @property
    def counted(self) -> CountedFunction:
        """It, as one whose calls are counted."""
        number = max(int(self.position.partition(",")[2] or 0), 1)
        return CountedFunction(self.object, self.name, "", self.symbol, number)

    @property
    def symbol(self) -> str:
        """It, as kprobe_events takes it."""
        return self.name if self.object == "vmlinux" else f"{self.object}:{self.name}"


@dataclass(slots=True)
class WhoCalls:
    """What calls which function.

    Attributes:
        reached: the workloads of each function, the best first; none where nothing calls it.
        tried: of those that nothing calls, what was tried in vain.
        refused: the functions that can have no probe, and why.
        idle: how often a second a function is called by nobody in particular.
    """

    reached: dict[ProbedFunction, tuple[Reached, ...]] = field(default_factory=dict)
    tried: dict[ProbedFunction, str] = field(default_factory=dict)
    refused: dict[ProbedFunction, str] = field(default_factory=dict)
    idle: dict[ProbedFunction, float] = field(default_factory=dict)

    @property
    def busy(self) -> tuple[ProbedFunction, ...]:
        """The functions that no workload calls, but the system itself, often."""
        return tuple(each for each in self.tried if self.idle.get(each, 0.0) >= _IDLE_CALLS)

    @property
    def unreached(self) -> tuple[ProbedFunction, ...]:
        """The functions that nothing was seen to call."""
        return tuple(each for each in self.tried if each not in self.busy)


def functions_of(stage: Stage) -> tuple[ProbedFunction, ...]:
    """Return what the livepatch changes, with a name for each one's probe."""
    every = dict.fromkeys((each.object, name) for each in stage.objects for name in each.functions)
    return tuple(ProbedFunction(*each, f"exercised{number}") for number, each in enumerate(every))


def load_objects(stage: Stage, functions: Iterable[ProbedFunction]) -> dict[ProbedFunction, str]:
    """Load the modules that are changed, where the kernel has them and nobody has loaded them.

    Returns:
        The functions whose module is not loaded even so, and why nothing can call them.
    """
    modules = sorted({each.object for each in functions} - {"vmlinux"})
    if not modules:
        return {}
    words = " ".join(map(shlex.quote, modules))
    absent = stage.guest.run(
        f"for m in {words}; do [ -d /sys/module/$m ] || modprobe -q $m || echo $m; done"
    ).stdout.split()
    return {each: f"its object {each.object} is not loaded" for each in functions if each.object in absent}


def put_probes(
    stage: Stage, exerciser: Exerciser, functions: Sequence[ProbedFunction]
) -> dict[ProbedFunction, str]:
    """Put a probe on each function; return those that can have none, and why."""
    refused = exerciser.probe({each.probe: each.symbol for each in functions if _first(each)})
    left = [each for each in functions if each.probe in refused or not _first(each)]
    if not left:
        return {}
    # Of a name that there is several times: by the address of the one that is meant.
    names = "|".join(sorted({re.escape(each.name) for each in left}))
    listed = stage.guest.run(["grep", "-E", rf" [tT] ({names})(\s|$)", "/proc/kallsyms"]).stdout
    found = addresses(listed, left)
    why = {
        each.probe: refused.get(each.probe, "no such symbol") for each in left if each.probe not in found
    }
    why |= exerciser.probe(found)
    return {each: why[each.probe] for each in left if each.probe in why}


def _first(function: ProbedFunction) -> bool:
    return function.position.rpartition(",")[2] in ("0", "1") or "," not in function.position


def addresses(listed: str, functions: Iterable[ProbedFunction]) -> dict[str, str]:
    """Return the addresses of functions by their probes, of lines of /proc/kallsyms in its order."""
    found = {each.probe: address_of(listed, each.counted) for each in functions}
    return {probe: address for probe, address in found.items() if address}


class Search:
    """Finds what calls some functions, or knows it.

    Args:
        functions: those that have a probe.
    """

    def __init__(self, stage: Stage, exerciser: Exerciser, functions: Sequence[ProbedFunction]) -> None:
        self._stage = stage
        self._exerciser = exerciser
        self._functions = functions
        self._knowledge = Knowledge(stage.case.cache, stage.kernel.digest)
        self._own = of_author(stage.candidate.plan)
        self.found = WhoCalls()

    def run(self) -> WhoCalls:
        """Return what calls each function."""
        unknown = [each for each in self._functions if not self._recall(each)]
        if unknown:
            self._look_for(unknown)
        elif self.found.tried:
            self._listen()
        return self.found

    def _listen(self) -> None:
        """See which of the functions that nothing calls are called all the same."""
        self._exerciser.use(())
        self._exerciser.order("find", found={}, more=0, extra_s=0, likely=0, budget_s=0)
        heard = _Heard((), self._stage.tell)
        self._exerciser.await_answer(heard.take)
        self.found.idle = {each: heard.idle.get(each.probe, 0.0) for each in self.found.tried}

    def _recall(self, function: ProbedFunction) -> bool:
        known = self._knowledge.of(function.key)
        if known is None:
            return False
        own = {each.text for each in self._own}
        # What another author named is not known to be in this guest.
        usable = [each for each in known.reached
                  if each.workload.origin is not Origin.AUTHOR or each.workload.text in own]  # fmt: skip
        if (known.reached and not usable) or not known.answers(self._digest, quick=self._stage.quick):
            return False
        self.found.reached[function] = tuple(usable)
        if not usable:
            self.found.tried[function] = known.tried
        return True

    @property
    def _digest(self) -> str:
        return ",".join([catalogue().digest, *sorted(each.text for each in self._own)])

    def _look_for(self, functions: Sequence[ProbedFunction]) -> None:
        order, likely = self._order(functions)
        self._exerciser.use(order)
        quick = self._stage.quick
        self._exerciser.order(
            "find", found={each.probe: 0 for each in functions}, more=_MOST, extra_s=_EXTRA_S,
            likely=likely, budget_s=_QUICK_BUDGET_S if quick else _BUDGET_S,
        )  # fmt: skip
        heard = _Heard(order, self._stage.tell)
        try:
            last = self._exerciser.await_answer(heard.take, timeout_s=_BUDGET_S * 3)
        except VmLost:
            # Nothing of the livepatch is loaded: it is the workload's doing, or the kernel's.
            if heard.at is not None:
                self._knowledge.shun(heard.at)
                self._stage.note(f"the guest was lost while trying {heard.at.words}, with nothing loaded")
            raise
        for harmful in heard.harmful:
            self._stage.note(f"left out, for it did not end, with nothing loaded: {harmful.words}")
        self._learn(functions, heard, order[: int(last["at"]) + 1])

    def _learn(
        self, functions: Sequence[ProbedFunction], heard: _Heard, tried: Sequence[GuestWorkload]
    ) -> None:
        words = tried_words(tried)
        for each in functions:
            reached = varied(heard.reached.get(each.probe, ()))
            self.found.reached[each] = reached
            if not reached:
                self.found.tried[each] = words
                self.found.idle[each] = heard.idle.get(each.probe, 0.0)
            known = Known(catalogue=self._digest, reached=reached, tried=words, whole=not self._stage.quick)
            self._knowledge.learn(each.key, known)

    def _order(self, functions: Sequence[ProbedFunction]) -> tuple[list[GuestWorkload], int]:
        """Return all workloads that this guest can run, the likeliest first, and how many are likely."""
        run = self._stage.guest.run
        every = (
            *self._own, *commands(), *stressors(run("stress-ng --stressors 2>/dev/null").stdout.split()),
            *files(run(_FIND).stdout.splitlines(), run(_FIND_WRITABLE).stdout.splitlines()),
        )  # fmt: skip
        harmful = self._knowledge.harmful()
        usable = [each for each in every if not shunned(each, harmful)]
        scored = ranked(usable, [(one.object, one.name) for one in functions])
        likely = sum(score >= scored[0][1] * _LIKELY for _, score in scored)
        return [each for each, _ in scored], likely


class _Heard:
    """What the guest's program says while it tries workloads."""

    def __init__(self, order: Sequence[GuestWorkload], tell: Callable[[str], None]) -> None:
        self._order = order
        self._tell = tell
        self.at: GuestWorkload | None = None
        self.reached: dict[str, list[Reached]] = {}
        self.harmful: list[GuestWorkload] = []
        self.idle: dict[str, float] = {}

    def take(self, answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Take one answer; return the last."""
        if "at" in answer and 0 <= int(answer["at"]) < len(self._order):
            self.at = self._order[int(answer["at"])]
            self._tell(f"trying {self.at.words}, {int(answer['at']) + 1} of {len(self._order)}")
        if "idle" in answer:
            self.idle = {str(name): float(rate) for name, rate in answer["idle"].items()}
        if "harmful" in answer:
            self.harmful.append(self._order[int(answer["harmful"])])
        for probe, hits in answer.get("hits", {}).items() if "found" in answer else ():
            workload, seconds = self._order[int(answer["found"])], float(answer["seconds"])
            reached = Reached(workload=workload, hits=int(hits), seconds=round(seconds, 4))
            self.reached.setdefault(str(probe), []).append(reached)
        return answer if answer.get("done") == "find" else None


def varied(reached: Iterable[Reached]) -> tuple[Reached, ...]:
    """Return first what calls most often in a given time, and before its likes what is of another kind."""
    left = sorted(reached, key=lambda each: each.seconds / max(1, each.hits))
    found: list[Reached] = []
    while left and len(found) < _MOST:
        kinds = {(each.workload.origin, each.workload.kind) for each in found}
        other = [each for each in left if (each.workload.origin, each.workload.kind) not in kinds]
        found.append((other or left)[0])
        left.remove(found[-1])
    return tuple(found)


def together(
    own: Iterable[GuestWorkload], found: Mapping[ProbedFunction, Sequence[Reached]]
) -> tuple[GuestWorkload, ...]:
    """Return the workloads to be run: one for each function at least, then more, up to a number."""
    chosen = dict.fromkeys(own)
    for rank in range(_MOST):
        for reached in found.values():
            if rank >= len(reached):
                continue
            needed = not any(each.workload in chosen for each in reached)
            # Where a function has one already, others must be quick: they take turns with it.
            room = len(chosen) < _MOST_TOGETHER and reached[rank].seconds < _QUICK_S
            if needed or (rank and room):
                chosen.setdefault(reached[rank].workload)
    return tuple(chosen)
