# SPDX-License-Identifier: Apache-2.0
"""A source patch as a word of the user's: which livepatches it stands for, and its plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from klp.errors import SettingsError, UsageError
from klp.modules.patchfile import SourcePatch, patch_series, write_inputs
from klp.modules.plan import plans_of
from klp.modules.sources import find_source

DIFF = "--- a/fs/x.c\n+++ b/fs/x.c\n@@ -1 +1 @@\n-a\n+b\n"


def patch(folder: Path, name: str, toml: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.patch"
    file.write_text(DIFF)
    if toml:
        (folder / f"{name}.toml").write_text(toml)
    return file


def found(file: Path) -> SourcePatch:
    source = find_source(str(file))
    assert isinstance(source, SourcePatch)
    return source


def test_a_patch_stands_for_one_livepatch_of_its_name(tmp_path: Path) -> None:
    source = found(patch(tmp_path, "0001-net: Fix_A bug"))
    [layer] = source.layers
    assert (layer.file, layer.module) == ("livepatch-0001-net-fix-a-bug", "livepatch_0001_net_fix_a_bug")
    [plan] = plans_of(source)
    assert (plan.livepatch, plan.load, plan.name) == (layer.module, (), "0001-net: Fix_A bug")


def test_a_long_name_fits_into_the_kernels_limit(tmp_path: Path) -> None:
    [layer] = found(patch(tmp_path, "x" * 90)).layers
    assert len(layer.module) < 56


def test_what_stands_beside_is_its_plan(tmp_path: Path) -> None:
    toml = '[[observe]]\ncommand = "cat /proc/x"\nenabled = "b"\n[make]\ncallbacks = "c.c"\n'
    file = patch(tmp_path, "fix", toml + "state = [{id = 7, version = 2}]\n")
    (tmp_path / "c.c").write_text("int x;")
    source = found(file)
    [plan] = plans_of(source)
    assert plan.observe[0].command == "cat /proc/x"
    [layer] = source.layers
    assert layer.callbacks == tmp_path / "c.c"
    assert [(each.id, each.version) for each in layer.states] == [(7, 2)]
    assert set(source.files) == {file, tmp_path / "c.c", tmp_path / "fix.toml"}


@pytest.mark.parametrize("toml", ["[make]\nfrist = []\n", "obserfe = 1\n", "[make]\nstate = [{id = -1}]\n"])
def test_a_misspelt_key_beside_is_told_with_its_line(tmp_path: Path, toml: str) -> None:
    file = patch(tmp_path, "fix", toml)
    with pytest.raises(SettingsError, match=r"fix\.toml:\d"):
        plans_of(found(file))


def test_a_file_that_is_named_beside_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"fix\.toml: none\.patch: no such file"):
        find_source(str(patch(tmp_path, "fix", '[make]\nfirst = ["none.patch"]\n')))


def test_the_digest_is_of_all_that_takes_part(tmp_path: Path) -> None:
    first = patch(tmp_path, "first")
    file = patch(tmp_path, "fix", '[make]\nfirst = ["first.patch"]\n')
    before = found(file).digest
    first.write_text(DIFF.replace("b", "c"))
    assert found(file).digest != before


def test_an_empty_patch_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "fix.patch"
    file.write_text("\n")
    with pytest.raises(UsageError, match="empty"):
        find_source(str(file))


def test_what_replaces_others_is_made_of_their_changes_too(tmp_path: Path) -> None:
    one, two = patch(tmp_path, "v1"), patch(tmp_path, "v2", '[make]\nreplaces = ["v1.patch"]\n')
    three = patch(tmp_path, "v3", '[make]\nreplaces = ["v1.patch", "v2.patch"]\n')
    source = found(three)
    assert [each.patches for each in source.layers] == [(one,), (one, two), (one, two, three)]
    assert [each.replace for each in source.layers] == [False, True, True]
    [plan] = plans_of(source)
    assert [each.module for each in plan.load] == ["livepatch_v1", "livepatch_v2"]
    assert plan.livepatch == "livepatch_v3"


def test_several_patches_of_a_command_line_are_one_livepatch(tmp_path: Path) -> None:
    one, two = patch(tmp_path, "one"), patch(tmp_path, "two")
    [layer] = patch_series((one, two), cumulative=False).layers
    assert (layer.file, layer.patches, layer.replace) == ("livepatch-two", (one, two), False)


def test_cumulative_ones_replace_each_other(tmp_path: Path) -> None:
    one, two = patch(tmp_path, "one"), patch(tmp_path, "two")
    first, second = patch_series((one, two), cumulative=True).layers
    assert (first.patches, first.replace) == ((one,), False)
    assert (second.patches, second.replace) == ((one, two), True)


@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize("beside", ["", "[make]\n", 'summary = "x"\n[make]\nstate = [{id = 1}]\n'])
def test_what_was_made_can_be_made_again_from_its_folder(
    tmp_path: Path, *, cumulative: bool, beside: str
) -> None:
    files = (patch(tmp_path / "in", "one"), patch(tmp_path / "in", "two", beside))
    source = patch_series(files, cumulative=cumulative)
    (tmp_path / "out").mkdir()
    again = found(write_inputs(source, tmp_path / "out"))
    assert [[each.name for each in layer.patches] for layer in again.layers] == [
        [each.name for each in layer.patches] for layer in source.layers
    ]
    assert [(each.file, each.replace, each.states) for each in again.layers] == [
        (each.file, each.replace, each.states) for each in source.layers
    ]
    assert plans_of(again) == plans_of(source)


def test_both_ways_to_say_what_comes_before_are_one_too_many(tmp_path: Path) -> None:
    one = patch(tmp_path, "one")
    two = patch(tmp_path, "two", '[make]\nfirst = ["one.patch"]\n')
    with pytest.raises(UsageError, match="says what comes before"):
        patch_series((one, two), cumulative=False)


def test_two_patches_of_one_name_are_refused(tmp_path: Path) -> None:
    one, two = patch(tmp_path / "a", "fix"), patch(tmp_path / "b", "fix")
    with pytest.raises(UsageError, match=r"fix\.patch: two patches have that name"):
        patch_series((one, two), cumulative=False)


def test_what_an_earlier_one_says_of_others_is_too_much_as_well(tmp_path: Path) -> None:
    patch(tmp_path, "zero")
    one = patch(tmp_path, "one", '[make]\nfirst = ["zero.patch"]\n')
    with pytest.raises(UsageError, match=r"one\.toml: says what comes before"):
        patch_series((one, patch(tmp_path, "two")), cumulative=True)


def test_a_table_that_cannot_be_added_to_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    two = patch(tmp_path, "two", "make = {state = [{id = 1}]}\n")
    with pytest.raises(UsageError, match="not on a line of its own"):
        patch_series((patch(tmp_path, "one"), two), cumulative=False)
