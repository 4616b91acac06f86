# SPDX-License-Identifier: Apache-2.0
"""The report page's words for what the trace and run.json call by short names, and its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

PENDING = "left pending"
# By the path on which a task switched; each goes with one task and with many.
SWITCHED = {
    "first pass": "switched in the first pass",
    "retry pass": "switched in a later pass",
    "exit": "switched on the way back to user space",
    "idle": "switched in the idle loop",
    "scheduler": "switched in the scheduler",
    "force": "switched by force",
    "offline": "switched in place, the CPU offline",
    "fork": "born switched",
    "ended": "ended before switching",
    "already": "found switched by a pass",
    PENDING: "never switched",
}
# By the result of an attempt to switch a task.
ATTEMPTS = {
    "switched": "the task switched",
    "sleeping": "it slept in a function that changes",
    "running": "it ran on a CPU",
    "unreliable": "its stack could not be read",
    "refused": "refused, no reason given",
}
_PHASES = {
    "first pass": "the first pass",
    "init": "setting up",
    "patching": "changing functions, callbacks before",
    "signal": "after the signals",
    "completion": "completing, callbacks after",
}
_ACCELERATORS = {"tcg": "emulated (TCG)", "kvm": "with KVM"}
_UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"))
# A number is told by as many digits.
_DIGITS = 3
# As many names are told of a group.
_MOST_NAMES = 3
# Between a number and its unit no line is broken.
_JOINT = "\N{NO-BREAK SPACE}"


def span(duration_ns: float | None) -> str:
    """Return a duration by three digits, for people."""
    if duration_ns is None:
        return "did not end"
    if duration_ns <= 0:
        return f"0{_JOINT}s"
    for size, unit in _UNITS:
        # What would be rounded up to a thousand of the smaller unit is one of this.
        if duration_ns >= size * (1 - 0.5 * 10**-_DIGITS):
            value = duration_ns / size
            whole = 1 + math.floor(math.log10(max(value, 1)))
            return f"{value:.{max(0, _DIGITS - whole)}f}{_JOINT}{unit}"
    return f"{duration_ns:.0f}{_JOINT}ns"


def span_range(low_ns: float, high_ns: float) -> str:
    """Return the least and the greatest of some durations, or the one that all are."""
    low, high = span(low_ns), span(high_ns)
    return low if low == high else f"{low} to {high}"


def quantity(number: int, thing: str) -> str:
    """Return how many things there are: ``1 task``, ``1,240 tasks``."""
    plural = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{number:,} {thing if number == 1 else plural}"


def counted_reasons(found: Mapping[str, int]) -> str:
    """Return why a task was left behind, and how often, for people."""
    return ", ".join(f"{reason} ({quantity(count, 'time')})" for reason, count in found.items())


def named(names: Iterable[str], thing: str = "task") -> str:
    """Return who it was: a name, or how many with the first of their names."""
    every = tuple(names)
    if len(every) == 1:
        return every[0]
    more = f" and {len(every) - _MOST_NAMES} more" if len(every) > _MOST_NAMES else ""
    return f"{quantity(len(every), thing)} ({', '.join(every[:_MOST_NAMES])}{more})"


def phase_words(name: str) -> str:
    """Return what a phase of a transition is; its later passes are counted from 2, as passes are."""
    if name.startswith("retry "):
        return f"pass {int(name.removeprefix('retry ')) + 1}"
    return _PHASES.get(name, name)


def path_words(path: str | None) -> str:
    """Return how a task switched, if it did."""
    return SWITCHED.get(path or PENDING, path or PENDING)


def accelerator_words(name: str) -> str:
    """Return how a guest's instructions were executed."""
    return _ACCELERATORS.get(name, name)


def moment_words(at: float) -> str:
    """Return a moment, seconds since the epoch."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
