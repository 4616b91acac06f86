# SPDX-License-Identifier: Apache-2.0
"""Each word a user may give stands for the right sources, and each wrong one is told in one line."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from test_modules_modinfo import KO, kernel

from klp import paths
from klp.errors import UsageError
from klp.model import Kernel
from klp.modules.recipe import Recipe, recipe_for
from klp.modules.sources import BuiltModule, CFile, SourceFolder, UpstreamSamples, find_source

KERNEL = kernel("6.12.0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mine"
    made.mkdir()
    (made / "fix-it.c").write_text("int x;\n")
    (made / "fix.h").write_text("\n")
    return made


@pytest.fixture
def with_samples(tmp_path: Path) -> Kernel:
    samples = tmp_path / "source/samples/livepatch"
    samples.mkdir(parents=True)
    (samples / "Makefile").write_text("obj-$(CONFIG_SAMPLE_LIVEPATCH) += one.o\n")
    for name in ("one.c", "two.c", "one.mod.c"):
        (samples / name).write_text("int x;\n")
    return dataclasses.replace(KERNEL, source=tmp_path / "source")


def recipe(word: str, of: Kernel = KERNEL) -> Recipe:
    found = recipe_for(find_source(word), of)
    assert isinstance(found, Recipe)
    return found


def refusal(word: str, of: Kernel = KERNEL) -> UsageError:
    with pytest.raises(UsageError) as caught:
        recipe_for(find_source(word), of)
    assert "\n" not in caught.value.message
    return caught.value


def test_a_bare_name_is_one_of_patches() -> None:
    found = find_source("version-banner")
    assert isinstance(found, SourceFolder)
    assert (found.name, found.word) == ("version-banner", "version-banner")
    assert recipe_for(found, KERNEL) == Recipe(paths.PATCHES / "version-banner")


def test_a_folder_of_ones_own_comes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = folder.rename(folder.with_name("version-banner"))
    (own / "Kbuild").write_text("obj-m += fix-it.o\n")
    monkeypatch.chdir(own.parent)
    assert recipe("version-banner").folder == Path("version-banner")
    monkeypatch.chdir(own)
    assert find_source(".").name == "version-banner"
    assert find_source(".").word == str(own)


@pytest.mark.parametrize(
    "text",
    ["obj-m := a.o\n", "obj-m+=a.o", "obj-$(CONFIG_A) += a.o\n", "# A\n\nobj-y += sub/\n",
     "ifneq ($(KERNELRELEASE),)\n  obj-m := a.o\nelse\nall:\n\tmake\nendif\n"],
)  # fmt: skip
def test_a_folder_is_built_by_its_own_kbuild(folder: Path, text: str) -> None:
    (folder / "Makefile").write_text(text)
    assert recipe(str(folder)) == Recipe(folder)


def test_one_file_is_built_with_its_headers(folder: Path) -> None:
    assert isinstance(find_source(str(folder / "fix-it.c")), CFile)
    assert recipe(str(folder / "fix-it.c")) == Recipe(folder, ("fix-it.c", "fix.h"), "obj-m += fix-it.o\n")


def test_a_module_that_is_built_already(folder: Path) -> None:
    (folder / "a.ko.xz").write_bytes(b"\xfd7zXZ\0")  # modinfo says what to do with it
    for file in (KO, folder / "a.ko.xz"):
        found = find_source(str(file))
        assert isinstance(found, BuiltModule)
        assert found.file == file
        assert recipe_for(found, KERNEL) is found


def test_samples_are_all_of_upstreams(with_samples: Kernel) -> None:
    assert find_source("samples") == UpstreamSamples()
    found = recipe("samples", with_samples)
    assert found.kbuild == "obj-m += one.o\nobj-m += two.o\n"
    # The same by its path: distributions leave the option off. Not so in a folder of the user's.
    assert recipe(str(found.folder), with_samples).kbuild == found.kbuild
    assert recipe(str(found.folder)).kbuild == ""


def test_a_source_means_the_same_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "Kbuild").write_text("obj-m += fix-it.o\n")
    monkeypatch.chdir(folder.parent)
    here = [find_source(word) for word in ("mine", "mine/fix-it.c", "version-banner", "samples")]
    monkeypatch.chdir("/")
    there = [find_source(each.word) for each in here]
    assert [(each.name, each.word, each.digest) for each in here] == [
        (each.name, each.word, each.digest) for each in there
    ]


def test_a_digest_follows_the_sources_and_nothing_else(folder: Path) -> None:
    (folder / "Kbuild").write_text("obj-m += fix-it.o\n")

    def digests() -> tuple[str, str]:
        return find_source(str(folder)).digest, find_source(str(folder / "fix-it.c")).digest

    before = digests()
    (folder / "fix.o").write_text("what Kbuild left")
    (folder / ".cache").write_text("an editor's")
    assert digests() == before
    (folder / "fix.h").write_text("int y;\n")
    assert all(one != other for one, other in zip(digests(), before, strict=True))
    (folder / "fix.h").write_text("\n")
    assert digests() == before
    (folder / "fix.h").rename(folder / "other.h")
    assert all(one != other for one, other in zip(digests(), before, strict=True))


def test_a_kernel_without_samples_is_told(tmp_path: Path) -> None:
    assert "samples: kernel 6.12 comes without" in refusal("samples").message
    bare = dataclasses.replace(KERNEL, source=tmp_path)
    assert "samples: kernel 6.12 comes without" in refusal("samples", bare).message


def test_a_folder_that_builds_nothing_is_told(folder: Path) -> None:
    error = refusal(str(folder))
    assert "no Kbuild" in error.message
    assert "obj-m += fix-it.o" in str(error.hint)
    (folder / "Makefile").write_text("all:\n\tgcc\n# obj-m += a.o\n")
    assert "names no module" in refusal(str(folder)).message
    (folder / "fix-it.c").unlink()
    (folder / "Makefile").unlink()
    assert "version-banner" in str(refusal(str(folder)).hint)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("", "''"),
        ("no-such-patch", "no such file"),
        ("no/such/patch.c", "no such file"),
        ("a\0b", r"'a\x00b': no such file"),
        ("x" * 300, "too long"),
        ("..c", "no such file"),
        ("empty.c", "empty"),
        ("a b.c", "of that name"),
        ("fix.txt", "neither C source, nor a source patch, nor a kernel module"),
        ("pipe", "neither a file nor a folder"),
    ],
)
def test_what_is_no_source_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, word: str, says: str
) -> None:
    monkeypatch.chdir(folder)
    Path("empty.c").write_text(" \n")
    Path("a b.c").write_text("int x;\n")
    Path("fix.txt").write_text("---\n")
    os.mkfifo("pipe")
    error = refusal(word)
    assert says in error.message
    assert error.hint


def test_an_unreadable_file_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)  # chmod would not stop root
    assert "Permission denied" in refusal(str(folder / "fix-it.c")).message
