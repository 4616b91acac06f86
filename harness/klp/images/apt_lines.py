# SPDX-License-Identifier: Apache-2.0
"""What mmdebstrap and apt say while they work, as how far they are."""

from __future__ import annotations

import re
from collections.abc import Callable

_STAGE = re.compile(r"^I: (.*)\.\.\.$")
# Such as `Need to get 2,345 kB/30.3 MB of archives`: what it has already is left out of the first number.
_SIZE = r"([\d.,]+) ([kMG]?)B"
_NEED = re.compile(rf"^Need to get (?:[\d.,]+ [kMG]?B/)?{_SIZE} of archives")
_GET = re.compile(rf"^Get:\d+ .*? (\S+) \S+ \S+ \[{_SIZE}\]$")
_INDEX = re.compile(rf"^Get:\d+ .* (InRelease|Release|Packages|Contents) \[{_SIZE}\]$")
_COUNT = re.compile(r"^\d+ upgraded, (\d+) newly installed")
_UNPACKING = re.compile(r"^Unpacking ([^\s:]+)")
_SETTING_UP = re.compile(r"^Setting up ([^\s:]+)")
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


class AptLines:
    """Folds lines of mmdebstrap --verbose, and says how far it is.

    Args:
        tell: gets words such as ``fetching clang-19: 61 of 240 MB``.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._index = 0.0
        self._need = 0.0
        self._got = 0.0
        self._count = 0
        self._unpacked = 0
        self._set_up = 0

    def take(self, line: str) -> None:
        """Take a line as it comes."""
        if words := self._words(line):
            self._tell(words)

    def _words(self, line: str) -> str:
        if found := _STAGE.match(line):
            return found[1]
        if found := _INDEX.match(line):
            self._index += _bytes(*found.groups()[1:])
            return f"fetching the archive's lists, {self._index / 1e6:.1f} MB"
        if found := _NEED.match(line):
            self._need, self._got = _bytes(*found.groups()), 0.0
        elif found := _GET.match(line):
            return self._fetching(found[1], _bytes(*found.groups()[1:]))
        elif found := _COUNT.match(line):
            self._count, self._unpacked, self._set_up = int(found[1]), 0, 0
        elif found := _UNPACKING.match(line):
            self._unpacked += 1
            return f"unpacking {found[1]}{self._of_all(self._unpacked)}"
        elif found := _SETTING_UP.match(line):
            self._set_up += 1
            return f"setting up {found[1]}{self._of_all(self._set_up)}"
        return ""

    def _fetching(self, package: str, size: float) -> str:
        before, self._got = self._got, self._got + size
        if self._need and self._got <= self._need * 1.01:
            return f"fetching {package}: {before / 1e6:.0f} of {self._need / 1e6:.0f} MB are there"
        return f"fetching {package}, {size / 1e6:.1f} MB"

    def _of_all(self, number: int) -> str:
        return f", {number} of {self._count}" if number <= self._count else ""


def _bytes(number: str, unit: str) -> float:
    return float(number.replace(",", "")) * _UNITS[unit]
