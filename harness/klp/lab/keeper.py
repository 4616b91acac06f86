# SPDX-License-Identifier: Apache-2.0
"""Guests that outlive a command: `klp up` starts a keeper process, which owns the QEMU process.

QEMU dies with its keeper as it dies with any klp, so a guest that is up has exactly one process to end.
A guest is a folder under `paths.guests_root()`; its keeper holds the folder's lock for as long as it lives.
The lock, and not the process id in guest.json, tells whether it lives: a number may be another's by then.
Who starts or ends a guest holds a second lock meanwhile, so that no other klp does. Locks are not removed:
whoever waits for one that was removed waits for another than the next who comes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
from filelock import FileLock, Timeout

from klp import paths
from klp.errors import Busy, KlpError, UnknownName, UsageError, VmLost
from klp.files import remove_tree, write_whole
from klp.guest.ssh import Address, Guest
from klp.inuse import USES, held_alone
from klp.lab.guestsfolder import own_guests_root
from klp.lab.lab import Lab, booted, connection_limits, guest_address
from klp.lab.warm import WarmStart, restored
from klp.model import Accelerator
from klp.paths import RunLayout
from klp.process import Child, SignalsHeld, spawn
from klp.progress import Silent
from klp.trace.toolbox import put_on_path
from klp.vm.deadlines import deadlines
from klp.vm.request import MachineRequest
from klp.vm.start import Restore
from klp.waiting import DeadlineMissed, wait_until

# Of the very klp that starts it: where that is not the installed one, PYTHONPATH said so, which commands
# are not given.
_KEEPER = """
import sys
sys.path.insert(0, sys.argv[1])
from klp.lab.keeper import keep
sys.exit(keep(sys.argv[2]))
"""
# `-F none` leaves out the user's and the system's configuration, which may hand the agent or the display to
# whoever is root in the guest, or share a connection with another. The options say what else must not be,
# for a distribution's ssh may have other defaults than OpenSSH.
_SSH = {
    "StrictHostKeyChecking": "yes", "GlobalKnownHostsFile": "/dev/null", "IdentitiesOnly": "yes",
    "LogLevel": "ERROR", "IdentityAgent": "none", "PreferredAuthentications": "publickey",
    "UpdateHostKeys": "no", "ForwardAgent": "no", "ForwardX11": "no", "PermitLocalCommand": "no",
    "ProxyCommand": "none", "ControlPath": "none", "Tunnel": "no",
}  # fmt: skip
# Beside the guests' folders; no guest's name begins with a dot.
_LOCKS = ".locks"
# Another klp that ends a guest takes a moment; one that starts one takes as long as a boot.
_PATIENCE_S = 5.0
_LOOK_S = 0.05
# A look at QEMU's process and its console file, here on the host: it costs the guest nothing.
_WATCH_S = 0.2


class KeptGuest(msgspec.Struct, frozen=True, kw_only=True):
    """A guest that is up.

    Attributes:
        name: what it is called on the command line.
        keeper: process id that owns it.
        port: on 127.0.0.1, to its SSH server.
        key, host_key: how it is opened, and known.
    """

    name: str
    keeper: int
    port: int
    key: str
    host_key: str
    release: str
    accelerator: Accelerator
    begun_at: float


@dataclass(frozen=True, slots=True)
class _Folder:
    """The files of one kept guest."""

    root: Path

    @property
    def request(self) -> Path:
        """The machine that was asked for."""
        return self.root / "request.json"

    @property
    def guest(self) -> Path:
        """Appears when the guest is up."""
        return self.root / "guest.json"

    @property
    def failure(self) -> Path:
        """Why the keeper gave up."""
        return self.root / "failure.txt"

    @property
    def lock(self) -> Path:
        """Held by the keeper; outside of the folder, so that the folder can be removed while it is held."""
        return self.root.parent / _LOCKS / f"{self.root.name}.keeper"

    @property
    def changing(self) -> Path:
        """Held by a klp that starts or ends the guest."""
        return self.root.parent / _LOCKS / f"{self.root.name}.changing"

    @property
    def known_hosts(self) -> Path:
        """For OpenSSH."""
        return self.root / "known_hosts"


def _folder(name: str) -> _Folder:
    if not name or not all(ch.isalnum() or ch in "-_." for ch in name) or name.startswith("."):
        raise UsageError(f"{name!r} is no name for a guest", hint="letters, digits, - _ and .")
    return _Folder(own_guests_root() / name)


def _alive(folder: _Folder) -> bool:
    """Whether a keeper holds the folder."""
    return held_alone(folder.lock)


@contextmanager
def _changing(folder: _Folder) -> Iterator[None]:
    """Be the only klp that starts or ends a guest, for a block.

    Raises:
        Busy: another klp does.
    """
    folder.changing.parent.mkdir(exist_ok=True, mode=0o700)
    try:
        with FileLock(folder.changing, timeout=_PATIENCE_S):
            yield
    except Timeout:
        raise Busy(
            f"guest {folder.root.name}: another klp is starting or ending it", hint="klp ps shows it then"
        ) from None


def check_free(name: str) -> None:
    """See that no guest has a name, before minutes are spent on what one starts from.

    Raises:
        UsageError: it is no name for a guest.
        Busy: there is one of that name.
    """
    if _alive(_folder(name)):
        raise Busy(f"guest {name} is up already", hint=f"klp down --name {name}, or klp up --name OTHER")


def up(name: str, request: MachineRequest) -> KeptGuest:
    """Start a guest that lives until `down`.

    Raises:
        Busy: there is one of that name, or another klp is starting one.
        VmLost: it did not come up; with what its keeper said.
    """
    folder = _folder(name)
    with _changing(folder):
        check_free(name)
        return _up(folder, request)


def _up(folder: _Folder, request: MachineRequest) -> KeptGuest:
    remove_tree(folder.root)
    folder.root.mkdir()
    # It holds paths, which msgspec has written as text.
    folder.request.write_bytes(msgspec.json.encode(request, enc_hook=str))
    keeper: Child | None = None

    def look() -> KeptGuest | None:
        ended = keeper is not None and keeper.status() is not None
        found = _read(folder)
        if found is None and ended:
            raise VmLost(_why(folder), hint=f"its console: {folder.root / 'console.log'}")
        return found

    try:
        with (folder.root / "keeper.log").open("wb") as said, SignalsHeld():
            keeper = _start_keeper(folder.root.name, said)
        # Longer than the keeper's own limit, so that it gives up first, and says why in failure.txt.
        limit_s = deadlines(request.accelerator).boot * 2
        return wait_until(look, what="guest", timeout_s=limit_s, every_s=_LOOK_S)
    except BaseException as error:
        if keeper:
            keeper.end()  # QEMU goes with it
        if isinstance(error, DeadlineMissed):
            raise VmLost(f"guest {folder.root.name} did not come up: {_why(folder)}") from None
        raise


def _start_keeper(name: str, said: IO[bytes]) -> Child:
    return spawn(
        [sys.executable, "-c", _KEEPER, str(paths.PACKAGE.parent), name],
        stderr=said,
        # It is not to die with us: what it keeps outlives this command.
        die_with_parent=False,
    )


def _why(folder: _Folder) -> str:
    for file in (folder.failure, folder.root / "keeper.log"):
        if file.exists() and (said := file.read_text().strip()):
            return said.splitlines()[-1]
    return "its keeper ended without a word"


def _read(folder: _Folder) -> KeptGuest | None:
    try:
        return msgspec.json.decode(folder.guest.read_bytes(), type=KeptGuest)
    except FileNotFoundError:
        return None


def guests() -> list[KeptGuest]:
    """Return every guest that is up, by name."""
    everything = sorted(own_guests_root(make=False).glob("[!.]*"))
    folders = [_Folder(each) for each in everything if each.is_dir()]
    found = [_read(folder) for folder in folders if _alive(folder)]
    return [each for each in found if each]


def find(name: str | None) -> KeptGuest:
    """Return the guest called `name`, or the only one that is up.

    Raises:
        UsageError: there is none, or more than one and no name.
    """
    everyone = guests()
    if name is None and len(everyone) == 1:
        return everyone[0]
    chosen = next((each for each in everyone if each.name == name), None)
    if chosen is None:
        names = [each.name for each in everyone]
        what = f"no guest {name} is up" if name else "which guest?" if everyone else "no guest is up"
        up_now = f"up: {', '.join(names)}" if names else "klp up starts one"
        raise UnknownName(what, name or "", names, hint=up_now)
    return chosen


def connect(guest: KeptGuest) -> Guest:
    """Open a connection to a kept guest."""
    address = Address(port=guest.port, key=Path(guest.key), host_key=guest.host_key)

    def check_alive() -> None:
        if not _alive(_folder(guest.name)):
            raise VmLost(f"guest {guest.name} is gone")

    return Guest(address, connection_limits(guest.accelerator), check_alive)


def ssh_command(guest: KeptGuest, words: tuple[str, ...]) -> list[str]:
    """Return the OpenSSH command that opens a terminal in a guest, its host key pinned."""
    # A file of its own: the user's would gain an entry for a port of 127.0.0.1 that is another's tomorrow.
    known = _folder(guest.name).known_hosts
    known.write_text(f"[127.0.0.1]:{guest.port} {guest.host_key}\n")
    options = {"UserKnownHostsFile": known, **_SSH}
    return [
        "ssh", "-F", "none", "-p", str(guest.port), "-i", guest.key,
        *(word for each, value in options.items() for word in ("-o", f"{each}={value}")),
        "root@127.0.0.1", *words,
    ]  # fmt: skip


def down(guest: KeptGuest) -> None:
    """End a guest and remove its folder.

    Raises:
        Busy: another klp is ending it, or starting one of its name.
        VmLost: its keeper does not end.
    """
    folder = _folder(guest.name)
    with _changing(folder):
        now = _read(folder)
        if now and now.keeper != guest.keeper:
            return  # it was ended meanwhile, and this is another
        _down(folder, guest)


def _down(folder: _Folder, guest: KeptGuest) -> None:
    try:
        # The keeper is asked, and not QEMU's monitor: it also removes the disk overlay, and QEMU dies with
        # it.
        if _alive(folder):
            os.kill(guest.keeper, signal.SIGTERM)
        wait_until(lambda: not _alive(folder), what="end", timeout_s=20, every_s=_LOOK_S)
    except ProcessLookupError:
        pass
    except DeadlineMissed as missed:
        raise VmLost(f"guest {guest.name}: {missed}", hint=f"kill -9 {guest.keeper}") from None
    remove_tree(folder.root)


class _Terminated(BaseException):
    """SIGTERM: the keeper is asked to end. No `Exception`, for that might be handled on its way."""


def _terminated(*_: object) -> None:
    raise _Terminated


def keep(name: str) -> int:
    """Be a keeper: boot what was asked for, and hold it until told to end or the guest does."""
    folder = _folder(name)
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at `klp up` is not meant for the guest
    # Whoever asks whether the guest is up shares the lock for a moment (`_alive`): hence the time-out.
    folder.lock.parent.mkdir(exist_ok=True, mode=0o700)
    with FileLock(folder.lock, timeout=5):
        try:
            encoded = folder.request.read_bytes()
            _hold(folder, msgspec.json.decode(encoded, type=MachineRequest, dec_hook=_path))
        except _Terminated:
            return 0
        except KlpError as error:
            folder.failure.write_text(error.message)
            return int(error.exit_code)
    return 0


def _path(kind: type, value: object) -> object:
    return kind(value)


def _hold(folder: _Folder, request: MachineRequest) -> None:
    for entry in request.entries:  # whoever started this process uses them only as long as it lives
        USES.use(entry)
    try:
        with _opened(request, RunLayout(folder.root)) as lab:
            machine = lab.machine
            put_on_path(lab.guest)
            # Last, when all is there: `up` takes the file for the sign.
            _announce(folder, request, guest_address(request, machine.ssh_port()))

            def ended() -> bool:
                machine.check_alive()
                return False

            # Every wait has a deadline, and a kept guest has none: so it is waited for again and again.
            while True:
                try:
                    wait_until(ended, what="end", timeout_s=3600, every_s=_WATCH_S)
                except DeadlineMissed:
                    continue
    finally:
        folder.guest.unlink(missing_ok=True)


def _opened(request: MachineRequest, layout: RunLayout) -> AbstractContextManager[Lab]:
    if isinstance(request.start, Restore):
        return restored(WarmStart(request, request.start.files, probes=()), layout)
    return booted(request, layout, Silent())


def _announce(folder: _Folder, request: MachineRequest, address: Address) -> None:
    guest = KeptGuest(
        name=folder.root.name,
        keeper=os.getpid(),
        port=address.port,
        key=str(address.key),
        host_key=address.host_key,
        release=request.image.kernel.release,
        accelerator=request.accelerator,
        begun_at=time.time(),
    )
    write_whole(folder.guest, msgspec.json.encode(guest))
