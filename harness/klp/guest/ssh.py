# SPDX-License-Identifier: Apache-2.0
"""Commands and files over one SSH connection that stays open: with `shell`, all that imports paramiko.

The guest is known by its pinned host key and opened with the cache's own key; there is no password,
no agent, and no key is ever accepted unseen. One connection serves many commands, 0.08 s each under
emulation: a new connection costs 0.6 s.
"""

from __future__ import annotations

import base64
import logging
import shlex
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import paramiko

from klp.errors import CheckFailed, GuestSilent, VmLost
from klp.guest.bound import bound_line
from klp.guest.channels import LOOK_S, Feed, Streams, has_more, kept_in, move
from klp.guest.shell import Shell
from klp.waiting import DeadlineMissed, wait_until

log = logging.getLogger(__name__)

_REASON_S = 2.0
# A shell reports 128 and the signal's number for a command that a signal ended; we do not learn which it
# was.
_KILLED = 128
_CHUNK = 65536
_SSH_LOOPBACK = "127.0.0.1"
# One of each, so that the guest's emulated CPU is not given dearer ones: both dropbear and paramiko have
# these.
_KEX = ("curve25519-sha256@libssh.org",)
_CIPHERS = ("aes128-ctr",)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a guest is reached, and by what it is known.

    Attributes:
        port: on 127.0.0.1.
        key: the private key file that opens it.
        host_key: its public host key, ``ssh-ed25519 AAAA…``.
    """

    port: int
    key: Path
    host_key: str


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Seconds that each step of talking to a guest may take."""

    banner: float
    auth: float
    channel: float
    command: float


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command in the guest left: exit status (128: ended by a signal), and its streams as text."""

    command: str
    status: int
    stdout: str
    stderr: str

    def must(self, what: str) -> CommandResult:
        """Return this, if the command succeeded.

        Raises:
            CheckFailed: it did not; names `what` was being done, and the command's last words.
        """
        if self.status:
            said = (self.stderr or self.stdout).strip().splitlines()[-1:] or ["it said nothing"]
            raise CheckFailed(f"{what}: {said[0]}", hint=f"in the guest: {self.command}")
        return self


class Guest:
    """One SSH connection to a guest.

    Args:
        check_alive: called while waiting; raises if the machine is known to be lost, so that a panic
            is reported as one and not as a time-out of SSH.
        silent: makes the error for a guest that does not answer, of what was being done.
    """

    def __init__(
        self,
        address: Address,
        limits: ConnectionLimits,
        check_alive: Callable[[], None],
        silent: Callable[[str], GuestSilent] = GuestSilent,
    ) -> None:
        self.address = address
        self.limits = limits
        self.check_alive = check_alive
        self._silent = silent
        self._transport = self._connect()
        self._sftp: paramiko.SFTPClient | None = None
        self._shell: Shell | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _connect(self) -> paramiko.Transport:
        try:
            stream = socket.create_connection(
                (_SSH_LOOPBACK, self.address.port), timeout=self.limits.banner
            )
        except OSError as error:
            raise self._lost("connecting", error) from error
        transport = paramiko.Transport(stream)
        transport.banner_timeout = self.limits.banner
        transport.handshake_timeout = self.limits.auth
        transport.auth_timeout = self.limits.auth
        transport.channel_timeout = self.limits.channel
        options = transport.get_security_options()
        options.kex = _KEX
        options.ciphers = _CIPHERS
        kind, _, text = self.address.host_key.partition(" ")
        options.key_types = (kind,)
        pinned = paramiko.Ed25519Key(data=base64.b64decode(text.split()[0]))
        try:
            transport.connect(
                hostkey=pinned, username="root",
                pkey=paramiko.Ed25519Key.from_private_key_file(str(self.address.key)),
            )  # fmt: skip
        except (paramiko.SSHException, EOFError, OSError) as error:
            transport.close()
            raise self._lost("opening SSH", error) from error
        return transport

    def _lost(self, doing: str, error: BaseException) -> VmLost:
        """Return the machine's own reason where it has one, else that the guest is silent.

        A connection breaks a moment before what broke it, QEMU's end or a panic, can be seen: so it is
        looked for a while longer.
        """

        def look() -> bool:
            self.check_alive()
            return False

        try:
            wait_until(look, what="reason", timeout_s=_REASON_S, every_s=LOOK_S)
        except VmLost as lost:
            return lost
        except DeadlineMissed:
            log.debug("%s: no reason is known", doing)
        return self._silent(f"{doing}: the guest does not answer ({error or type(error).__name__})")

    def _open_channel(self) -> paramiko.Channel:
        try:
            return self._transport.open_session(timeout=self.limits.channel)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._lost("opening a channel", error) from error

    def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes | IO[bytes] = b"",
        timeout_s: float | None = None,
        shown_as: str | None = None,
        streams: Streams | None = None,
        bound: bool = False,
    ) -> CommandResult:
        """Run a command to its end.

        Args:
            command: a line for the guest's shell, or words that are quoted for it.
            stdin: what it reads: all of it, or a file of this machine that is read as far as it is taken.
            timeout_s: seconds it may take; the deadline for commands where None.
            shown_as: what to call it in the result and in errors, if not by the whole line.
            streams: get what it writes as it comes; the result then has none of it.
            bound: whether it ends where this wait ends early (see `klp.guest.bound`); else it goes on
                until it next writes.

        Raises:
            CheckFailed: it wrote more than 64 MiB, and there are no `streams`.
            GuestSilent: it did not end in time, or the connection broke.
            GuestPanicked, QemuGone: the machine was lost meanwhile.
        """
        line = command if isinstance(command, str) else shlex.join(command)
        shown_as = shown_as or line
        limit = timeout_s or self.limits.command
        log.debug("guest + %s", line)
        if self._shell and not (stdin or streams or bound) and self._shell.take():
            return self._kept(shown_as, lambda shell: shell.run(line, limit))
        channel = self._open_channel()
        try:
            self._begin(channel, bound_line(line) if bound else line, shown_as, limit)
            return self._collect(channel, Feed(channel, stdin), shown_as, limit, streams)
        finally:
            channel.close()

    def _begin(self, channel: paramiko.Channel, line: str, shown_as: str, limit_s: float) -> None:
        try:
            channel.settimeout(limit_s)
            channel.exec_command(line)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._lost(shown_as, error) from error

    def keep_shell(self) -> None:
        """Run commands without input in one shell from now on: see `klp.guest.shell` for what differs.

        Raises:
            VmLost: the guest opens no channel.
        """
        self._shell = Shell(self._open_channel(), self.check_alive)

    def write(self, path: str, content: bytes) -> CommandResult:
        """Write a file's content; its status is not judged, as that of `run`.

        In the shell that is kept this takes half the time of a command that reads its input, and of `put`.

        Raises:
            VmLost: the machine was lost meanwhile, or does not answer.
        """
        if not (self._shell and self._shell.take()):
            return self.run(f"cat >{shlex.quote(path)}", stdin=content)
        limit = self.limits.command
        return self._kept(f"writing {path}", lambda shell: shell.write(path, content, limit))

    def _kept(
        self, shown_as: str, run: Callable[[Shell], tuple[int | None, bytes, bytes]]
    ) -> CommandResult:
        """Run a command in the shell that is kept; without it from then on, if that ended it."""
        assert self._shell
        try:
            status, out, err = run(self._shell)
        except DeadlineMissed as missed:
            raise self._late(shown_as, missed.waited_s) from None
        except TimeoutError:
            raise self._late(shown_as, self.limits.command) from None
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._lost(shown_as, error) from error
        if status is None and not self._transport.is_active():
            raise self._lost(shown_as, EOFError("the connection broke"))
        return CommandResult(shown_as, _KILLED if status is None else status, _text(out), _text(err))

    def _late(self, shown_as: str, waited_s: float) -> GuestSilent:
        return self._silent(f"no end of `{shown_as}` within {waited_s:.0f} s")

    def _collect(
        self, channel: paramiko.Channel, feed: Feed, shown_as: str, limit_s: float, streams: Streams | None
    ) -> CommandResult:
        out, err = bytearray(), bytearray()
        hear = streams or kept_in(out, err, shown_as)

        def look() -> bool:
            ended = channel.exit_status_ready()
            move(channel, hear, feed)
            # The status may arrive before the last output; end-of-file is what ends a stream.
            if ended and channel.eof_received and not has_more(channel):
                return True
            # A server that dies sends neither status nor end of file: only the transport knows.
            if channel.closed or not self._transport.is_active():
                return not has_more(channel)
            self.check_alive()
            return False

        try:
            wait_until(look, what=f"end of `{shown_as}`", timeout_s=limit_s, every_s=LOOK_S)
        except DeadlineMissed as missed:
            raise self._late(shown_as, missed.waited_s) from None
        if not (channel.exit_status_ready() and self._transport.is_active()):
            raise self._lost(shown_as, EOFError("the connection broke"))
        status = channel.recv_exit_status()
        # The server sends no status for a command that a signal ended, and paramiko passes over the signal.
        return CommandResult(shown_as, _KILLED if status < 0 else status, _text(out), _text(err))

    def stream(self, command: str) -> Iterator[bytes]:
        """Yield what a command writes to standard output as it comes, until it or the guest ends.

        Closing the iterator ends the command's channel. Meant for a thread of its own.
        """
        channel = self._open_channel()
        try:
            channel.exec_command(command)
            channel.shutdown_write()
            while chunk := channel.recv(_CHUNK):
                yield chunk
        except (paramiko.SSHException, EOFError, OSError) as error:
            log.debug("stream of %s ended: %s", command, error)
        finally:
            channel.close()

    def _files(self) -> paramiko.SFTPClient:
        if self._sftp is None:
            client = paramiko.SFTPClient.from_transport(self._transport)
            if client is None:
                raise GuestSilent("the guest opened no SFTP session")
            client.get_channel().settimeout(self.limits.command)  # type: ignore[union-attr]
            self._sftp = client
        return self._sftp

    def put(self, source: Path, destination: str) -> None:
        """Copy a file into the guest, with its permissions.

        Raises:
            CheckFailed: the guest refused it (no such folder, no space).
            VmLost: the machine was lost meanwhile.
        """
        try:
            self._files().put(str(source), destination)
            self._files().chmod(destination, source.stat().st_mode & 0o777)
        except (paramiko.SSHException, EOFError) as error:
            raise self._lost(f"copying {source.name}", error) from error
        except OSError as error:
            self.check_alive()
            raise CheckFailed(
                f"copying {source} to guest:{destination}: {error.strerror or error}"
            ) from error

    def get(self, source: str, destination: Path) -> None:
        """Copy a file out of the guest; `destination` appears whole or not at all.

        Raises:
            CheckFailed: it cannot be read there, or written here.
            VmLost: the machine was lost meanwhile.
        """
        growing = destination.with_name(f"{destination.name}.part")
        try:
            # paramiko reads ahead in a thread of its own, which has nobody to tell of a lost guest.
            self._files().get(source, str(growing), prefetch=False)
            growing.replace(destination)
        except (paramiko.SSHException, EOFError) as error:
            raise self._lost(f"copying {source}", error) from error
        except OSError as error:
            self.check_alive()
            raise CheckFailed(
                f"copying guest:{source} to {destination}: {error.strerror or error}"
            ) from error
        finally:
            growing.unlink(missing_ok=True)

    def read(self, path: str) -> str:
        """Return a small text file of the guest, without its last newline.

        Raises:
            CheckFailed: there is no such file.
        """
        # By bash itself: in an emulated guest that takes a fifth of the time that starting `cat` takes.
        shown = self.run(f'text=$(<{shlex.quote(path)}) && printf %s "$text"')
        return shown.must(f"reading {path}").stdout

    def close(self) -> None:
        """Close the connection; what runs in the guest on its own goes on."""
        self._transport.close()


def _text(raw: bytes | bytearray) -> str:
    return raw.decode("utf-8", errors="replace")
