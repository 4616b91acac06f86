# SPDX-License-Identifier: Apache-2.0
"""What mmdebstrap and apt say while they work, as how far they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from klp.images.disk import tree_size

_STAGE = re.compile(r"^I: (.*)\.\.\.$")
_ROOM = re.compile(r"^I: using (/.*) as tempdir$")
# The stages of which mmdebstrap says nothing until they are over; in the second the root comes to us.
_EXTRACTING, _HANDING_OVER = "extracting archives", "creating tarball"
# Such as `Need to get 2,345 kB/30.3 MB of archives`: what it has already is left out of the first number.
_SIZE = r"([\d.,]+) ([kMG]?)B"
_NEED = re.compile(rf"^Need to get {_SIZE}(?:/[\d.,]+ [kMG]?B)? of archives")
_GET = re.compile(rf"^Get:\d+ .*? (\S+) \S+ \S+ \[{_SIZE}\]$")
_INDEX = re.compile(rf"^Get:\d+ .* (InRelease|Release|Packages|Contents) \[{_SIZE}\]$")
_COUNT = re.compile(r"^\d+ upgraded, (\d+) newly installed")
_UNPACKING = re.compile(r"^Unpacking ([^\s:]+)")
_SETTING_UP = re.compile(r"^Setting up ([^\s:]+)")
# As APT::Status-Fd has it: of the bytes that are needed.
_STATUS = re.compile(r"^dlstatus:\d+:([\d.]+):")
# Of so few bytes a megabyte is much.
_FEW = 10e6
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


class AptLines:
    """Folds lines of mmdebstrap --verbose, and says how far it is.

    Args:
        tell: gets words such as ``fetching clang-19: 61 of 240 MB``.
        destination: the folder in which the root is unpacked, if there is one.
    """

    def __init__(self, tell: Callable[[str], None], destination: Path | None = None) -> None:
        self._tell = tell
        self._destination = destination
        self._room: Path | None = None
        self._stage = ""
        self._index = 0.0
        self._need = 0.0
        self._package = ""
        self._asked = 0.0
        self._there = 0.0
        self._exact = False
        self._count = 0
        self._unpacked = 0
        self._set_up = 0

    def take(self, line: str) -> None:
        """Take a line as it comes."""
        if words := self._words(line):
            self._tell(words)

    def look(self) -> None:
        """Say how much is there, in a stage in which mmdebstrap itself is silent."""
        grows = {_EXTRACTING: self._room, _HANDING_OVER: self._destination}.get(self._stage)
        if grows is None:
            return
        with suppress(OSError):  # what was there a moment ago may be gone, and another user's be closed
            self._tell(f"{self._stage}, {tree_size(grows) / 1e6:.0f} MB")

    def _words(self, line: str) -> str:
        said = ""
        if found := _STAGE.match(line):
            said = self._stage = found[1]
        elif found := _ROOM.match(line):
            self._room = Path(found[1])
        elif found := _INDEX.match(line):
            self._index += _bytes(*found.groups()[1:])
            said = f"fetching the archive's lists, {self._index / 1e6:.1f} MB"
        elif found := _NEED.match(line):
            self._begin(_bytes(*found.groups()))
        elif found := _GET.match(line):
            self._package = found[1]
            said = self._fetching(_bytes(*found.groups()[1:]))
        elif found := _STATUS.match(line):
            self._there, self._exact = self._need * float(found[1]) / 100, True
            said = self._so_far()
        elif found := _COUNT.match(line):
            self._count, self._unpacked, self._set_up = int(found[1]), 0, 0
        elif found := _UNPACKING.match(line):
            self._unpacked += 1
            said = f"unpacking {found[1]}{self._of_all(self._unpacked)}"
        elif found := _SETTING_UP.match(line):
            self._set_up += 1
            said = f"setting up {found[1]}{self._of_all(self._set_up)}"
        return said

    def _begin(self, need: float) -> None:
        self._need, self._asked, self._there, self._package = need, 0.0, 0.0, ""
        self._exact = False

    def _fetching(self, size: float) -> str:
        # What was asked for before this is there by now, more or less; apt knows better, where it tells.
        if not self._exact:
            self._there = self._asked
        self._asked += size
        if self._asked <= self._need * 1.01:
            return self._so_far()
        return f"fetching {self._package}, {size / 1e6:.1f} MB"

    def _so_far(self) -> str:
        if not (self._need and self._package):
            return ""
        digits = 1 if self._need < _FEW else 0
        there, need = (f"{each / 1e6:.{digits}f}" for each in (self._there, self._need))
        return f"fetching {self._package}: {there} of {need} MB"

    def _of_all(self, number: int) -> str:
        return f", {number} of {self._count}" if number <= self._count else ""


def _bytes(number: str, unit: str) -> float:
    return float(number.replace(",", "")) * _UNITS[unit]
