# SPDX-License-Identifier: Apache-2.0
"""A user's own kernel build tree: booted, and patched with a module that was built against it.

The tree is put together from the cached Debian kernel as `make` would have left it: nothing is compiled.
Its kernel is the same, so this shows how trees are read, not that other kernels work.
"""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from pathlib import Path

import pytest

from klp import progress, settings
from klp.errors import UsageError
from klp.lab.lab import booted
from klp.modules.build import build
from klp.modules.sources import find_source
from klp.paths import RunLayout
from klp.process import run
from klp.vm.request import MachineRequest

from .trees import copy_modules, removed_after

pytestmark = pytest.mark.vm("6.12")

_SETUP_SECTORS = 4


def make_bzimage(kernel: Path, bzimage: Path) -> None:
    """Pack an ELF kernel as arch/x86/boot does (Documentation/arch/x86/boot.rst), without a loader."""
    payload = gzip.compress(kernel.read_bytes(), compresslevel=1)
    setup = bytearray((_SETUP_SECTORS + 1) * 512)
    setup[0x1F1] = _SETUP_SECTORS
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", setup, 0x248, 0, len(payload))
    bzimage.write_bytes(bytes(setup) + payload)


def copy_sources(image, tree: Path, source: Path) -> None:
    """Debian splits a tree over folders, with makefiles of its own; put it together, or in two for O=."""
    release = image.kernel.release
    flavour = image.kernel.toolchain / "usr/src" / f"linux-headers-{release}"
    common = flavour.with_name(f"linux-headers-{release.removesuffix('-amd64')}-common")
    for folder, into in ((common, source), (flavour, tree)):
        into.mkdir(exist_ok=True)
        run(["cp", "--archive", "--dereference", f"{folder}/.", into])
    if source == tree:
        shutil.copyfile(common / "Makefile", tree / "Makefile")
    else:
        (tree / "Makefile").write_text(f"include {source}/Makefile\n")
        (tree / "source").symlink_to(source)
    (tree / ".kernelvariables").unlink()
    (tree / "include/config/kernel.release").write_text(f"{release}\n")


@pytest.fixture(scope="module")
def tree(image, tmp_path_factory):
    """A folder as it is after `make && make modules`."""
    folder = tmp_path_factory.mktemp("tree") / "linux"
    copy_sources(image, folder, folder)
    copy_modules(image, folder)
    (folder / "arch/x86/boot").mkdir(exist_ok=True)
    make_bzimage(image.kernel.image, folder / "arch/x86/boot/bzImage")
    return folder


@pytest.fixture(scope="module")
def tree_image(library, tree):
    with removed_after(library, tree):
        yield library.ensure(str(tree))


def test_the_kernel_is_the_trees_own(image, tree, tree_image):
    kernel = tree_image.kernel
    assert (kernel.name, kernel.tree, kernel.build) == (str(tree), tree, tree)
    assert kernel.release == image.kernel.release
    assert kernel.digest != image.kernel.digest
    assert kernel.image.read_bytes() == image.kernel.image.read_bytes()


def test_it_is_built_once(library, tree, tree_image):
    assert library.ensure(str(tree)) == tree_image
    assert {manifest.kind for _, manifest in library.parts(str(tree))} == {"tree", "boot"}


def test_the_tree_is_not_written_to(tree, tree_image, tmp_path):
    before = {each: each.lstat().st_mtime_ns for each in tree.rglob("*")}
    build(find_source("version-banner"), tree_image.kernel, tmp_path, progress.Silent())
    assert {each: each.lstat().st_mtime_ns for each in tree.rglob("*")} == before


def test_a_livepatch_built_against_it_works_on_it(tree_image, accelerator, tmp_path):
    source = find_source("version-banner")
    [module] = build(source, tree_image.kernel, tmp_path / "modules", progress.Silent())
    assert module.vermagic.split()[0] == tree_image.kernel.release
    layout = RunLayout(tmp_path)
    request = MachineRequest.from_settings(tree_image, settings.load(), accelerator)
    with booted(request, layout, progress.Silent()) as lab:
        assert lab.guest.read("/proc/sys/kernel/osrelease") == tree_image.kernel.release
        assert "livepatched" not in lab.guest.read("/proc/version")
        lab.guest.put(module.file, "/root/banner.ko")
        lab.guest.run("insmod /root/banner.ko").must("insmod")
        lab.livepatches.wait_transition(module.name, deadline_s=60, stuck=print)
        assert lab.guest.read("/proc/version").endswith("livepatched by klp")
        headers = f"/usr/src/linux-headers-{tree_image.kernel.release}"
        for name in ("include/linux/livepatch.h", "include/generated/autoconf.h", ".config"):
            assert lab.guest.run(["test", "-s", f"{headers}/{name}"]).status == 0, name


def test_two_trees_of_one_release_share_no_folder_of_a_check(klp, library, tree, tree_image, tmp_path):
    """What a kernel developer does: the same livepatch on the tree before and the tree after."""
    other, out = tmp_path / "other", tmp_path / "out"
    run(["cp", "--archive", "--link", tree, other])
    with removed_after(library, other):
        done = klp("check", "version-banner", "-k", tree, "-k", other, "-s", "static", "-o", out)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads((out / "check.json").read_text())["outcomes"]
    assert [(each["kernel"], each["scenario"], each["verdict"]) for each in outcomes] == [
        (str(kernel), scenario, "held") for kernel in (tree, other) for scenario in ("build", "static")
    ]
    release = tree_image.kernel.release
    modules = {str(each.relative_to(out)) for each in out.rglob("*.ko")}
    assert modules == {
        f"{label}/version-banner/modules/klp_version_banner.ko" for label in (release, f"{release}-2")
    }


def test_a_changed_kernel_is_another_entry(library, tree, tree_image):
    symvers = tree / "Module.symvers"
    kept = symvers.read_text()
    symvers.write_text(kept + "0x00000000\tnone\tvmlinux\tEXPORT_SYMBOL\t\n")
    try:
        assert library.ensure(str(tree)).kernel.digest != tree_image.kernel.digest
    finally:
        symvers.write_text(kept)


def test_a_changed_header_is_another_entry(library, tree, tree_image):
    """BCC includes them in the guest, so an entry made of the old ones must not be found."""
    header = tree / "include/generated/autoconf.h"
    kept = header.read_text()
    header.write_text(f"{kept}\n")
    try:
        assert library.ensure(str(tree)).kernel.digest != tree_image.kernel.digest
    finally:
        header.write_text(kept)


def test_a_vmlinux_built_after_the_bzimage_is_what_boots(library, tree, tree_image):
    """`make vmlinux` leaves the bzImage as it was: of another kernel."""
    vmlinux = tree / "vmlinux"
    shutil.copyfile(tree_image.kernel.image, vmlinux)
    with vmlinux.open("ab") as stream:
        stream.write(b"built later")
    try:
        assert library.ensure(str(tree)).kernel.image.read_bytes().endswith(b"built later")
    finally:
        vmlinux.unlink()


def test_an_output_folder(library, image, tmp_path):
    """make O=: sources and makefiles are in another folder, which `source` links to."""
    tree = tmp_path / "out"
    copy_sources(image, tree, tmp_path / "linux")
    copy_modules(image, tree)
    shutil.copyfile(image.kernel.image, tree / "vmlinux")
    with removed_after(library, tree):
        kernel = library.ensure(str(tree)).kernel
        [module] = build(find_source("version-banner"), kernel, tmp_path, progress.Silent())
        assert module.livepatch
        header = f"/src/linux-headers-{kernel.release}/include/linux/livepatch.h"
        assert run(["debugfs", "-R", f"stat {header}", kernel.disk]).stdout.startswith("Inode: ")


def test_a_module_that_was_not_built_is_named(library, tree, tree_image):
    order = tree / "modules.order"
    kept = order.read_text()
    order.write_text(kept + "drivers/gone/gone.o\n")
    try:
        with pytest.raises(
            UsageError, match=r"drivers/gone/gone\.ko: listed in modules.order and not built"
        ):
            library.ensure(str(tree))
    finally:
        order.write_text(kept)
    assert tree_image.kernel.image.is_file()
