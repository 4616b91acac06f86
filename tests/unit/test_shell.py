# SPDX-License-Identifier: Apache-2.0
"""Commands in one shell that stays open, in a shell of this host."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from klp.errors import VmLost
from klp.guest.shell import Shell
from klp.waiting import DeadlineMissed


class Channel:
    """What `Shell` uses of a paramiko channel, with a process of this host at its other end."""

    def __init__(self) -> None:
        self.closed = False
        self.process: subprocess.Popen[bytes] | None = None
        self.read = {"out": b"", "err": b""}
        self.readers: list[threading.Thread] = []

    def exec_command(self, command: str) -> None:
        self.process = subprocess.Popen(
            ["bash", "-c", command], env={"SHELL": "/bin/bash", "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        for name, stream in (("out", self.process.stdout), ("err", self.process.stderr)):
            self.readers.append(threading.Thread(target=self._keep, args=(name, stream), daemon=True))
            self.readers[-1].start()

    def _keep(self, name, stream) -> None:
        with stream:
            while chunk := stream.read1(65536):
                self.read[name] += chunk

    @property
    def eof_received(self) -> bool:
        return not any(reader.is_alive() for reader in self.readers)

    def settimeout(self, _seconds: float) -> None:
        pass

    def sendall(self, data: bytes) -> None:
        assert self.process
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def _taken(self, name: str) -> bytes:
        taken, self.read[name] = self.read[name], b""
        return taken

    def recv_ready(self) -> bool:
        return bool(self.read["out"])

    def recv_stderr_ready(self) -> bool:
        return bool(self.read["err"])

    def recv(self, _size: int) -> bytes:
        return self._taken("out")

    def recv_stderr(self, _size: int) -> bytes:
        return self._taken("err")

    def close(self) -> None:
        if self.process and self.process.stdin:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process.stdin.close()
            for reader in self.readers:
                reader.join()


@pytest.fixture
def channel() -> Iterator[Channel]:
    channel = Channel()
    yield channel
    channel.close()


@pytest.fixture
def shell(channel):
    return Shell(channel, lambda: None)


def run(shell, line, limit_s=20.0):
    assert shell.take()
    return shell.run(line, limit_s)


@pytest.mark.parametrize(
    ("line", "status", "out", "err"),
    [
        ("echo hi", 0, b"hi\n", b""),
        ("echo a; echo b >&2; exit 7", 7, b"a\n", b"b\n"),
        ("printf 'no newline'", 0, b"no newline", b""),
        ("echo 'it'\"'\"'s quoted'\necho two", 0, b"it's quoted\ntwo\n", b""),
        ("cat", 0, b"", b""),
        ("kill -KILL $BASHPID", 137, b"", None),
        ("head -c 300000 /dev/zero | tr '\\0' x", 0, b"x" * 300000, b""),
    ],
)
def test_a_command_leaves_what_it_would_alone(shell, line, status, out, err):
    found = run(shell, line)
    assert found[:2] == (status, out)
    assert err is None or found[2] == err
    assert run(shell, "echo next") == (0, b"next\n", b"")


def test_a_command_cannot_change_the_shell(shell):
    before = run(shell, "pwd; echo $x")
    assert run(shell, "cd /; x=1; exec true")[0] == 0
    assert run(shell, "pwd; echo $x") == before


def test_a_line_that_is_none_fails_alone(shell):
    status, _, err = run(shell, "if true (")
    assert status
    assert b"syntax error" in err
    assert run(shell, "echo next")[1] == b"next\n"


def test_what_ends_the_shell_has_no_status(shell):
    assert run(shell, "echo last; kill -KILL $$")[:2] == (None, b"last\n")
    assert not shell.take()


def test_a_command_that_does_not_end_is_given_up(shell):
    with pytest.raises(DeadlineMissed):
        run(shell, "sleep 60", limit_s=0.1)
    assert not shell.take()


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
def test_a_shell_whose_command_was_interrupted_takes_no_other(channel, error):
    looks = []

    def interrupted() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise error

    shell = Shell(channel, interrupted)
    with pytest.raises(error):
        run(shell, "sleep 60")
    assert not shell.take()
    assert channel.process.returncode is not None


def test_a_lost_machine_ends_the_wait(channel):
    def lost() -> None:
        raise VmLost("gone", console_tail=())

    shell = Shell(channel, lost)
    with pytest.raises(VmLost, match="gone"):
        run(shell, "sleep 60")
    assert not shell.take()


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 2000, b"\necho not run\0exit\n"])
def test_a_file_is_what_was_given(shell, tmp_path, content):
    file = tmp_path / "it's a file"
    assert shell.take()
    assert shell.write(str(file), content, 20.0) == (0, b"", b"")
    assert file.read_bytes() == content
    assert run(shell, "echo next") == (0, b"next\n", b"")


@pytest.mark.parametrize("place", ["nonesuch/file", "full"])
def test_a_file_that_is_refused_ends_the_shell(shell, tmp_path, place):
    """Its content must not be run."""
    (tmp_path / "full").symlink_to("/dev/full")
    content = f"\0touch {tmp_path}/run\0".encode() * 20000
    assert shell.take()
    status, out, err = shell.write(str(tmp_path / place), content, 20.0)
    assert (status, out) == (1, b"")
    assert b"No space left" in err or b"No such file" in err
    assert not (tmp_path / "run").exists()
    assert not shell.take()


def test_one_command_at_a_time(shell):
    assert shell.take()
    assert not shell.take()
    shell.run("true", 20.0)
    assert shell.take()
