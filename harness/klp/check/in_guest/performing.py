# SPDX-License-Identifier: Apache-2.0
"""What is done in a worker: a workload is performed."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READ_BYTES = 65536
_KEPT_BYTES = 16384
_FILE_S = 0.5

Entry = dict[str, Any]


class Slot:
    """What a worker says in shared memory: which workload it runs, after how many, in which process."""

    _FORM = "<qqq"

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, struct.calcsize(self._FORM))

    def put(self, index: int, runs: int, child: int) -> None:
        """Say it."""
        struct.pack_into(self._FORM, self._memory, 0, index, runs, child)

    def get(self) -> tuple[int, int, int]:
        """Read it."""
        index, runs, child = struct.unpack_from(self._FORM, self._memory)
        return index, runs, child


@dataclass
class Outcome:
    """What a workload came to: ``exit 0``, ``signal 11`` or an errno's name, and what it printed."""

    result: str
    output: bytes = b""


def _read(path: str) -> bytes:
    """Read a file's beginning, as far as it comes without waiting."""
    until = time.monotonic() + _FILE_S
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        found = b""
        while len(found) < READ_BYTES and time.monotonic() < until:
            chunk = os.read(descriptor, READ_BYTES - len(found))
            if not chunk:
                break
            found += chunk
        return found
    finally:
        os.close(descriptor)


def _write_back(path: str) -> bytes:
    """Write a value to what it is already, and return what it is then."""
    value = _read(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(descriptor, value)
    finally:
        os.close(descriptor)
    return _read(path)


def _of_files(work: Callable[[str], bytes], path: str) -> Outcome:
    try:
        return Outcome("ok", work(path)[:_KEPT_BYTES])
    except OSError as error:
        return Outcome(errno.errorcode.get(error.errno or 0, str(error.errno)))


def _environment() -> dict[str, str]:
    """Return what this program was given; Python itself has set LC_CTYPE for it since (PEP 538)."""
    given = os.fsdecode(Path("/proc/self/environ").read_bytes()).split("\0")
    return dict(each.split("=", 1) for each in given if "=" in each)


def _command(workload: Entry, own: Slot, index: int, runs: int) -> Outcome:
    """Run a command in a session of its own, and end what it leaves behind."""
    # To a file, for a pipe would be held open by what a command starts and leaves.
    into = os.memfd_create("output")
    child = os.fork()
    if not child:
        try:
            os.setsid()
            nothing = os.open("/dev/null", os.O_RDONLY)
            os.dup2(nothing, 0)
            os.dup2(into, 1)
            os.dup2(into, 2)
            environment = _environment()
            os.chdir(environment.get("HOME", "/"))
            os.execvpe(workload["shell"], [workload["shell"], "-c", workload["text"]], environment)
        finally:
            os._exit(127)
    own.put(index, runs, child)
    _, status = os.waitpid(child, 0)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    output = os.pread(into, _KEPT_BYTES, 0)
    os.close(into)
    if os.WIFSIGNALED(status):
        return Outcome(f"signal {os.WTERMSIG(status)}", output)
    return Outcome(f"exit {os.WEXITSTATUS(status)}", output)


def run_once(workload: Entry, own: Slot, index: int, runs: int) -> Outcome:
    """Run a workload to its end."""
    own.put(index, runs, 0)
    if workload["kind"] == "read":
        return _of_files(_read, workload["text"])
    if workload["kind"] == "write-back":
        return _of_files(_write_back, workload["text"])
    return _command(workload, own, index, runs)
