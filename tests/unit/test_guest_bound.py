# SPDX-License-Identifier: Apache-2.0
"""A command that is bound to its connection: the line that a guest's shell gets, run by this machine's."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from klp.guest.bound import bound_line
from klp.waiting import wait_until

# Stands for the SSH server's process of a connection: it waits for the line's shell, and may be killed.
_SERVER = 'bash -c "$1"; exit "$?"'


@contextmanager
def started(command: str, given: bytes = b"") -> Iterator[subprocess.Popen[bytes]]:
    """Run a command as an SSH server does for the length of a block; after it the connection is gone."""
    with tempfile.TemporaryDirectory() as folder:
        silence = f"{folder}/silence"
        os.mkfifo(silence)
        with subprocess.Popen(
            ["bash", "-c", _SERVER, "server", bound_line(command, silence)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as running:  # fmt: skip
            assert running.stdin
            with suppress(BrokenPipeError):
                running.stdin.write(given)
                running.stdin.close()
            try:
                yield running
            finally:
                running.kill()


def done(command: str, given: bytes = b"") -> tuple[int, bytes, bytes]:
    """Run a command to its end."""
    with started(command, given) as running:
        assert running.stdout
        assert running.stderr
        out, err = running.stdout.read(), running.stderr.read()
        return running.wait(), out, err


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.parametrize(
    ("command", "given", "left"),
    [
        ("echo out; echo err >&2; exit 7", b"", (7, b"out\n", b"err\n")),
        ("cat", b"line\n\0binary\nrest", (0, b"line\n\0binary\nrest", b"")),
        ("head -c 3", b"one more\n" * 2000, (0, b"one", b"")),
        ("true", b"not read\n", (0, b"", b"")),
        ("kill -TERM $$", b"", (128 + signal.SIGTERM, b"", b"")),
        ("echo it\\'s \"$0\" '$HOME'", b"", (0, b"it's bash $HOME\n", b"")),
    ],
)
def test_streams_input_and_status_are_the_commands_own(
    command: str, given: bytes, left: tuple[int, bytes, bytes]
) -> None:
    assert done(command, given) == left


@pytest.mark.parametrize(
    "command",
    ["echo $$; exec sleep 600", "sleep 600 & echo $!; wait", "bash -c 'echo $$; sleep 600; true' | cat"],
    ids=["alone", "a child of it", "a pipeline"],
)
def test_all_of_it_ends_with_its_connection(command: str) -> None:
    with started(command) as running:
        assert running.stdout
        pid = int(running.stdout.readline())
        assert alive(pid)
    wait_until(lambda: not alive(pid), what="end", timeout_s=20, every_s=0.01)


def test_the_end_of_its_input_is_not_its_end() -> None:
    with started("cat; echo $$; exec sleep 600", b"x\n") as running:
        assert running.stdout
        assert running.stdout.readline() == b"x\n"
        pid = int(running.stdout.readline())
        # The lookout has looked meanwhile, for it does so before it first waits.
        assert alive(pid)
    wait_until(lambda: not alive(pid), what="end", timeout_s=20, every_s=0.01)


def test_what_it_left_in_the_background_goes_on() -> None:
    status, out, _ = done("sleep 600 >/dev/null 2>&1 & echo $!")
    pid = int(out)
    assert status == 0
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)
