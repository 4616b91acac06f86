# SPDX-License-Identifier: Apache-2.0
"""The kernel's own account of its transitions, read from its log: a cross-check of the trace."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from klp.analysis.legs import LegOutcome
from klp.analysis.transitions import Transition

# kernel/livepatch/transition.c and core.c; the wording is the same from 6.1 to 7.2.
_LINES: Mapping[str, re.Pattern[str]] = {
    "patching started": re.compile(r"livepatch: '([^']+)': starting patching transition"),
    "unpatching started": re.compile(r"livepatch: '([^']+)': starting unpatching transition"),
    "patching complete": re.compile(r"livepatch: '([^']+)': patching complete"),
    "unpatching complete": re.compile(r"livepatch: '([^']+)': unpatching complete"),
}


def logged_counts(lines: Iterable[str], patch: str) -> dict[str, int]:
    """Count, for one livepatch, the kernel's lines about transitions, by what they say."""
    counts: Counter[str] = Counter()
    for line in lines:
        for what, pattern in _LINES.items():
            found = pattern.search(line)
            if found and found[1] == patch:
                counts[what] += 1
    return {what: counts[what] for what in _LINES}


def traced_counts(transitions: Iterable[Transition], patch: str) -> dict[str, int]:
    """Count the same from the trace.

    The kernel logs a start for each klp_start_transition, and a completion in the direction it ended
    in: a transition that is cancelled before its start completes as an unpatching one.
    """
    counts: Counter[str] = Counter()
    for each in transitions:
        if each.patch != patch:
            continue
        if each.started:
            counts[f"{each.direction} started"] += 1
        if each.outcome is LegOutcome.COMPLETE:
            counts[f"{each.direction} complete"] += 1
        elif each.outcome is LegOutcome.CANCELLED:
            counts["unpatching complete"] += 1
    return {what: counts[what] for what in _LINES}
