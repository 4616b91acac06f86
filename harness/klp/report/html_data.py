# SPDX-License-Identifier: Apache-2.0
"""What the report page shows of runs: which plans and transitions, and the numbers of their figures.

Times in figures are seconds since the beginning of what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from klp.analysis.costs import Cost
from klp.analysis.evidence import overall
from klp.analysis.legs import Leg, TaskSwitch
from klp.analysis.recording import GuestTrace, RecordedRun, TracedLeg
from klp.analysis.result import PlanResult
from klp.analysis.transitions import Transition

# More bars than this make a figure that no browser draws in reasonable time, and nobody reads.
MOST_BARS = 400
PENDING = "left pending"
# As many transitions of a plan are drawn, the longest ones: a scenario may have a hundred.
MOST_FIGURES = 12


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """A task's wait, from the transition's start to its switch; or a shadow variable's lifetime."""

    label: str
    kind: str
    begin_s: float
    end_s: float
    words: str


class PassMark(msgspec.Struct, frozen=True, kw_only=True):
    """A pass: when it began, how long it took, and how many tasks it left."""

    number: int
    begin_s: float
    duration_s: float
    left: int


class TransitionFigure(msgspec.Struct, frozen=True, kw_only=True):
    """What is drawn of one transition."""

    tasks: tuple[Bar, ...]
    seen: int
    passes: tuple[PassMark, ...]
    signals_s: tuple[float, ...]
    curve: tuple[tuple[float, int], ...]
    costs: tuple[Cost, ...]


class LifetimesFigure(msgspec.Struct, frozen=True, kw_only=True):
    """The shadow variables of one guest."""

    lifetimes: tuple[Bar, ...]
    seen: int


@dataclass(frozen=True, slots=True)
class TransitionView:
    """A transition of run.json, with its figure where the trace has it; or why there is none."""

    key: str
    transition: Transition
    figure: TransitionFigure | None
    why_not: str = "The trace does not hold this transition."


@dataclass(frozen=True, slots=True)
class PlanView:
    """A plan of run.json with its transitions; `key` is its anchor in the page."""

    key: str
    plan: PlanResult
    transitions: tuple[TransitionView, ...]


@dataclass(frozen=True, slots=True)
class RunView:
    """A run with its plans.

    Attributes:
        key: its anchor in the page.
        others: transitions of livepatches that are not a plan's own, but what it needs.
        lifetimes: its guests' shadow variables.
    """

    key: str
    run: RecordedRun
    plans: tuple[PlanView, ...]
    others: tuple[TransitionView, ...]
    lifetimes: tuple[tuple[str, LifetimesFigure], ...]

    @property
    def transitions(self) -> tuple[TransitionView, ...]:
        """Every transition in it."""
        return (*(each for plan in self.plans for each in plan.transitions), *self.others)

    def of(self, plan: str) -> tuple[PlanView, ...]:
        """Return the repetitions of a plan, those with the plan's verdict over all of them first."""
        own = [each for each in self.plans if each.plan.name == plan]
        verdict = overall(each.plan.verdict for each in own)
        return tuple(sorted(own, key=lambda each: each.plan.verdict is not verdict))


def run_view(key: str, run: RecordedRun) -> RunView:
    """Return what the page shows of a run, with `key` before every anchor in it."""
    plans = tuple(
        PlanView(f"{key}-plan{index}", plan, tuple(_transitions(f"{key}-plan{index}", plan, run)))
        for index, plan in enumerate(run.whole().plans, 1)
    )
    lifetimes = tuple(
        (f"{key}-lifetimes{index}", _lifetimes(guest))
        for index, guest in enumerate(run.guests, 1)
        if guest.lifetimes
    )
    return RunView(key, run, plans, tuple(_others(key, run)), lifetimes)


def _others(key: str, run: RecordedRun) -> Iterator[TransitionView]:
    own = {(each.patch, each.begun_ns) for plan in run.whole().plans for each in plan.transitions}
    every = (each for guest in run.guests for each in guest.legs)
    for number, each in enumerate(every, 1):
        if (each.leg.patch, each.leg.begun_ns) not in own:
            yield TransitionView(f"{key}-other{number}", each.transition, _figure(each))


def _transitions(key: str, plan: PlanResult, run: RecordedRun) -> Iterator[TransitionView]:
    # The plan's own guest last, to win: guests restored from one state share its clock, and may have
    # transitions of equal name and time.
    guests = sorted(enumerate(run.guests, 1), key=lambda each: each[0] == plan.guest)
    drawn = {(each.leg.patch, each.leg.begun_ns): each for _, guest in guests for each in guest.legs}
    longest = sorted(plan.transitions, key=lambda each: -(each.duration_ns or 0))[:MOST_FIGURES]
    why = f"Drawn are the {MOST_FIGURES} of {len(plan.transitions)} transitions that took longest."
    for number, each in enumerate(plan.transitions, 1):
        found = drawn.get((each.patch, each.begun_ns))
        if each in longest:
            yield TransitionView(f"{key}-transition{number}", each, _figure(found) if found else None)
        else:
            yield TransitionView(f"{key}-transition{number}", each, None, why)


def _figure(traced: TracedLeg) -> TransitionFigure:
    leg = traced.leg
    # A forked task begins with its parent's state: it waited for nothing, however late it was born.
    longest = sorted(leg.tasks, key=lambda each: (each.path == "fork", -each.at_ns))[:MOST_BARS]
    return TransitionFigure(
        tasks=tuple(_task_bar(leg, each) for each in longest),
        seen=len(leg.tasks),
        passes=tuple(
            PassMark(
                number=each.number,
                begin_s=_since(leg, each.ts_ns),
                duration_s=each.duration_ns / 1e9,
                left=each.left,
            )
            for _, each in leg.passes
        ),
        signals_s=tuple(_since(leg, each.ts_ns) for _, each in leg.signals),
        curve=tuple((_since(leg, ts_ns), left) for ts_ns, left in traced.tasks_left),
        costs=traced.costs,
    )


def _since(leg: Leg, ts_ns: int) -> float:
    return (ts_ns - leg.begun_ns) / 1e9


def _task_bar(leg: Leg, task: TaskSwitch) -> Bar:
    begun = leg.started[1].ts_ns if leg.started else leg.begun_ns
    born = task.path == "fork"
    return Bar(
        label=f"{task.comm}[{task.pid}]",
        kind=task.path or PENDING,
        begin_s=_since(leg, task.at_ns if born else min(begun, task.at_ns)),
        end_s=_since(leg, task.at_ns),
        words=counted_reasons(task.reasons),
    )


def _lifetimes(guest: GuestTrace) -> LifetimesFigure:
    begun, end = guest.history.first_ns, guest.history.last_ns
    bars = [
        Bar(
            label=f"<{each.obj}, {each.id}> {index}",
            kind="freed" if each.freed_ns is not None else "left",
            begin_s=((each.made_ns or begun) - begun) / 1e9,
            end_s=((each.freed_ns or end) - begun) / 1e9,
            words=f"{each.size} bytes, by {each.caller}" if each.caller else "made before the trace",
        )
        for index, each in enumerate(guest.lifetimes, 1)
    ]
    return LifetimesFigure(lifetimes=tuple(bars[:MOST_BARS]), seen=len(bars))


def seconds(duration_ns: int | None) -> str:
    """Return a duration in seconds, for people."""
    if duration_ns is None:
        return "not ended"
    return f"{duration_ns / 1e9:.{3 if duration_ns >= 10_000_000 else 6}f}"


def counted_reasons(found: Mapping[str, int]) -> str:
    """Return why a task was left behind, and how often, for people."""
    return ", ".join(f"{reason} ({count} time{'s' * (count > 1)})" for reason, count in found.items())
