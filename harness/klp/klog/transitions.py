# SPDX-License-Identifier: Apache-2.0
"""Transitions as the kernel log alone tells them: what is known of a guest without probes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

# What makes the kernel say which task a pass left behind, and (t) the id of the thread that says so: for
# /sys/kernel/debug/dynamic_debug/control. For guests without probes only, which have few tasks: printed for
# very many, it has locked machines up.
PASSES_TOLD_BY = "file kernel/livepatch/transition.c func klp_try_switch_task +pt"
# The function's name is part of the message (pr_debug("%s: …", __func__)), not a flag of dynamic debug.
_LINE = re.compile(
    r"^\[\s*(?P<at>\d+\.\d+)\] (?:\[(?P<by>\d+)\] )?livepatch: "
    r"(?:'(?P<patch>[^']+)': (?:starting (?P<begun>patching|unpatching) transition"
    r"|(?P<ended>patching|unpatching) complete)|klp_try_switch_task: (?P<task>.+:(?P<pid>\d+)) (?:is|has) )"
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
# schedule_delayed_work(&klp_transition_work, round_jiffies_relative(HZ)), which is 0.75 s at least; less
# by the clock of an emulated guest, which catches up after it stood still.
_ANOTHER_PASS_S = 0.4


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
        elif running and match["task"] and match["by"] != match["pid"]:
            # A task that tells of itself was tried by the scheduler, __klp_sched_try_switch(): in no pass.
            running.left_behind(match["task"], match["by"], at_s)
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
        self._told: list[str] = []
        self._by: str | None = None

    def left_behind(self, task: str, by: str | None, at_s: float) -> None:
        """Add a line on a task, told by the thread `by`, if that is known."""
        if self._another_pass(task, by) or at_s - self._last_s > _ANOTHER_PASS_S:
            self._failed_passes += 1
            self._told.clear()
        self._told.append(task)
        self._by, self._last_s = by, at_s

    def _another_pass(self, task: str, by: str | None) -> bool:
        """Whether a line is not of the same pass as that before it.

        A pass is made by one thread, tries each task once, and the idle tasks (id 0) after all others.
        """
        idle_before = bool(self._told) and self._told[-1].endswith(":0")
        return (
            not self._told
            or task in self._told
            or by != self._by
            or (idle_before and not task.endswith(":0"))
        )

    def ended(self, at_s: float) -> LoggedTransition:
        """Return it, now that it has ended."""
        target = int(self.direction == "patching")
        return LoggedTransition(
            patch=self.patch, target=target, begun_s=self._begun_s, ended_s=at_s,
            passes=self._failed_passes + 1,
        )  # fmt: skip
