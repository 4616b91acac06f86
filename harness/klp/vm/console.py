# SPDX-License-Identifier: Apache-2.0
"""The guest's serial console, as the file QEMU writes it to from the first byte."""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from klp.errors import Category, CrashReport
from klp.klog import crash
from klp.klog.lines import without_stamp

# Said by vm-images/guest/init, or by the kernel when it cannot go on.
_BOOT_FAILURE = re.compile(r"klp: boot failed: (.*)")
_PANIC = re.compile(r"Kernel panic - not syncing: (.*)")
# dropbear says so itself (-E) once it listens. An earlier connection would be accepted by QEMU's user
# network, which knows nothing of the guest's ports, and hang until the banner's time-out.
_READY = re.compile(r"^\[\d+\] .* Not backgrounding$")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@dataclass(frozen=True, slots=True)
class ReportStart:
    """A line that begins a report of the kernel's: of a panic, an oops, a lockup, a stall.

    Attributes:
        panics: the kernel ended with it.
    """

    line: int
    category: Category
    panics: bool


class Console:
    """Follows a console file. It is asked fifty times a second, so it reads only what is new."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = 0
        # Incremental, for QEMU may have written half a character so far.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lines: list[str] = [""]
        self._ready = False
        self._panic: str | None = None
        self._boot_failure: str | None = None
        self._starts: list[ReportStart] = []

    def _catch_up(self) -> None:
        try:
            if self._file.stat().st_size == self._read:
                return
            with self._file.open("rb") as stream:
                stream.seek(self._read)
                fresh = stream.read()
        except FileNotFoundError:
            return
        self._read += len(fresh)
        begun = len(self._lines) - 1
        text = self._lines[-1] + self._decoder.decode(fresh)
        self._lines[-1:] = [_ESCAPES.sub("", line) for line in text.split("\n")]
        # The last line may be half a line; it is looked at again when it has grown.
        for number, line in enumerate(self._lines[begun:-1], begun):
            self._look_at(line)
            category = crash.begins(line)
            if category:
                self._starts.append(ReportStart(number, category, crash.is_panic(line)))

    def _look_at(self, line: str) -> None:
        self._ready = self._ready or bool(_READY.search(line))
        panic, failure = _PANIC.match(without_stamp(line)), _BOOT_FAILURE.search(line)
        if panic and self._panic is None:
            self._panic = panic[1].strip()
        if failure and self._boot_failure is None:
            self._boot_failure = failure[1].strip()

    def text(self) -> str:
        """Return all of it so far, without terminal escapes."""
        self._catch_up()
        return "\n".join(self._lines)

    def tail(self, count: int = 15) -> tuple[str, ...]:
        """Return the last `count` lines that are not empty."""
        self._catch_up()
        return tuple(line for line in self._lines if line.strip())[-count:]

    def ready(self) -> bool:
        """Whether the SSH server in the guest listens."""
        self._catch_up()
        return self._ready

    def panic(self) -> str | None:
        """Return the kernel's own word for its panic, or None."""
        self._catch_up()
        return self._panic

    def boot_failure(self) -> str | None:
        """Return why the guest's init gave up, or None."""
        self._catch_up()
        return self._boot_failure

    def quiet_s(self) -> float:
        """Return the seconds since the guest last said anything, by the host's clock."""
        try:
            return max(0.0, time.time() - self._file.stat().st_mtime)
        except FileNotFoundError:
            return 0.0

    def loss(self, fatal: Collection[Category]) -> ReportStart | None:
        """Return where the first report begins that a guest does not survive, or None.

        Args:
            fatal: categories that count as such; a panic always does.
        """
        self._catch_up()
        found = next((each for each in self._starts if each.panics or each.category in fatal), None)
        if found is None or not found.panics:
            return found
        # A kernel told to panic on a hung task reports the task first, and that is what tells who hung.
        earlier = [each for each in self._starts if each.line < found.line]
        return earlier[-1] if earlier and earlier[-1].category is found.category else found

    def told_whole(self, start: ReportStart) -> bool:
        """Whether the report that begins there has its last line."""
        self._catch_up()
        return crash.closed(start.category, self._lines[start.line : -1])

    def report(self, start: ReportStart, *, emulated: bool) -> CrashReport:
        """Return the report that begins there; all that follows belongs to it."""
        self._catch_up()
        lines = [line for line in self._lines[start.line :] if line.strip()]
        return crash.parse_report(start.category, lines, emulated=emulated)

    def survived(self, fatal: Collection[Category], *, emulated: bool) -> tuple[CrashReport, ...]:
        """Return the reports that the guest survived, each once however often the kernel repeats it."""
        lost = self.loss(fatal)
        ends = [each.line for each in self._starts if lost is None or each.line < lost.line]
        ends.append(lost.line if lost else len(self._lines))
        found: dict[str, CrashReport] = {}
        for each, end in zip(self._starts, ends[1:], strict=False):
            own = crash.first_of(each.category, self._lines[each.line : end])
            report = crash.parse_report(each.category, own, emulated=emulated)
            found.setdefault(report.fingerprint, report)
        return tuple(found.values())
