# SPDX-License-Identifier: Apache-2.0
"""The guest's serial console, as the file QEMU writes it to from the first byte."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

# Said by vm-images/guest/init, or by the kernel when it cannot go on.
_BOOT_FAILURE = re.compile(r"klp: boot failed: (.*)")
_PANIC = re.compile(r"Kernel panic - not syncing: (.*)")
# sshd says so itself (-e) when it listens; an earlier connection would be accepted by QEMU and hang.
_READY = re.compile(r"Server listening on .* port 22\.")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Console:
    """Follows a console file; asked often, so it reads only what is new."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lines: list[str] = [""]
        self._ready = False
        self._panic: str | None = None
        self._boot_failure: str | None = None

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
        for line in self._lines[begun:-1]:
            self._look_at(line)

    def _look_at(self, line: str) -> None:
        self._ready = self._ready or bool(_READY.search(line))
        panic, failure = _PANIC.search(line), _BOOT_FAILURE.search(line)
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
        """Whether sshd in the guest listens."""
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
