# SPDX-License-Identifier: Apache-2.0
"""What is removed is what klp made: no folder of the user's, nothing behind a link, no mode of a parent."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from klp.errors import BuildFailed, UsageError
from klp.files import remove_tree
from klp.records.writing import new_folder, remove_folder
from klp.settings import Settings


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that everyone may write to, as /tmp is."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def test_of_a_link_the_link_is_removed(shared: Path) -> None:
    (shared / "real").mkdir()
    (shared / "real" / "file").write_text("x")
    link = shared / "link"
    for remove in (remove_tree, remove_folder):
        link.symlink_to(shared / "real")
        remove(link)
        assert not link.is_symlink()
    assert (shared / "real" / "file").read_text() == "x"
    assert mode(shared) == 0o1777


def test_the_folder_around_is_left_as_it_is(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is another's: one that may not be removed is told, and nothing is opened for it."""
    (shared / "mine").mkdir()

    def refuse(path: object, **_: object) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr("os.rmdir", refuse)
    with pytest.raises(PermissionError):
        remove_tree(shared / "mine")
    assert mode(shared) == 0o1777


def fail_in(out: Path) -> None:
    """Have the preparing of a run fail, as a build of its modules does."""
    with new_folder(Settings(), out, "x") as layout:
        (layout.root / "modules").mkdir()
        (layout.root / "note").write_text("x")
        raise BuildFailed("no", output="")


def failing(out: Path) -> None:
    with pytest.raises(BuildFailed):
        fail_in(out)


def test_a_folder_that_was_there_stays_and_is_emptied(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir(0o750)
    failing(out)
    assert list(out.iterdir()) == []
    assert mode(out) == 0o750


def test_a_folder_that_was_made_goes(tmp_path: Path) -> None:
    failing(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_folder_that_was_there_stays(shared: Path) -> None:
    (shared / "real").mkdir()
    (shared / "out").symlink_to(shared / "real")
    failing(shared / "out")
    assert (shared / "out").readlink() == shared / "real"
    assert list((shared / "real").iterdir()) == []
    assert mode(shared) == 0o1777


def test_a_folder_with_something_in_it_is_refused_and_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="not empty"), new_folder(Settings(), tmp_path, "x"):
        raise AssertionError
    assert (tmp_path / "file").read_text() == "x"
