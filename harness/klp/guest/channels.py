# SPDX-License-Identifier: Apache-2.0
"""Bytes to and from a command in the guest: never more at a time than is taken, never kept without a bound.

A channel has a window either way. Whoever gives all input before taking any output waits for ever once both
are full, as with 16 MB through `cat`; so the two are moved by turns, and nothing here waits.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import IO, NamedTuple

import paramiko

from klp.errors import CheckFailed, HostLacks

LOOK_S = 0.005
_CHUNK = 65536
# 4 MiB before whoever waits looks at the deadline and at the guest again.
_TURNS = 64
_MOST_MIB = 64


class Streams(NamedTuple):
    """What gets a command's standard output and standard error as they come."""

    out: Callable[[bytes], object]
    err: Callable[[bytes], object]


def kept_in(out: bytearray, err: bytearray, command: str) -> Streams:
    """Return what keeps both streams of a command; more than 64 MiB of one is a `CheckFailed`."""

    def keep(stream: bytearray) -> Callable[[bytes], None]:
        def take(chunk: bytes) -> None:
            stream.extend(chunk)
            if len(stream) > _MOST_MIB << 20:
                raise CheckFailed(
                    f"`{command}` wrote more than {_MOST_MIB} MiB",
                    hint="have it write less, or into a file",
                )

        return take

    return Streams(keep(out), keep(err))


class Feed:
    """What a command reads.

    Args:
        channel: on which it runs.
        source: all of it, or a file of this machine that is read as it grows, as far as it is taken.
    """

    def __init__(self, channel: paramiko.Channel, source: bytes | IO[bytes]) -> None:
        self._channel = channel
        self._left = memoryview(source if isinstance(source, bytes) else b"")
        self._file = None if isinstance(source, bytes) else source.fileno()
        self._ended = False
        self._ready = select.poll()
        if self._file is not None:
            self._ready.register(self._file, select.POLLIN)

    def go_on(self) -> bool:
        """Give what there is, as far as it is taken at once; return whether there was any.

        Raises:
            HostLacks: the file cannot be read.
        """
        if self._ended or not (self._left or self._read()):
            return False
        try:
            if not self._channel.send_ready():
                return False
            self._left = self._left[self._channel.send(self._left[:_CHUNK].tobytes()) :]
        except (paramiko.SSHException, EOFError, OSError):
            # It reads no more: it has ended, or the connection broke, and whoever collects what it says
            # finds out which.
            self._ended = True
        return True

    def _read(self) -> bool:
        """Have more to give, if there is more now; tell the command if there will be none."""
        if self._file is not None and not self._ready.poll(0):
            return False
        self._left = memoryview(self._piece())
        if not self._left:
            self._ended = True
            # End of file, or a command that reads its input would wait for more.
            self._channel.shutdown_write()
        return bool(self._left)

    def _piece(self) -> bytes:
        if self._file is None:
            return b""
        try:
            return os.read(self._file, _CHUNK)
        except OSError as error:
            raise HostLacks(f"the input cannot be read: {error.strerror}") from error


def move(channel: paramiko.Channel, streams: Streams, feed: Feed | None = None) -> None:
    """Move what is there now, either way.

    Raises:
        CheckFailed: it is more than `kept_in` keeps.
        HostLacks: as `Feed.go_on`.
    """
    for _ in range(_TURNS):
        moved = feed.go_on() if feed else False
        if channel.recv_ready():
            streams.out(channel.recv(_CHUNK))
            moved = True
        if channel.recv_stderr_ready():
            streams.err(channel.recv_stderr(_CHUNK))
            moved = True
        if not moved:
            return


def has_more(channel: paramiko.Channel) -> bool:
    """Whether something came that nobody has taken."""
    return channel.recv_ready() or channel.recv_stderr_ready()
