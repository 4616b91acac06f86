# SPDX-License-Identifier: Apache-2.0
"""A kernel's builder is chosen by its name, and says what its entry depends on; nothing is built here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from klp.errors import UsageError
from klp.images.builder import KernelBuilder
from klp.images.cache import EntryKind, Manifest
from klp.images.compiled import CompiledTree, KernelSource
from klp.images.definition import definition, definitions
from klp.images.library import Library
from klp.images.stock import StockKernel
from klp.images.tree import TreeKernel
from klp.progress import Silent
from klp.settings import Settings


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(Settings(cache=str(tmp_path / "cache")), Silent())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a builder looks at of a built kernel."""
    files = {
        ".config": 'CONFIG_CC_VERSION_TEXT="gcc-14 (Debian 14.2.0-19) 14.2.0"\n',
        "Module.symvers": "",
        "include/config/kernel.release": "6.12.0-mine\n",
        "include/generated/autoconf.h": "#define A\n",
        "modules.order": "drivers/a.o\n",
        "drivers/a.ko": "module",
        "arch/x86/boot/bzImage": "image",
    }
    for name, text in files.items():
        file = tmp_path / "linux" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "linux"


def test_the_name_chooses_the_builder(
    library: Library, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.parent)
    for name in definitions():
        builder = library.builder(name)
        assert isinstance(builder, StockKernel)
        assert (builder.name, builder.kind, builder.definition()) == (
            name,
            EntryKind.KERNEL,
            definition(name),
        )
    for name in ("linux", "./linux", str(tree)):
        builder = library.builder(name)
        assert isinstance(builder, TreeKernel)
        assert (builder.name, builder.kind) == (str(tree), EntryKind.TREE)


def test_a_name_of_no_kernel_has_no_builder(library: Library) -> None:
    for ask in (library.builder, library.ensure, library.parts, library.source):
        with pytest.raises(UsageError, match=r"unknown kernel 9\.9"):
            ask("9.9")


def builders(library: Library, tree: Path) -> list[KernelBuilder]:
    return [library.builder(name) for name in (*definitions(), str(tree))]


def test_a_kernels_mark_is_among_its_inputs_and_its_own(library: Library, tree: Path) -> None:
    found = builders(library, tree)
    assert all(each.mark.items() <= each.inputs().items() for each in found)
    assert len({tuple(each.mark.items()) for each in found}) == len(found)


def test_the_mirror_is_an_input_of_what_comes_from_it() -> None:
    one, other = (StockKernel(definition("6.12"), mirror, Silent()) for mirror in ("", "http://mirror/"))
    assert one.inputs() != other.inputs()
    assert one.mark == other.mark


@pytest.mark.parametrize(
    "changed",
    [
        ".config",
        "Module.symvers",
        "include/generated/autoconf.h",
        "drivers/a.ko",
        "arch/x86/boot/bzImage",
    ],
)
def test_what_a_tree_is_built_of_is_an_input(library: Library, tree: Path, changed: str) -> None:
    builder = library.builder(str(tree))
    before = builder.inputs()
    assert builder.inputs() == before
    with (tree / changed).open("a") as file:
        file.write("more")
    assert builder.inputs() != before


def test_a_module_that_was_not_built_is_told(library: Library, tree: Path) -> None:
    (tree / "drivers/a.ko").unlink()
    with pytest.raises(UsageError, match=r"a\.ko: listed in modules\.order and not built"):
        library.builder(str(tree)).inputs()


def entry(library: Library, kind: str, **inputs: str) -> str:
    """Have an entry, as another process, or another version of klp, would have left it."""
    digest = f"{len(list(library.layout.root.glob('*'))):016x}"
    manifest = Manifest(
        kind=kind, digest=digest, inputs=inputs, facts={}, files={}, size=0, built=int(digest, 16)
    )
    folder = library.layout.root / f"{kind}-{digest}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return digest


def test_the_parts_of_a_kernel_are_found_by_its_mark(library: Library, tree: Path) -> None:
    stock = entry(library, EntryKind.KERNEL, series="6.12", recipe="1")
    older = entry(library, EntryKind.KERNEL, series="6.12", recipe="0")
    other = entry(library, EntryKind.KERNEL, series="6.1", recipe="1")
    built = entry(library, EntryKind.TREE, tree=str(tree), image="a")
    entry(library, "of-tomorrow", series="6.12", kernel=stock)
    wanted = {"6.12": [stock, older], "6.1": [other], str(tree): [built]}
    for digests in wanted.values():
        digests += [
            entry(library, kind, kernel=digests[0])
            for kind in (EntryKind.BOOT, EntryKind.PREPARED, EntryKind.SNAPSHOT)
        ]
    # What works in every user's tree is no kernel's own.
    entry(library, EntryKind.PREPARED, suite="trixie")
    for kernel, digests in wanted.items():
        assert [manifest.digest for _, manifest in library.parts(kernel)] == digests


# --- trees that are compiled here -------------------------------------------------------------------


@pytest.fixture
def made_of(tmp_path: Path, tool: Callable[[str], str]) -> Callable[[str], KernelSource]:
    """Make a root folder with a kernel's source of a version, as far as unpacking needs it."""
    from klp.process import run

    tool("dpkg-query")

    def make(version: str) -> KernelSource:
        root = tmp_path / "root"
        shutil.rmtree(root, ignore_errors=True)
        (root / "usr/src").mkdir(parents=True)
        (root / "var/lib/dpkg").mkdir(parents=True)
        (root / "var/lib/dpkg/status").write_text(
            f"Package: linux-source-6.12\nStatus: install ok installed\nMaintainer: m\n"
            f"Architecture: all\nVersion: {version}\nDescription: d\n\n"
        )
        top = tmp_path / "linux-source-6.12"
        top.mkdir(exist_ok=True)
        (top / "Makefile").write_text(version)
        tarball = root / "usr/src/linux-source-6.12.tar.xz"
        run(["tar", "--create", "--xz", f"--file={tarball}", f"--directory={tmp_path}", top.name])
        return KernelSource(root, "gcc-14")

    return make


def test_a_source_is_unpacked_once_for_each_version(
    tmp_path: Path, made_of: Callable[[str], KernelSource]
) -> None:
    config = tmp_path / "my.config"
    config.write_text("CONFIG_LIVEPATCH=y\n")
    first = CompiledTree(tmp_path / "tree", config, made_of("6.12.1-1"), Silent())
    assert not first.is_unpacked()
    first.unpack()
    (first.folder / "object.o").touch()
    first.unpack()
    assert (first.folder / "Makefile").read_text() == "6.12.1-1"
    assert (first.folder / "object.o").exists()
    before = first.digest()
    second = CompiledTree(tmp_path / "tree", config, made_of("6.12.2-1"), Silent())
    assert not second.is_unpacked()
    second.unpack()
    assert (second.folder / "Makefile").read_text() == "6.12.2-1"
    assert not (second.folder / "object.o").exists()
    assert second.digest() != before


def test_the_configuration_tells_compiled_trees_apart(
    tmp_path: Path, made_of: Callable[[str], KernelSource]
) -> None:
    config, source = tmp_path / "my.config", made_of("6.12.1-1")
    config.write_text("CONFIG_LIVEPATCH=y\n")
    before = CompiledTree(tmp_path / "tree", config, source, Silent()).digest()
    config.write_text("CONFIG_LIVEPATCH=y\nCONFIG_KASAN=y\n")
    assert CompiledTree(tmp_path / "tree", config, source, Silent()).digest() != before
