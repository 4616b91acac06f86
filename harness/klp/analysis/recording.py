# SPDX-License-Identifier: Apache-2.0
"""Runs and checks as they were read back from their folders: one value each.

`klp.records.reading` makes them. Whatever shows, compares or judges runs is given these values, never a
folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import get_args

from klp.analysis.checked import CheckResult
from klp.analysis.costs import Cost, CostsBuilder
from klp.analysis.curve import tasks_left
from klp.analysis.history import History, history
from klp.analysis.legs import Leg
from klp.analysis.lifetimes import LifetimesBuilder, ShadowLifetime
from klp.analysis.result import RunResult
from klp.analysis.transitions import LegBuilder, Transition, transition_of
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
        costs: see `klp.analysis.costs.CostsBuilder`.
    """

    leg: Leg
    transition: Transition
    tasks_left: tuple[tuple[int, int], ...]
    costs: tuple[Cost, ...]


@dataclass(frozen=True, slots=True)
class GuestHistory:
    """One guest's trace as the rules see it.

    Attributes:
        file: name of the file its events are in; evidence counts that file's lines.
        history: what the rules are judged on.
    """

    file: str
    history: History


@dataclass(frozen=True, slots=True)
class GuestTables:
    """What `klp query` asks of one guest's trace.

    Attributes:
        number: of the guest in its run, from 1.
        legs: transitions in one direction each, oldest first.
        lifetimes: its shadow variables one by one.
        plans, calls: as klp itself told them.
    """

    number: int
    legs: tuple[Leg, ...]
    lifetimes: tuple[ShadowLifetime, ...]
    plans: tuple[ev.Plan, ...]
    calls: tuple[ev.Calls, ...]


def guest_tables(numbered: Iterable[tuple[int, ev.AnyEvent]], *, number: int = 1) -> GuestTables:
    """Return what a guest's numbered events, in the order of time, hold for `klp query`."""
    legs, lifetimes = LegBuilder(), LifetimesBuilder()
    takers = dict.fromkeys(get_args(ev.TransitionEvent), legs.take)
    takers |= dict.fromkeys((ev.ShadowAlloc, ev.ShadowFreed), lifetimes.take)
    plans: list[ev.Plan] = []
    calls: list[ev.Calls] = []
    for line, event in numbered:
        if taker := takers.get(type(event)):
            taker(line, event)
        elif isinstance(event, ev.Plan):
            plans.append(event)
        elif isinstance(event, ev.Calls):
            calls.append(event)
    return GuestTables(number, legs.built(), lifetimes.built(), tuple(plans), tuple(calls))


@dataclass(frozen=True, slots=True)
class GuestTrace:
    """What one guest's trace tells.

    Attributes:
        title: what it is called where several are shown: its run's name, and its number from the second on.
        history: what the rules are judged on.
        lifetimes: its shadow variables one by one.
        attempts: every attempt to switch a task that had not switched, in the order of time; empty where
            nobody asks for them.
        legs: those of the history, in its order.
    """

    title: str
    history: History
    lifetimes: tuple[ShadowLifetime, ...]
    attempts: tuple[ev.Attempt, ...]
    legs: tuple[TracedLeg, ...]


def guest_trace(
    title: str, numbered: Iterable[tuple[int, ev.AnyEvent]], *, attempts: bool = True
) -> GuestTrace:
    """Return what a guest's numbered events tell; they are gone through once, and most of them not kept.

    Args:
        attempts: keep each attempt to switch a task, of which there may be a million.
    """
    # Once, because each is decoded only as it is asked for.
    costs, lifetimes = CostsBuilder(), LifetimesBuilder()
    kept: list[ev.Attempt] = []

    def passing() -> Iterator[tuple[int, ev.AnyEvent]]:
        for line, event in numbered:
            if isinstance(event, ev.Attempt):
                costs.take(event)
                # A pass only looks at a task that has switched already.
                if attempts and event.result != "already":
                    kept.append(event)
            elif isinstance(event, ev.ShadowAlloc | ev.ShadowFreed):
                lifetimes.take(line, event)
            yield line, event

    whole = history(passing())
    return GuestTrace(
        title=title,
        history=whole,
        lifetimes=lifetimes.built(),
        attempts=tuple(kept),
        legs=tuple(
            TracedLeg(leg, transition_of(leg), tasks_left(leg), costs.of(leg)) for leg in whole.legs
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
