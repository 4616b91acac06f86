# SPDX-License-Identifier: Apache-2.0
"""Bytes to and from a command over SSH, with an SSH server of this host that does what any does."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import paramiko
import pytest

from klp.errors import CheckFailed, GuestSilent, HostLacks
from klp.guest import channels
from klp.guest.channels import Feed, Streams, kept_in
from klp.guest.ssh import Address, ConnectionLimits, Guest
from klp.images.keys import ensure_key

_MIB = 1 << 20


class Server(paramiko.ServerInterface):
    """Lets anybody in, and runs the commands of `_Session`."""

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._run, args=(channel, command.decode()), daemon=True).start()
        return True

    def _run(self, channel: paramiko.Channel, command: str) -> None:
        with suppress(OSError, EOFError):  # the client went
            status = getattr(self, command)(channel) or 0
            channel.send_exit_status(status)
            channel.close()

    def cat(self, channel: paramiko.Channel) -> None:
        while piece := channel.recv(32768):
            channel.sendall(piece)

    def first(self, channel: paramiko.Channel) -> int:
        """Read a little and end, as `head -c 4` does."""
        channel.sendall(channel.recv(4))
        return 7

    def flood(self, channel: paramiko.Channel) -> None:
        while True:
            channel.sendall(b"x" * 32768)

    def deaf(self, channel: paramiko.Channel) -> None:
        """Read nothing, and write nothing, until the client goes."""
        threading.Event().wait()

    def both(self, channel: paramiko.Channel) -> None:
        channel.sendall(bytes(range(256)))
        channel.sendall_stderr(bytes(reversed(range(256))))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    folder = tmp_path_factory.mktemp("keys")
    host = ensure_key(folder / "host")
    ensure_key(folder / "id")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    stream, _ = listening.accept()
                except OSError:  # closed
                    return
                transport = paramiko.Transport(stream)
                transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(folder / "host")))
                transport.start_server(server=Server())

        threading.Thread(target=serve, daemon=True).start()
        yield Address(listening.getsockname()[1], folder / "id", host)


@pytest.fixture
def guest(address: Address) -> Iterator[Guest]:
    with Guest(address, ConnectionLimits(30, 30, 30, 60), lambda: None) as connected:
        yield connected


def test_sixteen_mib_go_in_and_come_back(guest: Guest) -> None:
    content = os.urandom(16 * _MIB)
    digest, back = hashlib.sha256(), []

    def take(chunk: bytes) -> None:
        digest.update(chunk)
        back.append(len(chunk))

    guest.run("cat", stdin=content, streams=Streams(take, take))
    assert sum(back) == len(content)
    assert digest.digest() == hashlib.sha256(content).digest()
    assert max(back) <= 65536


def test_a_file_goes_in_as_it_grows(guest: Guest) -> None:
    """Each piece is written only when the one before it has come back."""
    reads, writes = os.pipe()
    came: list[bytes] = []

    def take(chunk: bytes) -> None:
        came.append(chunk)
        if len(came) < 3:
            os.write(writes, b"more")
        else:
            os.close(writes)

    os.write(writes, b"begin")
    with os.fdopen(reads, "rb") as source:
        done = guest.run("cat", stdin=source, streams=Streams(take, take))
    assert (done.status, b"".join(came)) == (0, b"beginmoremore")


def test_a_command_that_ends_before_its_input_does(guest: Guest) -> None:
    reads, writes = os.pipe()
    os.write(writes, b"four and more")
    with os.fdopen(reads, "rb") as source, os.fdopen(writes, "wb"):
        done = guest.run("first", stdin=source)
    assert (done.status, done.stdout) == (7, "four")
    assert guest.run("first", stdin=b"y" * 8 * _MIB).status == 7


def test_input_is_read_no_further_than_it_is_taken(guest: Guest) -> None:
    with subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE) as endless:
        assert endless.stdout
        with pytest.raises(GuestSilent, match="no end of `deaf`"):
            guest.run("deaf", stdin=endless.stdout, timeout_s=1)
        given = int(Path(f"/proc/{endless.pid}/io").read_text().split("wchar: ")[1].split()[0])
        endless.kill()
    # A window of the channel (2 MiB), what the pipe holds, and a piece.
    assert _MIB < given < 4 * _MIB


def test_what_never_stops_writing_is_not_kept_and_misses_its_deadline(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "_MOST_MIB", 2)
    with pytest.raises(CheckFailed, match=r"^`flood` wrote more than 2 MiB$"):
        guest.run("flood")
    came = []
    with pytest.raises(GuestSilent, match="no end of `flood`"):
        guest.run("flood", timeout_s=1, streams=Streams(lambda chunk: came.append(len(chunk)), print))
    assert sum(came) > 2 * _MIB


def test_each_stream_has_the_bound() -> None:
    out, err = bytearray(), bytearray()
    streams = kept_in(out, err, "x")
    streams.out(b"a")
    streams.err(b"b" * (64 * _MIB))
    assert (out, len(err)) == (b"a", 64 * _MIB)
    with pytest.raises(CheckFailed, match="wrote more than 64 MiB"):
        streams.err(b"b")


def test_who_takes_the_output_may_fail_and_it_is_not_the_guests_fault(guest: Guest) -> None:
    def full(chunk: bytes) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        guest.run("both", streams=Streams(full, full))


def test_input_that_cannot_be_read(guest: Guest, tmp_path: Path) -> None:
    class Folder:
        def fileno(self) -> int:
            return opened

    opened = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(HostLacks, match=r"^the input cannot be read: Is a directory$"):
        guest.run("cat", stdin=cast("IO[bytes]", Folder()))
    os.close(opened)


def test_nothing_is_given_where_nothing_is_taken() -> None:
    class Full:
        def send_ready(self) -> bool:
            return False

    assert not Feed(cast("paramiko.Channel", Full()), b"x").go_on()


# --- klp exec ---------------------------------------------------------------------------------------

_EXEC = """
import sys
from contextlib import nullcontext
from pathlib import Path
from klp.cli import guests
from klp.guest.ssh import Address, ConnectionLimits, Guest
port, key, host, sys.argv[1:] = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], ["exec", sys.argv[4]]
guests.keeper.find = lambda name: None
limits = ConnectionLimits(30, 30, 30, 60)
guests.keeper.connect = lambda guest: Guest(Address(port, key, host), limits, lambda: None)
from klp.cli.main import main
main()
"""


def klp_exec(address: Address, command: str, **streams: Any) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-c", _EXEC, str(address.port), str(address.key), address.host_key, command]
    streams = {"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL, **streams}
    return subprocess.run(words, stderr=subprocess.PIPE, timeout=120, check=False, **streams)


def test_exec_passes_bytes_on(address: Address) -> None:
    done = klp_exec(address, "both")
    assert (done.returncode, done.stdout, done.stderr) == (0, bytes(range(256)), bytes(range(256))[::-1])


def test_exec_ends_with_its_command_and_leaves_the_rest_of_the_input(address: Address) -> None:
    with subprocess.Popen(["sh", "-c", "echo abcd; exec cat"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as source:  # fmt: skip
        done = klp_exec(address, "first", stdin=source.stdout)
        assert source.poll() is None  # it waits, and nobody waited for it
        source.stdin.close()  # type: ignore[union-attr]
    assert (done.returncode, done.stdout) == (7, b"abcd")


def test_exec_on_a_full_disk(address: Address) -> None:
    with Path("/dev/full").open("wb") as full:
        done = klp_exec(address, "both", stdout=full)
    assert done.returncode == 4
    assert b"error: standard output: No space left on device\n" in done.stderr


def test_exec_into_a_pipe_that_nobody_reads(address: Address) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    done = klp_exec(address, "flood", stdout=writes)
    os.close(writes)
    assert (done.returncode, done.stderr) == (0, b"")
