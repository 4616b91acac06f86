# SPDX-License-Identifier: Apache-2.0
"""Timelines of the report page: lanes below one time axis, drawn by the page's own markup and style.

Where things stand is told in percent of the timeline's length, so that a page fits any window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from klp.analysis.legs import Leg, TaskSwitch
from klp.analysis.lifetimes import ShadowLifetime
from klp.analysis.recording import GuestTrace, TracedLeg
from klp.report.html_words import PENDING, counted_reasons, path_words, quantity, span, span_range

# What no browser draws in reasonable time, and nobody reads.
MOST_LANES = 40
MOST_NAMES = 400
_TICKS = 5
# Where a mark would stand on another, one is drawn.
_GRAIN = 0.2
# How wide "pass 1" is in a narrow window, and a number, in percent.
_ROOM_FOR_WORDS, _ROOM_FOR_NUMBER = 12.0, 6.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A time on the axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class PassStrip:
    """A pass of the transition; `label` is empty where there is no room for its number."""

    at: float
    width: float
    label: str
    words: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One row: tasks that did the same, or shadow variables that one caller made.

    Attributes:
        kind: the path on which tasks switched, or ``freed`` or ``left``; its colour.
        count: how many are in it.
        who: which task, or how many.
        did: what became of them, and when.
        why: why tasks were left behind before; empty where they were not.
        names: of each, at most `MOST_NAMES`.
        stretches: begin and width of what lasted.
        moments: of each switch.
    """

    kind: str
    count: int
    who: str
    did: str
    why: str
    names: tuple[str, ...]
    stretches: tuple[tuple[float, float], ...]
    moments: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Timeline:
    """Lanes below a time axis.

    Attributes:
        ticks: of the axis.
        lanes: the rows; of more than `MOST_LANES`, those that took longest.
        unshown: how many tasks or variables are in no lane for that.
        passes, signals: of a transition.
        curve: an SVG path of the tasks left over time, in a square of 100; empty where there is none.
        left: how many tasks were left at first and at last.
    """

    ticks: tuple[Tick, ...]
    lanes: tuple[Lane, ...]
    unshown: int = 0
    passes: tuple[PassStrip, ...] = ()
    signals: tuple[float, ...] = ()
    curve: str = ""
    left: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class _Scale:
    """The stretch of the guest's clock that a timeline shows."""

    begun_ns: int
    length_ns: int

    def at(self, ts_ns: int) -> float:
        """Return where a moment stands."""
        return round(min(max(100 * (ts_ns - self.begun_ns) / self.length_ns, 0), 100), 2)

    def stretch(self, begun_ns: int, ended_ns: int) -> tuple[float, float]:
        """Return where something begins, and how wide it is."""
        begun = self.at(begun_ns)
        return begun, round(self.at(ended_ns) - begun, 2)

    def ticks(self) -> tuple[Tick, ...]:
        """Return round times, from 0."""
        rough = self.length_ns / _TICKS
        power = 10 ** math.floor(math.log10(rough))
        step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough)
        size, unit = next(
            (s, u) for s, u in ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns")) if step * 2 >= s
        )
        times = (number * step for number in range(int(self.length_ns / step) + 1))
        return tuple(
            Tick(round(100 * each / self.length_ns, 2), f"{each / size:g} {unit}" if each else "0")
            for each in times
        )


def transition_timeline(traced: TracedLeg) -> Timeline:
    """Return a transition's timeline: passes, the tasks left, a lane for tasks that did the same."""
    leg = traced.leg
    every = [leg.last_ns, leg.ended_ns or 0, *(each.ts_ns + each.duration_ns for _, each in leg.passes)]
    scale = _Scale(leg.begun_ns, max(1, max(every) - leg.begun_ns))
    groups = sorted(_alike(leg.tasks), key=_urgency)
    return Timeline(
        ticks=scale.ticks(),
        lanes=tuple(_lane_of_tasks(leg, scale, each) for each in groups[:MOST_LANES]),
        unshown=sum(len(each) for each in groups[MOST_LANES:]),
        passes=tuple(_strips(leg, scale)),
        signals=tuple(scale.at(each.ts_ns) for _, each in leg.signals),
        curve=_curve(traced.tasks_left, scale),
        left=(traced.tasks_left[0][1], traced.tasks_left[-1][1]) if traced.tasks_left else (0, 0),
    )


def _alike(tasks: Iterable[TaskSwitch]) -> Iterable[Sequence[TaskSwitch]]:
    """Return tasks together that switched on the same path, after they were left behind for the same."""
    found: dict[tuple[str | None, tuple[str, ...]], list[TaskSwitch]] = {}
    for each in tasks:
        found.setdefault((each.path, tuple(sorted(each.reasons))), []).append(each)
    return found.values()


def _urgency(group: Sequence[TaskSwitch]) -> tuple[bool, bool, int]:
    """Order lanes: who held the transition up, longest first, then the others; last who waited for nothing.

    A forked task begins with its parent's state, however late it was born.
    """
    waited = any(each.attempts or each.path is None for each in group)
    return (group[0].path == "fork", not waited, -max(each.at_ns for each in group))


def _lane_of_tasks(leg: Leg, scale: _Scale, group: Sequence[TaskSwitch]) -> Lane:
    late_first = sorted(group, key=lambda each: -each.at_ns)
    last = late_first[0]
    times = [each.at_ns - leg.begun_ns for each in group]
    begun = leg.started[1].ts_ns if leg.started else leg.begun_ns
    when = span_range(min(times), max(times))
    names = tuple(f"{each.comm}[{each.pid}]" for each in late_first[:MOST_NAMES])
    return Lane(
        kind=last.path or PENDING,
        count=len(group),
        who=names[0] if len(group) == 1 else quantity(len(group), "task"),
        did=f"{path_words(last.path)}, {'after' if last.path else 'last seen after'} {when}",
        why=_reasons(group),
        names=names,
        stretches=() if last.path == "fork" else (scale.stretch(min(begun, last.at_ns), last.at_ns),),
        moments=_apart(scale.at(each.at_ns) for each in group),
    )


def _reasons(group: Sequence[TaskSwitch]) -> str:
    """Return why tasks were left behind; how often only of one, for others were so at other times."""
    [first, *more] = group
    return ", ".join(sorted(first.reasons)) if more else counted_reasons(first.reasons)


def _apart(moments: Iterable[float]) -> tuple[float, ...]:
    return tuple(sorted({round(round(each / _GRAIN) * _GRAIN, 2) for each in moments}))


def _strips(leg: Leg, scale: _Scale) -> Iterator[PassStrip]:
    taken = 0.0
    starts = [scale.at(each.ts_ns) for _, each in leg.passes]
    for (_, each), at, after in zip(leg.passes, starts, [*starts[1:], 100.0], strict=True):
        _, width = scale.stretch(each.ts_ns, each.ts_ns + each.duration_ns)
        label = f"pass {each.number}" if after - at >= _ROOM_FOR_WORDS else f"{each.number}"
        words = f"pass {each.number}, {span(each.duration_ns)}: {quantity(each.left, 'task')} left"
        yield PassStrip(at, width, label if at >= taken else "", words)
        if at >= taken:
            taken = at + _ROOM_FOR_NUMBER


def _curve(points: Sequence[tuple[int, int]], scale: _Scale) -> str:
    """Return the steps of the tasks left, closed at the bottom so that they can be filled."""
    most = max((left for _, left in points), default=0)
    if not most:
        return ""
    steps = [(scale.at(ts_ns), round(100 - 100 * left / most, 1)) for ts_ns, left in points]
    drawn = " ".join(f"H{at} V{height}" for at, height in steps)
    return f"M{steps[0][0]} 100 {drawn} H100 V100 Z"


def lifetimes_timeline(guest: GuestTrace) -> Timeline | None:
    """Return a guest's shadow variables, a lane for those of one caller; None where there are none."""
    history = guest.history
    if not guest.lifetimes:
        return None
    scale = _Scale(history.first_ns, max(1, history.last_ns - history.first_ns))
    found: dict[tuple[int, str, bool], list[ShadowLifetime]] = {}
    for each in guest.lifetimes:
        maker = (each.caller or "").partition("+")[0]
        found.setdefault((each.id, maker, each.freed_ns is None), []).append(each)
    # What was left first, for it is a leak until it is told otherwise.
    groups = sorted(found.items(), key=lambda each: (not each[0][2], -len(each[1])))
    return Timeline(
        ticks=scale.ticks(),
        lanes=tuple(
            _lane_of_variables(guest, scale, maker, own) for (_, maker, _), own in groups[:MOST_LANES]
        ),
        unshown=sum(len(own) for _, own in groups[MOST_LANES:]),
    )


def _lane_of_variables(
    guest: GuestTrace, scale: _Scale, maker: str, group: Sequence[ShadowLifetime]
) -> Lane:
    begun, end = guest.history.first_ns, guest.history.last_ns
    left = group[0].freed_ns is None
    lives = [(each.made_ns or begun, each.freed_ns or end) for each in group]
    lived = span_range(*(pick(until - made for made, until in lives) for pick in (min, max)))
    became = "not freed within the trace" if left else f"freed after {lived}"
    by = f"made by {maker}" if maker else "made before the trace"
    shown = [
        f"<{each.obj}, {each.id}> {each.size if each.size is not None else '?'} bytes"
        for each in group[:MOST_NAMES]
    ]
    return Lane(
        kind="left" if left else "freed",
        count=len(group),
        who=f"{quantity(len(group), 'variable')} of id {group[0].id}",
        did=f"{by}, {became}",
        why="",
        names=tuple(shown),
        stretches=tuple(dict.fromkeys(scale.stretch(*each) for each in lives[:MOST_NAMES])),
    )
