# SPDX-License-Identifier: Apache-2.0
"""Transitions as the kernel log alone tells them: what is known of a guest without probes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import msgspec

_LINE = re.compile(
    r"^\[\s*(?P<at>\d+\.\d+)\] livepatch: '(?P<patch>[^']+)': "
    r"(?:starting (?P<begun>patching|unpatching) transition|(?P<ended>patching|unpatching) complete)"
)
# The work function asks for the next try in round_jiffies_relative(HZ): the first comes a quarter of a
# second to one and a quarter after the start, each further one a second later.
_EARLIEST_RETRY_S = 0.24


class LoggedTransition(msgspec.Struct, frozen=True, kw_only=True):
    """A transition from its line ``starting … transition`` to its line ``… complete``.

    Attributes:
        target: 1 patching, 0 unpatching.
        begun_s, ended_s: the log's time stamps.
    """

    patch: str
    target: int
    begun_s: float
    ended_s: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended_s - self.begun_s

    @property
    def passes(self) -> int:
        """Calls of klp_try_complete_transition, told from the time (kernel/livepatch/transition.c)."""
        if self.seconds < _EARLIEST_RETRY_S:
            return 1
        return 2 + math.floor(self.seconds - _EARLIEST_RETRY_S)


def logged_transitions(lines: Iterable[str]) -> tuple[LoggedTransition, ...]:
    """Return the transitions that the kernel log shows from beginning to end in one direction."""
    found: list[LoggedTransition] = []
    running: dict[tuple[str, str], float] = {}
    for line in lines:
        match = _LINE.match(line)
        if not match:
            continue
        key = (match["patch"], match["begun"] or match["ended"])
        if match["begun"]:
            running = {key: float(match["at"])}
        elif key in running:
            target = int(match["ended"] == "patching")
            begun = running.pop(key)
            found.append(
                LoggedTransition(patch=key[0], target=target, begun_s=begun, ended_s=float(match["at"]))
            )
    return tuple(found)
