# SPDX-License-Identifier: Apache-2.0
"""Reports in a kernel log, and which of them a test said it would cause. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from klp.klog.reports import reports


@dataclass(frozen=True, slots=True)
class Expected:
    """A line the kernel log must gain, and why.

    Attributes:
        pattern: found (`re.search`) in a line.
        reason: why it is no fault.
    """

    pattern: str
    reason: str

    def matches(self, lines: Iterable[str]) -> bool:
        """Whether one of `lines` has it."""
        return any(re.search(self.pattern, line) for line in lines)


def unexpected(lines: Sequence[str], expected: Iterable[Expected]) -> tuple[tuple[str, ...], ...]:
    """Return the reports of which no line was expected."""
    known = tuple(expected)
    return tuple(each for each in reports(lines) if not any(one.matches(each) for one in known))


def reasons(lines: Sequence[str], expected: Iterable[Expected]) -> dict[str, str]:
    """Return why it is no fault, for each line that was expected and all that belongs to its report."""
    found: dict[str, str] = {}
    blocks = (*reports(lines), *((line,) for line in lines))
    for one in expected:
        for block in blocks:
            if one.matches(block):
                found |= dict.fromkeys(block, one.reason)
    return found


def missing(lines: Sequence[str], expected: Iterable[Expected]) -> tuple[Expected, ...]:
    """Return what was expected and did not come."""
    return tuple(each for each in expected if not each.matches(lines))
