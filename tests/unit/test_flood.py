# SPDX-License-Identifier: Apache-2.0
"""A command in the guest that never stops writing fills no memory, and is not waited for for ever."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import paramiko
import pytest
from test_shell import Channel

from klp.errors import CheckFailed, GuestSilent
from klp.guest import channels
from klp.guest.channels import Feed, Streams
from klp.guest.shell import Shell
from klp.guest.ssh import Address, ConnectionLimits, Guest
from klp.images import keys
from klp.waiting import DeadlineMissed


class Flooding(paramiko.ServerInterface):
    """A server whose every command writes for ever."""

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, number: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._write, args=(channel,), daemon=True).start()
        return True

    def _write(self, channel: paramiko.Channel) -> None:
        try:
            while True:
                channel.sendall(b"x" * 32768)
        except (OSError, EOFError):
            return


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    host_key, client = keys.ensure_key(tmp_path / "host"), tmp_path / "id"
    keys.ensure_key(client)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            transport = paramiko.Transport(listening.accept()[0])
            transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(tmp_path / "host")))
            transport.start_server(server=Flooding())

        threading.Thread(target=serve, daemon=True).start()
        address = Address(listening.getsockname()[1], client, host_key)
        with Guest(address, ConnectionLimits(60, 60, 60, 60), lambda: None) as connected:
            yield connected


def test_what_is_too_long_to_keep_is_refused(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "LONGEST_OUTPUT", 2**20)
    with pytest.raises(CheckFailed, match=r"^`yes` wrote more than 1 MiB$"):
        guest.run("yes")


class Endless:
    """A channel that always has more: what reads until there is nothing never comes back."""

    closed = eof_received = False

    def recv_ready(self) -> bool:
        return True

    def recv(self, size: int) -> bytes:
        return b"x" * size

    def recv_stderr_ready(self) -> bool:
        return False

    def exit_status_ready(self) -> bool:
        return False

    def shutdown_write(self) -> None:
        """There is no input."""


def test_a_stream_without_end_ends_with_its_time(guest: Guest) -> None:
    taken = bytearray(1)

    def take(piece: bytes) -> None:
        taken[0] = piece[0]

    endless = cast("paramiko.Channel", Endless())
    with pytest.raises(GuestSilent, match="no end of `yes` within"):
        guest._collect(endless, Feed(endless, b""), "yes", 0.3, Streams(take, take))
    assert bytes(taken) == b"x"


def test_the_shell_that_stays_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, most_mib, error in ((60.0, 1, CheckFailed), (0.5, 1000, DeadlineMissed)):
        monkeypatch.setattr(channels, "LONGEST_OUTPUT", most_mib << 20)
        channel = Channel()
        own = Shell(channel, lambda: None)
        assert own.take()
        with pytest.raises(error):
            own.run("while :; do printf %1000s; done", limit)
        channel.close()
