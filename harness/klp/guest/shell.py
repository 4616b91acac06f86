# SPDX-License-Identifier: Apache-2.0
"""A shell that stays open: commands without a server's process and a login shell for each.

In an emulated guest those two take more CPU time than most commands do. Each command runs in a subshell, so
that it cannot change the shell that stays; its input is empty, for it would read the lines that follow.
What differs from a channel of its own: `$$` is the shell that stays, and what a process in the background
writes after its command has ended is dropped.
"""

from __future__ import annotations

import re
import secrets
import shlex
import threading
from collections.abc import Callable

import paramiko

from klp.guest.channels import LOOK_S, Streams, has_more, kept_in, move
from klp.waiting import wait_until

# Run by the shell that the server starts, which is thus the one that stays: another would take as long
# again to start. From a pipe bash reads byte by byte, so no further than the NUL that ends a line: what
# follows it is left to the line, which may be `head -c` with a file's content.
_LINES = "while IFS= read -rd '' line; do eval \"$line\"; done"


class Shell:
    """A shell at the other end of a channel.

    Args:
        channel: opened, and nothing run on it yet.
        alive: called while waiting; raises if the machine is lost.
    """

    def __init__(self, channel: paramiko.Channel, alive: Callable[[], None]) -> None:
        self._channel = channel
        self._alive = alive
        self._token = secrets.token_hex(16)
        # A command may end its output in mid-line: so the marker brings a newline, which is not the
        # command's.
        self._out_end = re.compile(rf"\n{self._token} (\d+)\n".encode())
        self._err_end = f"\n{self._token}\n".encode()
        self._ends = f"s=$?; printf '\\n{self._token} %d\\n' $s; printf '\\n{self._token}\\n' >&2"
        self._lock = threading.Lock()
        channel.exec_command(_LINES)

    def take(self) -> bool:
        """Have the shell for a command, if nobody has it and it is of use; `run` gives it back."""
        return self._lock.acquire(blocking=False)

    def run(self, line: str, limit_s: float) -> tuple[int | None, bytes, bytes]:
        """Run a command to its end; return its status, or None if it ended the shell, and its streams.

        After any exception, an interrupt included, the shell is closed and cannot be taken again: the
        command may go on, and the next one would wait for its end and take its output.

        Raises:
            DeadlineMissed: it did not end within `limit_s`.
            CheckFailed: it wrote more than is kept.
            paramiko.SSHException, EOFError, OSError: the connection broke.
            VmLost: the machine was lost meanwhile.
        """
        done = self._run(f"( eval {shlex.quote(line)} ) </dev/null; {self._ends}", line, b"", limit_s)
        if done[0] is not None:
            self._lock.release()
        return done

    def write(self, path: str, content: bytes, limit_s: float) -> tuple[int | None, bytes, bytes]:
        """Write a file, by one program instead of four.

        It returns and raises what `run` does, but a refusal ends the shell as well: what is left of the
        content must not be taken for lines.
        """
        line = f"head -c {len(content)} >{shlex.quote(path)}"
        script = f"{line}; {self._ends}; [ $s = 0 ] || exec cat >/dev/null"
        done = self._run(script, line, content, limit_s)
        if done[0] == 0:
            self._lock.release()
        else:
            self.close()
        return done

    def _run(self, script: str, what: str, after: bytes, limit_s: float) -> tuple[int | None, bytes, bytes]:
        out, err = bytearray(), bytearray()
        streams = kept_in(out, err, what)
        try:
            self._channel.settimeout(limit_s)
            self._channel.sendall(f"{script}\0".encode() + after)
            found = wait_until(
                lambda: self._look(streams, out, err),
                what=f"end of `{what}`", timeout_s=limit_s, every_s=LOOK_S,
            )  # fmt: skip
        except BaseException:
            self.close()
            raise
        if found is self._channel:
            return None, bytes(out), bytes(err)
        ended = self._out_end.search(out)
        assert ended is not None
        return int(ended[1]), bytes(out[: ended.start()]), bytes(err[: err.index(self._err_end)])

    def _look(self, streams: Streams, out: bytearray, err: bytearray) -> object:
        """Read what has come; return something once both streams have ended, the channel if it has."""
        move(self._channel, streams)
        # Both, for the streams come on their own: the end of one says nothing of the other.
        if self._err_end in err and self._out_end.search(out):
            return True
        if self._channel.closed or self._channel.eof_received:
            return None if has_more(self._channel) else self._channel
        self._alive()
        return None

    def close(self) -> None:
        """End the shell."""
        self._channel.close()
