# SPDX-License-Identifier: Apache-2.0
"""Runs and checks as they were read back from their folders: one value each.

`klp.records.reading` makes them. Whatever shows, compares or judges runs is given these values, never a
folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from klp.analysis.checked import CheckResult
from klp.analysis.costs import Cost, attempt_costs
from klp.analysis.curve import tasks_left
from klp.analysis.history import History, history
from klp.analysis.legs import Leg
from klp.analysis.lifetimes import ShadowLifetime, shadow_lifetimes
from klp.analysis.result import RunResult
from klp.analysis.transitions import Transition, transition_of
from klp.errors import UsageError
from klp.trace import events as ev


class NotARecord(UsageError):
    """A folder is none of a run or a check, or cannot be read: cut, or of another version of klp."""


@dataclass(frozen=True, slots=True)
class TracedLeg:
    """One leg of a transition with what is shown of it.

    Attributes:
        transition: the leg as run.json tells it.
        tasks_left: see `klp.analysis.curve.tasks_left`.
        costs: see `klp.analysis.costs.attempt_costs`.
    """

    leg: Leg
    transition: Transition
    tasks_left: tuple[tuple[int, int], ...]
    costs: tuple[Cost, ...]


@dataclass(frozen=True, slots=True)
class GuestTrace:
    """What one guest's trace tells.

    Attributes:
        title: what it is called where several are shown: its run's name, and its number from the second on.
        number: of the guest in its run, from 1.
        file: name of the file its events are in; evidence counts that file's lines.
        history: what the rules are judged on.
        lifetimes: its shadow variables one by one.
        attempts: every attempt to switch a task, in the order of time.
        legs: those of the history, in its order.
    """

    title: str
    number: int
    file: str
    history: History
    lifetimes: tuple[ShadowLifetime, ...]
    attempts: tuple[ev.Attempt, ...]
    legs: tuple[TracedLeg, ...]


def guest_trace(
    title: str, numbered: Iterable[tuple[int, ev.AnyEvent]], *, number: int = 1, file: str = "events.jsonl"
) -> GuestTrace:
    """Return what a guest's numbered events tell; they are gone through once, and most of them not kept."""
    # Once, because each is decoded only as it is asked for, and there may be a million.
    attempts: list[ev.Attempt] = []
    shadows: list[tuple[int, ev.AnyEvent]] = []

    def passing() -> Iterator[tuple[int, ev.AnyEvent]]:
        for line, event in numbered:
            if isinstance(event, ev.Attempt):
                attempts.append(event)
            elif isinstance(event, ev.ShadowAlloc | ev.ShadowFreed):
                shadows.append((line, event))
            yield line, event

    whole = history(passing())
    return GuestTrace(
        title=title,
        number=number,
        file=file,
        history=whole,
        lifetimes=shadow_lifetimes(shadows),
        attempts=tuple(attempts),
        legs=tuple(
            TracedLeg(leg, transition_of(leg), tasks_left(leg), attempt_costs(leg, attempts))
            for leg in whole.legs
        ),
    )


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run as it was read from its folder.

    Attributes:
        name: by which `klp` commands take it, its folder's own; of a scenario its folder below its check's.
        folder: its path.
        result: what is in its run.json; None where that is missing or cannot be read.
        broken: why, in words; empty where it can be read.
        guests: the traces, where these were read as well.
        pending: who held stuck transitions, with kernel stacks; empty where none got stuck.
    """

    name: str
    folder: str
    result: RunResult | None
    broken: str = ""
    guests: tuple[GuestTrace, ...] = ()
    pending: str = ""

    def whole(self) -> RunResult:
        """Return run.json's content.

        Raises:
            NotARecord: there is none.
        """
        if self.result is None:
            raise NotARecord(f"{self.folder}: {self.broken}", hint="`klp runs` lists those that are there")
        return self.result


@dataclass(frozen=True, slots=True)
class RecordedCheck:
    """A check as it was read from its folder.

    Attributes:
        name: by which `klp` commands take it, its folder's own.
        folder: its path.
        result: what is in its check.json; None where that cannot be read.
        broken: why, in words; empty where it can be read.
        runs: the run of each scenario that has one, by its folder below this one, where these were read.
    """

    name: str
    folder: str
    result: CheckResult | None
    broken: str = ""
    runs: Mapping[str, RecordedRun] = field(default_factory=dict)

    def whole(self) -> CheckResult:
        """Return check.json's content.

        Raises:
            NotARecord: there is none.
        """
        if self.result is None:
            raise NotARecord(f"{self.folder}: {self.broken}", hint="run the check again")
        return self.result


Recorded = RecordedRun | RecordedCheck
