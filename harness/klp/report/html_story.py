# SPDX-License-Identifier: Apache-2.0
"""What the report page tells first: what took longest and who held it, what ran, what was left behind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from klp.analysis.exercised import Exercised, exercised
from klp.analysis.result import RunResult
from klp.analysis.transitions import Straggler, Transition
from klp.report.html_data import RunView, TransitionView
from klp.report.html_words import (
    counted_reasons,
    named,
    path_words,
    phase_words,
    quantity,
    span,
    span_range,
)

# As many transitions are told of, and of one as many groups of tasks that held it.
_MOST_TOLD = 5
_MOST_HOLDERS = 3


@dataclass(frozen=True, slots=True)
class Slow:
    """A transition that took long.

    Attributes:
        where: the plan, or the scenario with its kernel, that it was a part of; empty where its own name
            says so.
        view: the transition.
        share: of the longest one's time, in percent: how long its bar is.
        holders: who held it up, for how long and why; or on what its time went.
    """

    where: str
    view: TransitionView
    share: float
    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Story:
    """What is told first of a run or a check.

    Attributes:
        slow: the transitions that took longest, those first that never ended.
        of: how many transitions there were.
        ran: the calls of the new functions, by livepatch and kernel.
        left: what was left behind, a line each.
        clean: what there was that could have been left, in words; told where nothing was.
    """

    slow: tuple[Slow, ...]
    of: int
    ran: tuple[Exercised, ...]
    left: tuple[str, ...]
    clean: str


def run_story(view: RunView) -> Story:
    """Return the story of a run."""
    return _story(
        [(each.plan.title, each.transitions) for each in view.plans], [view], _ran(view.run.whole())
    )


def check_story(runs: Sequence[tuple[str, RunView]], ran: Sequence[Exercised]) -> Story:
    """Return the story of a check: of the runs of its scenarios, each with its name."""
    every = [(where, tuple(one for plan in view.plans for one in plan.transitions)) for where, view in runs]
    return _story(every, [view for _, view in runs], tuple(each for each in ran if each.functions))


def _story(
    named_transitions: Sequence[tuple[str, Sequence[TransitionView]]],
    runs: Sequence[RunView],
    ran: tuple[Exercised, ...],
) -> Story:
    every = [(where, each) for where, own in named_transitions for each in own]
    every.sort(key=lambda each: -_length(each[1].transition))
    longest = max((_length(each.transition) for _, each in every if each.transition.ended_ns), default=1)
    slow = tuple(
        Slow(
            # A plan mostly has its livepatch's name.
            "" if where.replace("-", "_") == each.transition.patch else where,
            each,
            min(100.0, 100 * _length(each.transition) / longest),
            _holders(each.transition),
        )
        for where, each in every[:_MOST_TOLD]
    )
    left = [line for where, each in every for line in _unfinished(where, each.transition)]
    left += [line for view in runs for line in _variables_left(view.run.whole())]
    return Story(slow, len(every), ran, tuple(left), _clean(len(every), runs))


def _length(transition: Transition) -> float:
    return math.inf if transition.duration_ns is None else float(transition.duration_ns)


def _ran(result: RunResult) -> tuple[Exercised, ...]:
    """Return the calls of each livepatch's new functions, those of its repetitions together."""
    plans = dict.fromkeys(each.name for each in result.plans)
    same = [[each for each in result.plans if each.name == name] for name in plans]
    return tuple(
        exercised(result.provenance.title, own[0].name, [(each.title, each.calls) for each in own])
        for own in same
        if any(each.calls for each in own)
    )


def _holders(transition: Transition) -> tuple[str, ...]:
    """Return who held a transition up, tasks that did so alike together; else what its time went on."""
    found: dict[tuple[object, ...], list[Straggler]] = {}
    for each in transition.stragglers:
        alike = (tuple(sorted(each.reasons)), each.switched_by, each.outlook, each.signalled)
        found.setdefault(alike, []).append(each)
    lines = [_holder(each) for each in list(found.values())[:_MOST_HOLDERS]]
    more = sum(len(each) for each in list(found.values())[_MOST_HOLDERS:])
    if lines:
        return (*lines, *([f"and {quantity(more, 'more task')}"] if more else ()))
    phases = sorted(transition.phases, key=lambda each: -each.duration_ns)
    most = f"; {phase_words(phases[0].name)} took {span(phases[0].duration_ns)} of it" if phases else ""
    return (f"no task held it up{most}",)


def _holder(alike: Sequence[Straggler]) -> str:
    held = span_range(*(pick(each.held_ns for each in alike) for pick in (min, max)))
    [first, *more] = alike
    why = ", ".join(sorted(first.reasons)) if more else counted_reasons(first.reasons)
    who = named(f"{each.comm}[{each.pid}]" for each in alike)
    signal = "ended by the kernel's signal: " if first.signalled else ""
    outlook = f": {first.outlook}" if first.outlook else ""
    return f"{who}, {held}: {why}; {signal}{path_words(first.switched_by)}{outlook}"


def _unfinished(where: str, transition: Transition) -> Iterator[str]:
    if transition.ended_ns is None:
        pending = [each for each in transition.stragglers if each.switched_by is None]
        tasks = (
            f": {named(f'{each.comm}[{each.pid}]' for each in pending)} never switched" if pending else ""
        )
        yield f"{where}: {transition.direction} {transition.patch} did not end{tasks}"


def _variables_left(result: RunResult) -> Iterator[str]:
    for plan in result.plans:
        if plan.shadow.left:
            makers = dict.fromkeys(each.caller for each in plan.shadow.left)
            count = quantity(len(plan.shadow.left), "shadow variable")
            yield f"{plan.title}: {count}, made by {named(makers, 'caller')}"


def _clean(transitions: int, runs: Iterable[RunView]) -> str:
    made = sum(plan.shadow.allocated for view in runs for plan in view.run.whole().plans)
    parts = []
    if transitions:
        parts.append(
            "the transition ended" if transitions == 1 else f"all {transitions:,} transitions ended"
        )
    if made:
        parts.append(
            "the shadow variable was freed" if made == 1 else f"all {made:,} shadow variables were freed"
        )
    return ", and ".join(parts)
