# SPDX-License-Identifier: Apache-2.0
"""The guest's serial console, as the file QEMU writes it to from the first byte."""

from __future__ import annotations

import re
from pathlib import Path

# Said by vm-images/guest/init, or by the kernel when it cannot go on.
_BOOT_FAILURE = re.compile(r"klp: boot failed: (.*)")
_PANIC = re.compile(r"Kernel panic - not syncing: (.*)")
# sshd says so itself (-e) when it listens; an earlier connection would be accepted by QEMU and hang.
_READY = re.compile(r"Server listening on .* port 22\.")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Console:
    """Reads a console file as it grows."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def text(self) -> str:
        """Return all of it so far, without terminal escapes."""
        try:
            return _ESCAPES.sub("", self._file.read_text(errors="replace"))
        except FileNotFoundError:
            return ""

    def tail(self, count: int = 15) -> tuple[str, ...]:
        """Return the last `count` lines that are not empty."""
        return tuple(line for line in self.text().splitlines() if line.strip())[-count:]

    def ready(self) -> bool:
        """Whether sshd in the guest listens."""
        return bool(_READY.search(self.text()))

    def panic(self) -> str | None:
        """Return the kernel's own word for its panic, or None."""
        found = _PANIC.search(self.text())
        return found[1].strip() if found else None

    def boot_failure(self) -> str | None:
        """Return why the guest's init gave up, or None."""
        found = _BOOT_FAILURE.search(self.text())
        return found[1].strip() if found else None
