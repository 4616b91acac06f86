# SPDX-License-Identifier: Apache-2.0
"""Kept guests: their folder is nobody else's, and two who start or end one keep out of each other's way."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from filelock import FileLock

from klp import paths
from klp.errors import Busy, HostLacks, UnknownName
from klp.lab import keeper
from klp.lab.keeper import KeptGuest
from klp.model import Accelerator, Image, Kernel
from klp.vm.request import MachineRequest
from klp.waiting import wait_until

NOWHERE = Path("/nowhere")
KERNEL = Kernel("6.12", "6.12.1", "d", NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, None)
REQUEST = MachineRequest(Image("6.12", "d", KERNEL, NOWHERE, NOWHERE, "ssh-ed25519 A"), Accelerator.TCG)


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def guest(name: str, pid: int) -> KeptGuest:
    return KeptGuest(
        name=name, keeper=pid, port=1, key="k", host_key="h", release="6.12.1",
        accelerator=Accelerator.TCG, begun_at=0.0,
    )  # fmt: skip


# --- whose the folder is ---------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Without a runtime folder guests are in one that all users may write to."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tmp_path.chmod(0o1777)
    return tmp_path / f"klp-{os.getuid()}"


def test_it_is_made_for_its_user_alone(shared: Path) -> None:
    assert paths.guests_root() == shared / "guests"
    keeper.check_free("lab")
    for folder in (shared, shared / "guests"):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_who_only_looks_makes_nothing(shared: Path) -> None:
    assert keeper.guests() == []
    assert not shared.exists()


def looks() -> dict[str, Callable[[], object]]:
    return {
        "up": lambda: keeper.up("lab", REQUEST),
        "free": lambda: keeper.check_free("lab"),
        "ps": keeper.guests,
        "find": lambda: keeper.find("lab"),
    }


@pytest.mark.parametrize("name", looks())
@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder another's")
def test_a_folder_that_another_user_made_is_refused(shared: Path, name: str) -> None:
    """Of what stands in it klp would, as root, write over files, and end processes."""
    victim = shared.parent / "victim"
    victim.write_text("precious")
    (shared / "guests" / "lab").mkdir(parents=True)
    (shared / "guests" / "lab" / "keeper.log").symlink_to(victim)
    os.chown(shared, 65534, 65534)
    with pytest.raises(HostLacks, match=r"belongs to another user \(uid 65534\)") as caught:
        looks()[name]()
    assert caught.value.message.startswith(f"{shared}: ")
    assert "XDG_RUNTIME_DIR" in str(caught.value.hint)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", looks())
def test_a_folder_that_others_may_write_to_is_refused(shared: Path, name: str) -> None:
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(HostLacks, match=r"others may write there \(mode 777\)"):
        looks()[name]()


def test_a_link_in_its_place_is_refused(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shared.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostLacks, match="is no folder"):
        keeper.check_free("lab")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder another's")
def test_a_runtime_folder_of_another_user_is_not_taken(runtime: Path) -> None:
    """As with sudo, which passes the variable on."""
    os.chown(runtime, 65534, 65534)
    assert not paths.guests_root().is_relative_to(runtime)


# --- two at once -----------------------------------------------------------------------------------------

# A keeper as it is, but for QEMU: it takes the lock, is up, and holds.
_KEEPS = """
import sys
from klp.lab import keeper
from klp.guest.ssh import Address
from klp.waiting import wait_until
from pathlib import Path
def hold(folder, request):
    keeper._announce(folder, request, Address(port=1, key=Path("/k"), host_key="ssh-ed25519 A"))
    wait_until(lambda: False, what="end", timeout_s=600, every_s=0.02)
keeper._hold = hold
sys.exit(keeper.keep("lab"))
"""


@contextmanager
def kept(runtime: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A keeper that is up."""
    folder = runtime / "klp" / "guests" / "lab"
    keeper.check_free("lab")
    folder.mkdir(exist_ok=True)
    (folder / "request.json").write_bytes(msgspec.json.encode(REQUEST, enc_hook=str))
    with subprocess.Popen([sys.executable, "-c", _KEEPS]) as process:
        try:
            wait_until((folder / "guest.json").exists, what="guest", timeout_s=60, every_s=0.02)
            yield process
        finally:
            process.kill()


def test_who_asks_is_not_taken_for_a_keeper(runtime: Path) -> None:
    """Each shares the lock while it asks: two that ask at once would else see each other."""
    keeper.check_free("lab")
    folder = keeper._folder("lab")
    folder.lock.parent.mkdir(exist_ok=True)
    folder.lock.touch()
    with folder.lock.open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        keeper.check_free("lab")
        fcntl.flock(asking, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="guest lab is up already"):
            keeper.check_free("lab")


def test_one_who_starts_a_guest_keeps_another_from_it(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second would remove the folder in which the first one's keeper is about to start."""
    monkeypatch.setattr(keeper, "_PATIENCE_S", 0.1)
    keeper.check_free("lab")
    folder = keeper._folder("lab")
    folder.root.mkdir()
    (folder.root / "request.json").write_text("of the first")
    folder.changing.parent.mkdir(exist_ok=True)
    with FileLock(folder.changing), pytest.raises(Busy, match="another klp is starting or ending it"):
        keeper.up("lab", REQUEST)
    assert (folder.root / "request.json").read_text() == "of the first"


def test_a_guest_that_is_up_is_not_started_again(runtime: Path) -> None:
    with kept(runtime) as process:
        assert [each.keeper for each in keeper.guests()] == [process.pid]
        with pytest.raises(Busy, match="guest lab is up already"):
            keeper.up("lab", REQUEST)
        assert process.poll() is None


def test_the_end_of_a_guest_leaves_its_lock_for_the_next(runtime: Path) -> None:
    """Who waits for a lock that was removed, and who comes after it, would both have it."""
    with kept(runtime) as process:
        before = keeper._folder("lab").lock.stat().st_ino
        keeper.down(keeper.find("lab"))
        process.wait(20)
        assert not keeper._folder("lab").root.exists()
        assert keeper._folder("lab").lock.stat().st_ino == before
    with kept(runtime):
        assert keeper._folder("lab").lock.stat().st_ino == before
        assert len(keeper.guests()) == 1


def test_who_ends_a_guest_does_not_end_the_next_of_its_name(runtime: Path) -> None:
    with kept(runtime) as process:
        keeper.down(guest("lab", process.pid + 1))  # what another klp has ended, and started again
        assert process.poll() is None
        assert keeper.find("lab").keeper == process.pid


def test_a_process_that_has_the_number_now_is_not_ended(runtime: Path) -> None:
    """The keeper is gone, and left guest.json."""
    keeper.check_free("lab")
    folder = keeper._folder("lab")
    folder.root.mkdir()
    with subprocess.Popen(["sleep", "600"]) as innocent:
        folder.guest.write_bytes(msgspec.json.encode(guest("lab", innocent.pid)))
        keeper.down(guest("lab", innocent.pid))
        assert innocent.poll() is None
        innocent.kill()
    assert not folder.root.exists()


@pytest.mark.parametrize(("one", "other"), [("a.b", "a.c"), ("a", "a.lock"), ("a", "a.keeper")])
def test_no_two_names_share_a_lock_or_a_folder(one: str, other: str) -> None:
    first, second = keeper._folder(one), keeper._folder(other)
    files = [first.root, first.lock, first.changing, second.root, second.lock, second.changing]
    assert len(set(files)) == len(files)


def test_no_guest_is_found_among_the_locks(runtime: Path) -> None:
    with kept(runtime):
        assert [each.name for each in keeper.guests()] == ["lab"]
    with pytest.raises(UnknownName):
        keeper.find("lab")
