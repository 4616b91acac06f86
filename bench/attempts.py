# SPDX-License-Identifier: Apache-2.0
"""One klp under abuse, the processes that it started, and what was found of many such attempts."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Found:
    """What was seen of one part.

    Attributes:
        codes: klp's exit codes.
        verdicts: of what was recorded; or why it cannot be read.
        left: what was left over, in words.
        faults: what klp does not promise to do.
    """

    codes: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Attempt:
    """One klp under abuse: its process, and the folder that has all of it."""

    place: Path
    child: subprocess.Popen[bytes]

    @property
    def runs(self) -> Path:
        """Its folder of runs."""
        return self.place / "runs"

    @property
    def said(self) -> str:
        """All that it wrote so far."""
        return (self.place / "said").read_text(errors="replace")

    def processes(self) -> list[int]:
        """Return the processes that it started, and itself while it lives."""
        return [pid for pid in _pids() if _mark(self.place) in _environ(pid)]

    def qemu(self) -> int | None:
        """Return its QEMU, if it runs."""
        return next((pid for pid in self.processes() if name_of(pid).startswith("qemu-system")), None)


def _mark(place: Path) -> bytes:
    return f"TMPDIR={place}/tmp".encode()


def _pids() -> Iterator[int]:
    return (int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit())


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended
        return []


def name_of(pid: int) -> str:
    """Return what a process is called; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
