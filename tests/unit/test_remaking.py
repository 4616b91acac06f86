# SPDX-License-Identifier: Apache-2.0
"""`klp make` of a patch that was edited: what it made before gives way, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from klp.cli.common import below_here
from klp.errors import BuildFailed, UsageError
from klp.modules.patchfile import patch_series, write_inputs
from klp.records.remaking import earlier_aside
from klp.records.writing import new_folder
from klp.settings import Settings
from klp.sourcepatch.report import REPORT, Made, MadeFolder, encoded

RELEASE = "6.12.118+deb13-amd64"


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    file = tmp_path / "fix.patch"
    file.write_text("--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n")
    return file


def made(patch: Path, folder: Path) -> None:
    """Leave what `klp make` leaves, without the modules."""
    write_inputs(patch_series((patch,), cumulative=False), folder)
    (folder / RELEASE).mkdir()
    (folder / RELEASE / "livepatch-fix.ko").write_text("earlier")
    one = Made(
        livepatch="livepatch_fix", file="livepatch-fix.ko", kernel="6.12", release=RELEASE,
        patches=(patch.name,), units=(), objects=(),
    )  # fmt: skip
    (folder / REPORT).write_bytes(encoded(MadeFolder(made=(one,), again=())))


def make_again(patch: Path, folder: Path, *, fails: bool = False) -> bool:
    source = patch_series((patch,), cumulative=False)
    with earlier_aside(folder, source) as earlier, new_folder(Settings(), folder, "make") as layout:
        assert list(layout.root.iterdir()) == []
        (layout.root / "new").touch()
        if fails:
            raise BuildFailed("x.c: refused", output="")
    return earlier


def test_what_was_made_of_the_patch_gives_way(patch: Path, tmp_path: Path) -> None:
    folder = tmp_path / "livepatch-fix"
    assert not make_again(patch, folder)
    (folder / "new").unlink()
    made(patch, folder)
    assert make_again(patch, folder)
    assert [each.name for each in folder.iterdir()] == ["new"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["fix.patch", "livepatch-fix"]


def test_a_patch_that_does_not_build_costs_nothing_of_it(patch: Path, tmp_path: Path) -> None:
    folder = tmp_path / "livepatch-fix"
    folder.mkdir()
    made(patch, folder)
    with pytest.raises(BuildFailed):
        make_again(patch, folder, fails=True)
    assert (folder / RELEASE / "livepatch-fix.ko").read_text() == "earlier"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["fix.patch", "livepatch-fix"]


@pytest.mark.parametrize(
    "kind", ["a file of the user's", "another patch's", "no report", "the patch is in it"]
)
def test_all_else_is_left_alone(patch: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "livepatch-fix"
    folder.mkdir()
    made(patch, folder)
    if kind == "a file of the user's":
        (folder / "notes.txt").touch()
    elif kind == "another patch's":
        patch = patch.rename(tmp_path / "other.patch")
    elif kind == "no report":
        (folder / REPORT).unlink()
    else:
        patch = folder / patch.name
    before = sorted(folder.rglob("*"))
    with pytest.raises(UsageError, match="not empty"):
        make_again(patch, folder)
    assert sorted(folder.rglob("*")) == before


def test_a_path_is_shown_relative_where_it_is_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert below_here(tmp_path / "livepatch-fix" / "a.ko") == Path("livepatch-fix/a.ko")
    assert below_here(Path("/elsewhere/a.ko")) == Path("/elsewhere/a.ko")
