# SPDX-License-Identifier: Apache-2.0
"""The cache is kept within bounds: the longest unused goes first, and never what is in use."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from klp.cli.main import klp
from klp.images.cache import MANIFEST, Cache
from klp.images.library import Library
from klp.images.tidying import DAY_S, GIB, tidy, to_go
from klp.inuse import USES
from klp.paths import CacheLayout
from klp.progress import Silent
from klp.settings import Settings
from tests.unit.test_inuse import other

NEVER = float("inf")


class Shelf:
    """A cache with entries of 1 MiB, each last used as many days ago as it is told."""

    def __init__(self, root: Path) -> None:
        self.cache = Cache(CacheLayout(root), Silent())

    def put(self, kind: str, days: float = 0.0, **inputs: str) -> Path:
        def build(into: Path) -> tuple[dict[str, str], tuple[str, ...]]:
            (into / "file").write_bytes(os.urandom(2**20))
            return {"release": "6.12"}, ()

        entry, _ = self.cache.ensure(kind, inputs, build)
        USES.let_go(entry)
        then = time.time() - days * DAY_S
        os.utime(entry / MANIFEST, (then, then))
        return entry

    def digest(self, entry: Path) -> str:
        return entry.name.rpartition("-")[2]

    def names(self) -> set[str]:
        return {folder.name for folder, _ in self.cache.entries()}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "cache")


def gone(shelf: Shelf, **bounds: float) -> list[str]:
    wanted = {"limit_bytes": NEVER, "unused_s": NEVER, **bounds}
    return [each.folder.name for each, went in tidy(shelf.cache, **wanted) if went]


def test_twenty_rebuilds_of_a_tree_do_not_stay(shelf: Shelf, tmp_path: Path) -> None:
    """The fault that was found: sixty entries, of which three are of use."""
    tree = tmp_path / "linux"
    tree.mkdir()
    for build in range(20):
        kernel = shelf.put("tree", 20 - build, tree=str(tree), image=str(build))
        for kind in ("boot", "snapshot"):
            shelf.put(kind, 20 - build, kernel=shelf.digest(kernel))
    assert len(shelf.names()) == 60
    gone(shelf, limit_bytes=3.5 * 2**20)
    left = shelf.cache.entries()
    assert [manifest.kind for _, manifest in left] == ["tree", "boot", "snapshot"]
    assert left[0][1].inputs["image"] == "19"


def test_what_is_of_a_tree_that_is_gone_goes_whatever_the_bounds(shelf: Shelf, tmp_path: Path) -> None:
    kernel = shelf.put("tree", tree=str(tmp_path / "none"))
    boot = shelf.put("boot", kernel=shelf.digest(kernel))
    stays = shelf.put("guest", suite="trixie")
    reasons = {each.folder.name: each.why for each in to_go(
        shelf.cache.entries(), limit_bytes=NEVER, unused_s=NEVER)}  # fmt: skip
    assert reasons == {
        kernel.name: f"{tmp_path / 'none'} is gone",
        boot.name: "what it was made of is gone",
    }
    assert set(gone(shelf)) == {kernel.name, boot.name}
    assert shelf.names() == {stays.name}


def test_by_age(shelf: Shelf) -> None:
    old, new = shelf.put("guest", 31, suite="a"), shelf.put("guest", 29, suite="b")
    assert gone(shelf, unused_s=30 * DAY_S) == [old.name]
    assert shelf.names() == {new.name}


def test_by_size_the_longest_unused_first(shelf: Shelf) -> None:
    names = [shelf.put("guest", days, suite=str(days)).name for days in (3, 9, 1, 6)]
    assert gone(shelf, limit_bytes=2.5 * 2**20) == [names[1], names[3]]
    assert gone(shelf, limit_bytes=2.5 * 2**20) == []


def test_what_was_used_lately_is_spared(shelf: Shelf) -> None:
    old, new = shelf.put("guest", 2, suite="a"), shelf.put("guest", 0.5, suite="b")
    assert gone(shelf, limit_bytes=0, spared_s=DAY_S) == [old.name]
    assert shelf.names() == {new.name}


def test_what_is_in_use_stays(shelf: Shelf) -> None:
    used, unused = shelf.put("guest", 9, suite="trixie"), shelf.put("guest", 8, suite="b")
    ensures = "entry, _ = cache.ensure('guest', {'suite': 'trixie'}, build); here('used')"
    with other(shelf.cache, ensures) as user:
        assert user.says() == "used"
        assert gone(shelf, limit_bytes=0) == [unused.name]
    assert shelf.names() == {used.name}
    assert gone(shelf, limit_bytes=0) == [used.name]


def test_asking_for_it_is_using_it(shelf: Shelf) -> None:
    old = shelf.put("guest", 40, suite="a")
    shelf.cache.ensure("guest", {"suite": "a"}, lambda into: ({}, ()))
    USES.let_go(old)
    assert gone(shelf, unused_s=30 * DAY_S) == []


# --- the commands ----------------------------------------------------------------------------------------


def said(shelf: Shelf, *words: str) -> Result:
    return CliRunner().invoke(klp, words, env={"KLP_CACHE": str(shelf.cache.layout.root)})


def test_the_command_removes_or_only_says_so(shelf: Shelf) -> None:
    entry = shelf.put("guest", 40, suite="a")
    shelf.put("guest", suite="b")
    shown = said(shelf, "image", "gc", "--age", "30", "-n").output.splitlines()
    assert shown == [f"{entry.name}: would go (not used for 40 days)", "1 MiB would be given back"]
    assert len(shelf.names()) == 2
    shown = said(shelf, "image", "gc", "--age", "30").output.splitlines()
    assert shown == [f"{entry.name}: removed (not used for 40 days)", "1 MiB were given back"]
    assert len(shelf.names()) == 1
    said(shelf, "image", "gc", "--size", "0")
    assert shelf.names() == set()


def test_a_tree_that_is_gone_is_shown_and_can_be_removed(shelf: Shelf, tmp_path: Path) -> None:
    tree = tmp_path / "linux"
    kernel = shelf.put("tree", tree=str(tree))
    shelf.put("snapshot", kernel=shelf.digest(kernel))
    shelf.put("guest", suite="a")
    assert f"{tree} (gone)" in said(shelf, "image", "list").output
    assert said(shelf, "image", "rm", str(tree)).exit_code == 0
    assert len(shelf.names()) == 1
    again = said(shelf, "image", "rm", str(tree))
    assert again.exception is not None
    assert f"unknown kernel {tree}" in str(again.exception)


def test_it_happens_by_itself_above_the_limit(shelf: Shelf) -> None:
    class Notes(Silent):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def note(self, line: str) -> None:
            self.lines.append(line)

    old, new = shelf.put("guest", 2, suite="a"), shelf.put("guest", 0.1, suite="b")
    notes = Notes()
    root = str(shelf.cache.layout.root)
    gone_tree = shelf.put("tree", tree=str(shelf.cache.layout.root / "none"))
    Library(Settings(cache=root, cache_limit_gib=1.0), notes)._tidy()
    assert notes.lines == []  # below it nothing is removed, not even what is of no use
    shutil.rmtree(gone_tree)
    Library(Settings(cache=root, cache_limit_gib=0.5 * 2**20 / GIB), notes, building=False)._tidy()
    assert shelf.names() == {old.name, new.name}
    Library(Settings(cache=root, cache_limit_gib=0.5 * 2**20 / GIB), notes)._tidy()
    assert shelf.names() == {new.name}
    assert notes.lines == [f"removed from the cache: {old.name} (above 0.0 GiB, and the longest unused)"]
