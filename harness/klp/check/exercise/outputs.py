# SPDX-License-Identifier: Apache-2.0
"""What a workload prints, compared with what it printed before; what varies by itself is left out. Pure.

Lines are compared. A number that varied between the runs before loading stands for all numbers of that
output: of what counts, one number more than that may move next time. A line whose words varied is not
compared, and of an output whose lines varied in number only whether there was any.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")
_ANY = "…"


@dataclass(frozen=True, slots=True)
class UnusualLine:
    """A line that is not what it was; either is empty where there is no such line."""

    before: str
    now: str

    @property
    def words(self) -> str:
        """Both, shortened around the place where they part."""
        start = next(
            (at for at, pair in enumerate(zip(self.before, self.now, strict=False)) if len(set(pair)) > 1),
            min(len(self.before), len(self.now)),
        )
        before, now = (_around(each, start) for each in (self.before, self.now))
        return f"{now!r}, not {before!r} as before it was loaded"


def _around(line: str, start: int) -> str:
    first = max(0, start - 40) if len(line) > 80 else 0
    return line[first : first + 80]


@dataclass(frozen=True, slots=True)
class UsualOutput:
    """What several runs before loading had in common.

    Attributes:
        lines: as they were, `_ANY` for one that varies; None where their number varied.
        numbers: whether numbers are compared.
        any: whether something was printed.
    """

    lines: tuple[str, ...] | None
    numbers: bool
    any: bool

    def difference(self, output: str) -> UnusualLine | None:
        """Return the first line that is not as it was, if any is."""
        found = output.splitlines()
        if self.lines is None:
            return None if bool(found) == self.any else UnusualLine("", "\n".join(found[:1]))
        for number in range(max(len(self.lines), len(found))):
            before = self.lines[number] if number < len(self.lines) else ""
            now = found[number] if number < len(found) else ""
            if before is not _ANY and self._shown(before) != self._shown(now):
                return UnusualLine(before, now)
        return None

    def _shown(self, line: str) -> str:
        return line if self.numbers else masked(line)


def masked(line: str) -> str:
    """Return a line with its numbers left out, and spaces that align them."""
    return re.sub(r"\s+", " ", _NUMBER.sub("0", line)).strip()


def usual_output(outputs: Sequence[str]) -> UsualOutput:
    """Return what outputs of the same workload have in common."""
    runs = [each.splitlines() for each in outputs]
    any_at_all = any(runs)
    if len({len(each) for each in runs}) > 1:
        return UsualOutput(None, False, any_at_all)
    numbers = True
    lines = []
    for versions in zip(*runs, strict=True):
        alike = len(set(versions)) == 1
        numbers = numbers and (alike or len({masked(each) for each in versions}) > 1)
        lines.append(versions[0] if alike or len({masked(each) for each in versions}) == 1 else _ANY)
    return UsualOutput(tuple(lines), numbers, any_at_all)
