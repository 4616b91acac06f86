# SPDX-License-Identifier: Apache-2.0
"""What a process uses, no other removes; and two at once do not take from each other what they make."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from klp.errors import Busy
from klp.files import digest_of
from klp.images.cache import Cache
from klp.inuse import USES, held_alone, unused
from klp.paths import CacheLayout
from klp.progress import Silent

INPUTS = {"suite": "trixie"}
ENTRY = f"guest-{digest_of(INPUTS)}"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(CacheLayout(tmp_path / "cache"), Silent())


def build(into: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    (into / "file").write_text("content")
    return {}, ("file",)


class Other:
    """A klp in another process, which says a word at each point of its program, and waits there."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def says(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def goes_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()


_TOLD = """
import os, sys
from pathlib import Path
def here(word):
    print(word, flush=True)
    sys.stdin.readline()
from klp.images.cache import Cache
from klp.inuse import USES, unused
from klp.paths import CacheLayout
from klp.progress import Silent
cache = Cache(CacheLayout(Path(sys.argv[1])), Silent())
def build(into):
    (into / "file").write_text("theirs")
    return {}, ("file",)
"""


@contextmanager
def other(cache: Cache, program: str) -> Iterator[Other]:
    command = [sys.executable, "-c", _TOLD + program, str(cache.layout.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Other(process)
        finally:
            process.kill()


# --- a builder and a sweep, each in a process of its own ------------------------------------------------

# It stops where its folder is made, with nothing in it; and where that is whole, before it is renamed.
_STOPS_AT_MKDIR = """
real = Path.mkdir
def mkdir(self, *a, **k):
    real(self, *a, **k)
    if self.parent.name == "building":
        here("made")
Path.mkdir = mkdir
"""
_STOPS_AT_RENAME = """
real = Path.rename
def rename(self, target):
    if self.parent.name == "building":
        here("made")
    return real(self, target)
Path.rename = rename
"""
_ENSURES = """
entry, _ = cache.ensure("guest", {"suite": "trixie"}, build)
here((entry / "file").read_text())
"""


@pytest.mark.parametrize("stop", [_STOPS_AT_MKDIR, _STOPS_AT_RENAME], ids=["empty", "whole"])
def test_a_builder_is_not_swept_at_any_point(cache: Cache, stop: str) -> None:
    cache.layout.building.mkdir(parents=True)
    with other(cache, stop + _ENSURES) as builder:
        assert builder.says() == "made"
        cache.ensure("kernel", INPUTS, build)  # and sweeps
        builder.goes_on()
        assert builder.says() == "theirs"


# --- entries in use --------------------------------------------------------------------------------------


def test_what_another_klp_uses_is_not_removed(cache: Cache) -> None:
    with other(cache, _ENSURES) as user:
        assert user.says() == "theirs"
        [(entry, manifest)] = cache.entries()
        with pytest.raises(Busy, match=f"^{ENTRY}: another klp uses it"):
            cache.remove(entry, manifest)
        assert (entry / "file").read_text() == "theirs"
    cache.remove(entry, manifest)  # its use ended with it, however it ended
    assert cache.entries() == []
    assert list(cache.layout.building.iterdir()) == []


def test_what_this_process_uses_it_may_remove_and_build_anew(cache: Cache) -> None:
    for _ in range(3):
        entry, manifest = cache.ensure("guest", INPUTS, build)
        cache.remove(entry, manifest)
        assert not entry.exists()


_REMOVES = """
[(entry, manifest)] = cache.entries()
real = Path.rename
def rename(self, target):
    here("alone")
    return real(self, target)
Path.rename = rename
cache.remove(entry, manifest)
here("removed")
"""


def test_who_asks_while_it_is_removed_builds_it_anew(cache: Cache) -> None:
    """It has seen a manifest, and the folder goes before it can be used."""
    cache.ensure("guest", INPUTS, build)
    USES.let_go(cache.layout.root / ENTRY)
    with other(cache, _REMOVES) as remover:
        assert remover.says() == "alone"
        with ExitStack() as stack:
            again = stack.enter_context(other(cache, "here('begun')" + _ENSURES))
            assert again.says() == "begun"
            again.goes_on()
            remover.goes_on()
            assert remover.says() == "removed"
            assert again.says() == "theirs"


def test_an_entry_that_is_gone_already_is_no_error(cache: Cache) -> None:
    entry, manifest = cache.ensure("guest", INPUTS, build)
    cache.remove(entry, manifest)
    cache.remove(entry, manifest)


# --- locks -----------------------------------------------------------------------------------------------


def test_two_users_do_not_exclude_each_other(tmp_path: Path) -> None:
    assert USES.use(tmp_path)
    assert USES.use(tmp_path)
    with unused(tmp_path) as alone:
        assert not alone
    USES.let_go(tmp_path)
    with unused(tmp_path) as alone:
        assert alone
    assert not USES.use(tmp_path / "none")


def test_a_folder_that_took_the_place_of_one_in_use_is_another(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    USES.use(folder)
    folder.rename(tmp_path / "b")
    folder.mkdir()
    with unused(folder) as alone:
        assert alone
    assert USES.use(folder)
    with unused(folder) as alone:
        assert not alone
    USES.let_go(folder)


def test_who_asks_is_not_taken_for_who_holds(tmp_path: Path) -> None:
    """Two that ask at once: each shares the lock while it asks."""
    file = tmp_path / "lock"
    file.touch()
    assert not held_alone(tmp_path / "none")
    asking = os.open(file, os.O_RDONLY)
    try:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not held_alone(file)
        fcntl.flock(asking, fcntl.LOCK_EX)
        assert held_alone(file)
    finally:
        os.close(asking)
