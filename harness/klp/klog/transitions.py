# SPDX-License-Identifier: Apache-2.0
"""Transitions as the kernel log alone tells them: what is known of a guest without probes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

# What makes the kernel say which task a pass left behind: for /sys/kernel/debug/dynamic_debug/control. For
# guests without probes only, which have few tasks: printed for very many, it has locked machines up.
PASSES_TOLD_BY = "file kernel/livepatch/transition.c func klp_try_switch_task +p"
# The function's name is part of the message (pr_debug("%s: …", __func__)), not a flag of dynamic debug.
_LINE = re.compile(
    r"^\[\s*(?P<at>\d+\.\d+)\] livepatch: "
    r"(?:'(?P<patch>[^']+)': (?:starting (?P<begun>patching|unpatching) transition"
    r"|(?P<ended>patching|unpatching) complete)|klp_try_switch_task: (?P<task>.+:\d+) (?:is|has) )"
)
# kernel/livepatch/transition.c and core.c; the wording is the same from 6.1 to 7.2.
_COUNTED: Mapping[str, re.Pattern[str]] = {
    "patching started": re.compile(r"livepatch: '([^']+)': starting patching transition"),
    "unpatching started": re.compile(r"livepatch: '([^']+)': starting unpatching transition"),
    "patching complete": re.compile(r"livepatch: '([^']+)': patching complete"),
    "unpatching complete": re.compile(r"livepatch: '([^']+)': unpatching complete"),
}
# What `logged_counts` counts, in its order.
COUNTED = tuple(_COUNTED)
# Passes are about a second apart: klp_try_complete_transition() calls
# schedule_delayed_work(&klp_transition_work, round_jiffies_relative(HZ)).
_ANOTHER_PASS_S = 0.8


class LoggedTransition(msgspec.Struct, frozen=True, kw_only=True):
    """A transition from its line ``starting … transition`` to its line ``… complete``.

    Attributes:
        target: 1 patching, 0 unpatching.
        begun_s, ended_s: the log's time stamps.
        passes: calls of klp_try_complete_transition: the one that completed it, and those that named the
            tasks they left behind. The kernel names them with `PASSES_TOLD_BY` only; without, it is 1.
    """

    patch: str
    target: int
    begun_s: float
    ended_s: float
    passes: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended_s - self.begun_s


def logged_transitions(lines: Iterable[str]) -> tuple[LoggedTransition, ...]:
    """Return the transitions that the kernel log shows from beginning to end in one direction."""
    found: list[LoggedTransition] = []
    running: _Running | None = None
    for line in lines:
        match = _LINE.match(line)
        if not match:
            continue
        at_s = float(match["at"])
        if match["begun"]:
            running = _Running(match["patch"], match["begun"], at_s)
        elif running and match["task"]:
            running.left_behind(match["task"], at_s)
        elif running and (match["patch"], match["ended"]) == (running.patch, running.direction):
            found.append(running.ended(at_s))
            running = None
    return tuple(found)


def logged_counts(lines: Iterable[str], patch: str) -> dict[str, int]:
    """Count, for one livepatch, the kernel's lines about transitions, by what they say."""
    counts: Counter[str] = Counter()
    for line in lines:
        for what, pattern in _COUNTED.items():
            found = pattern.search(line)
            if found and found[1] == patch:
                counts[what] += 1
    return {what: counts[what] for what in COUNTED}


class _Running:
    """A transition whose end has not been read yet."""

    def __init__(self, patch: str, direction: str, at_s: float) -> None:
        self.patch = patch
        self.direction = direction
        self._begun_s = self._last_s = at_s
        self._failed_passes = 0
        self._told: set[str] = set()

    def left_behind(self, task: str, at_s: float) -> None:
        """Add a line on a task; a pass tries each task once, so one told again is told by another pass."""
        if task in self._told or not self._told or at_s - self._last_s > _ANOTHER_PASS_S:
            self._failed_passes += 1
            self._told.clear()
        self._told.add(task)
        self._last_s = at_s

    def ended(self, at_s: float) -> LoggedTransition:
        """Return it, now that it has ended."""
        target = int(self.direction == "patching")
        return LoggedTransition(
            patch=self.patch, target=target, begun_s=self._begun_s, ended_s=at_s,
            passes=self._failed_passes + 1,
        )  # fmt: skip
