# SPDX-License-Identifier: Apache-2.0
"""A program on a pseudo-terminal, its screen read as whoever sits before it sees it."""

from __future__ import annotations

import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl

import pyte

_DEADLINE_S = 60.0
_ROWS, _COLUMNS = 40, 110


class Terminal:
    """The screen of a program that runs, and the program's standard input, which is no terminal.

    Attributes:
        seen: every different screen so far, as lines without trailing blanks.
    """

    def __init__(self, program: subprocess.Popen[bytes], master: int) -> None:
        self._program = program
        self._master = master
        self._screen = pyte.HistoryScreen(_COLUMNS, _ROWS, history=1000)
        self._stream = pyte.ByteStream(self._screen)
        self.seen: list[list[str]] = []

    @property
    def lines(self) -> list[str]:
        """All lines that are on the screen, or were scrolled out of it."""
        gone = ("".join(row[at].data for at in range(_COLUMNS)) for row in self._screen.history.top)
        return [line.rstrip() for line in (*gone, *self._screen.display) if line.strip()]

    @property
    def cursor_is_hidden(self) -> bool:
        """Whether the program left the terminal without a cursor."""
        return bool(self._screen.cursor.hidden)

    def until(self, look: Callable[[list[str]], bool]) -> None:
        """Read what is written, until the screen looks so."""
        by = time.monotonic() + _DEADLINE_S
        while not look(self.lines):
            assert time.monotonic() < by, "\n".join(self.lines)
            assert self._read(), "it has ended:\n" + "\n".join(self.lines)

    def say(self, word: str) -> None:
        """Write a line to the program's standard input."""
        assert self._program.stdin
        self._program.stdin.write(f"{word}\n".encode())
        self._program.stdin.flush()

    def end(self) -> int:
        """Read to the program's end; return its status."""
        while self._read():
            pass
        return self._program.wait(_DEADLINE_S)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], _DEADLINE_S)
        assert ready, "it writes nothing:\n" + "\n".join(self.lines)
        try:
            chunk = os.read(self._master, 65536)
        except OSError:  # Linux: EIO once nobody has the other end open
            return False
        self._stream.feed(chunk)
        if not self.seen or self.seen[-1] != self.lines:
            self.seen.append(self.lines)
        return bool(chunk)


@contextmanager
def on_terminal(script: str, *arguments: str) -> Iterator[Terminal]:
    """Have a Python program run on a terminal for a block; it is ended with the block."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        env.pop(name, None)
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=slave, stderr=slave,
        env=env, start_new_session=True,
    ) as program:  # fmt: skip
        os.close(slave)
        try:
            yield Terminal(program, master)
        finally:
            if program.poll() is None:
                program.kill()
            os.close(master)
