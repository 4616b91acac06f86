# SPDX-License-Identifier: Apache-2.0
"""An entry appears whole or not at all, whatever happens to whoever builds it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from klp.errors import BuildFailed, HostLacks, KlpError
from klp.files import digest_of, remove_tree
from klp.images.cache import MANIFEST, Cache, damaged_files, read_manifest
from klp.paths import CacheLayout
from klp.process import CommandFailed, run
from klp.progress import Silent
from klp.waiting import wait_until

INPUTS = {"suite": "trixie", "recipe": "1"}
Built = tuple[dict[str, str], tuple[str, ...]]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(CacheLayout(tmp_path / "cache"), Silent())


class Builder:
    """Fills an entry, and counts how often it was asked to."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.calls = 0
        self._failure = failure

    def __call__(self, into: Path) -> Built:
        self.calls += 1
        (into / "file").write_text("content")
        (into / "folder").mkdir()
        if self._failure:
            raise self._failure
        return {"release": "6.12"}, ("file",)


def finished(cache: Cache) -> list[str]:
    """The names of all that looks like a finished entry."""
    return sorted(each.name for each in cache.layout.root.glob("*-*"))


def growing(cache: Cache) -> list[str]:
    return sorted(each.name for each in cache.layout.building.glob("*"))


def test_an_entry_is_built_once(cache: Cache) -> None:
    builder = Builder()
    entry, manifest = cache.ensure("guest", INPUTS, builder)
    assert (entry / "file").read_text() == "content"
    assert manifest.facts == {"release": "6.12"}
    assert manifest.inputs == INPUTS
    assert manifest.size > 0
    before = entry.stat()
    assert cache.ensure("guest", dict(reversed(INPUTS.items())), builder) == (entry, manifest)
    assert builder.calls == 1
    assert entry.stat().st_ctime_ns == before.st_ctime_ns
    assert growing(cache) == []


def test_kind_and_inputs_tell_entries_apart(cache: Cache) -> None:
    builder = Builder()
    made = [
        cache.ensure("guest", INPUTS, builder)[0],
        cache.ensure("kernel", INPUTS, builder)[0],
        cache.ensure("guest", {**INPUTS, "recipe": "2"}, builder)[0],
        cache.ensure("guest", {"suite": "trixie"}, builder)[0],
    ]
    assert len(set(made)) == builder.calls == 4
    assert [entry for entry, _ in cache.entries()] == made


def test_a_digest_is_of_keys_and_values() -> None:
    assert digest_of({"a": "b"}) != digest_of({"b": "a"})
    assert digest_of({"a": "b", "c": "d"}) != digest_of({"a": 'b"],["c', "d": ""})
    assert len(digest_of({})) == 16


@pytest.mark.parametrize(
    "failure", [BuildFailed("no", output=""), KeyboardInterrupt(), ValueError("bug")], ids=repr
)
def test_a_builder_that_fails_leaves_nothing(cache: Cache, failure: BaseException) -> None:
    with pytest.raises(type(failure)) as caught:
        cache.ensure("guest", INPUTS, Builder(failure))
    assert caught.value is failure
    assert finished(cache) == []
    assert growing(cache) == []
    second = Builder()
    cache.ensure("guest", INPUTS, second)
    assert second.calls == 1


# --- builders in other processes --------------------------------------------------------------------

_OTHER = """
import sys
from pathlib import Path
from klp.images.cache import Cache
from klp.paths import CacheLayout
from klp.progress import Silent

class Told(Silent):
    def step(self, what):
        print(what, flush=True)
        return super().step(what)

def build(into):
    (into / "file").write_text("theirs")
    print("building", flush=True)
    sys.stdin.readline()
    return {}, ("file",)

cache = Cache(CacheLayout(Path(sys.argv[1])), Told())
entry, manifest = cache.ensure("guest", {"suite": "trixie", "recipe": sys.argv[2]}, build)
print("has", entry.name, manifest.built, (entry / "file").read_text(), flush=True)
"""


@contextmanager
def other(cache: Cache, root: Path, recipe: str = "1") -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", _OTHER, str(cache.layout.root), recipe]
    with subprocess.Popen(
        argv, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_killed_builder_leaves_nothing_that_looks_finished(cache: Cache, root: Path) -> None:
    with other(cache, root) as process:
        assert line(process) == "building"
        [left] = growing(cache)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert finished(cache) == []
    assert cache.entries() == []
    assert growing(cache) == [left]
    builder = Builder()
    entry, _ = cache.ensure("guest", INPUTS, builder)
    assert builder.calls == 1
    assert (entry / "file").read_text() == "content"
    assert growing(cache) == []


def test_a_live_builder_is_not_swept(cache: Cache, root: Path) -> None:
    with other(cache, root, recipe="2") as process:
        assert line(process) == "building"
        cache.ensure("guest", INPUTS, Builder())
        assert len(growing(cache)) == 1
        go_on(process)
        assert line(process).endswith(" theirs")
    assert len(finished(cache)) == 2


def test_of_two_at_once_one_builds_and_the_other_waits(cache: Cache, root: Path) -> None:
    with other(cache, root) as first, other(cache, root) as second:
        # Whichever came first builds; the other says for whom it waits.
        said = {line(first): first, line(second): second}
        digest = digest_of(INPUTS)
        waiting = f"waiting for another klp that is building guest-{digest}"
        assert set(said) == {"building", waiting}
        assert finished(cache) == []
        go_on(said["building"])
        ends = {line(first), line(second)}
        assert len(ends) == 1
        assert ends.pop().startswith(f"has guest-{digest} ")
    assert finished(cache) == [f"guest-{digest}"]


def test_the_one_that_waits_builds_when_the_other_dies(cache: Cache, root: Path) -> None:
    with other(cache, root) as first, other(cache, root) as second:
        said = {line(first): first, line(second): second}
        said["building"].kill()
        waiter = second if said["building"] is first else first
        assert line(waiter) == "building"
        go_on(waiter)
        assert line(waiter).startswith("has guest-")
    assert growing(cache) == []


# --- disks ------------------------------------------------------------------------------------------


def _full(_: Path) -> Built:
    raise OSError(errno.ENOSPC, "No space left on device")


def _full_for_a_command(_: Path) -> Built:
    run(["sh", "-c", "echo 'tar: x: Cannot write: No space left on device' >&2; exit 2"])
    raise AssertionError


@pytest.mark.parametrize("build", [_full, _full_for_a_command])
def test_a_full_disk(cache: Cache, build: Callable[[Path], Built]) -> None:
    with pytest.raises(HostLacks, match="no space left") as caught:
        cache.ensure("guest", INPUTS, build)
    assert caught.value.message.startswith(f"{cache.layout.root}: ")
    assert caught.value.hint is not None
    assert "KLP_CACHE" in caught.value.hint
    assert finished(cache) == []
    assert growing(cache) == []


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    made = run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False)
    if made.status:
        pytest.skip(f"mounting is not allowed here: {made.stderr.strip()}")
    yield folder
    run(["umount", "--lazy", folder])


def test_a_disk_that_is_really_full(tiny: Path) -> None:
    cache = Cache(CacheLayout(tiny / "cache"), Silent())

    def build(into: Path) -> Built:
        (into / "big").write_bytes(bytes(2**20))
        return {}, ()

    with pytest.raises(HostLacks, match="no space left"):
        cache.ensure("guest", INPUTS, build)
    assert finished(cache) == []
    assert growing(cache) == []


def test_a_disk_that_may_not_be_written(tiny: Path) -> None:
    cache = Cache(CacheLayout(tiny / "cache"), Silent())
    cache.ensure("guest", {**INPUTS, "recipe": "2"}, Builder())  # so that its folders are there
    run(["mount", "-o", "remount,ro", tiny])
    with pytest.raises(HostLacks, match="Read-only file system") as caught:
        cache.ensure("guest", INPUTS, Builder())
    assert str(tiny) in caught.value.message
    assert caught.value.hint is not None
    assert "KLP_CACHE" in caught.value.hint


def test_a_root_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for root in (tmp_path / "file", tmp_path / "file" / "cache", Path("/proc/klp-cache")):
        with pytest.raises(KlpError) as caught:
            Cache(CacheLayout(root), Silent()).ensure("guest", INPUTS, Builder())
        assert isinstance(caught.value, HostLacks)
        assert caught.value.hint is not None
        assert "KLP_CACHE" in caught.value.hint


def test_other_errors_of_a_builder_are_its_own(cache: Cache) -> None:
    def build(_: Path) -> Built:
        run(["sh", "-c", "echo broken >&2; exit 1"])
        raise AssertionError

    with pytest.raises(CommandFailed, match="broken"):
        cache.ensure("guest", INPUTS, build)


# --- damage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", '{"kind": 1}', "\0" * 100])
def test_a_damaged_manifest_is_told_with_the_way_out(cache: Cache, text: str) -> None:
    entry, _ = cache.ensure("guest", INPUTS, Builder())
    (entry / MANIFEST).write_text(text)
    with pytest.raises(HostLacks, match="damaged") as caught:
        cache.ensure("guest", INPUTS, Builder())
    assert caught.value.message.startswith(f"{entry / MANIFEST}: ")
    assert caught.value.hint == f"rm -r {entry}; it is built again"


def test_a_folder_without_a_manifest_is_no_entry_and_gives_way(cache: Cache) -> None:
    entry = cache.layout.entry("guest", digest_of(INPUTS))
    entry.mkdir(parents=True)
    (entry / "file").write_text("half")
    assert read_manifest(entry) is None
    assert cache.entries() == []
    cache.ensure("guest", INPUTS, Builder())
    assert (entry / "file").read_text() == "content"


def test_one_damaged_entry_does_not_hide_the_others_names(cache: Cache) -> None:
    entry, _ = cache.ensure("guest", INPUTS, Builder())
    (entry / MANIFEST).write_text("{")
    with pytest.raises(HostLacks, match=entry.name):
        cache.entries()


def test_damaged_files(cache: Cache) -> None:
    def build(into: Path) -> Built:
        for name in ("same", "flipped", "gone", "unhashed"):
            (into / name).write_bytes(bytes(1000))
        return {}, ("same", "flipped", "gone")

    entry, manifest = cache.ensure("guest", INPUTS, build)
    assert damaged_files(entry, manifest) == []
    (entry / "flipped").write_bytes(bytes(999) + b"\1")
    (entry / "gone").unlink()
    (entry / "unhashed").unlink()
    assert damaged_files(entry, manifest) == ["flipped", "gone"]
    assert json.loads((entry / MANIFEST).read_text())["files"].keys() == {"same", "flipped", "gone"}


def test_an_entry_is_removed(cache: Cache) -> None:
    entry, manifest = cache.ensure("guest", INPUTS, Builder())
    cache.remove(entry, manifest)
    assert cache.entries() == []
    assert not entry.exists()


@pytest.fixture
def somebody() -> Iterator[Path]:
    """A folder of an ordinary user's, and the test is that user: root is above modes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder, us = Path(name), os.geteuid()
        if us == 0:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        yield folder
        os.seteuid(us)


def test_remove_tree_opens_read_only_folders(somebody: Path) -> None:
    folder, outside = somebody / "a", somebody / "outside"
    (folder / "b" / "c").mkdir(parents=True)
    outside.mkdir()
    (folder / "b" / "c" / "file").write_text("x")
    (folder / "link").symlink_to(outside)
    for each in (folder / "b" / "c", folder / "b", folder):
        each.chmod(0o555)
    with pytest.raises(PermissionError):
        (folder / "b" / "c" / "file").unlink()
    remove_tree(folder)
    assert not folder.exists()
    assert outside.is_dir()


def test_remove_tree_of_nothing(tmp_path: Path) -> None:
    remove_tree(tmp_path / "none")


def test_the_manifest_is_the_last_thing_written(cache: Cache) -> None:
    def build(into: Path) -> Built:
        assert not (into / MANIFEST).exists()
        assert into.parent == cache.layout.building
        assert finished(cache) == []
        return {}, ()

    entry, _ = cache.ensure("guest", INPUTS, build)
    assert {each.name for each in entry.iterdir()} == {MANIFEST}


def test_what_waits_can_be_interrupted(cache: Cache, root: Path) -> None:
    with other(cache, root) as first, other(cache, root) as second:
        said = {line(first): first, line(second): second}
        waiter = second if said["building"] is first else first
        waiter.send_signal(signal.SIGINT)
        wait_until(lambda: waiter.poll() is not None, what="end", timeout_s=20, every_s=0.01)
        go_on(said["building"])
        assert line(said["building"]).startswith("has guest-")
