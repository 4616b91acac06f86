# SPDX-License-Identifier: Apache-2.0
"""The initrd's modules: all that the disks need, each after what it needs itself."""

from __future__ import annotations

import gzip
import lzma
import shutil
from pathlib import Path

import pytest

from klp.errors import UsageError
from klp.images.kmods import boot_closure, collect_boot_modules, copy_plain, listed_module
from klp.process import run

# As depmod writes it: the nearest dependency first.
DEPENDS = """\
kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko.xz kernel/fs/mbcache.ko.xz
kernel/fs/jbd2/jbd2.ko.xz:
kernel/fs/mbcache.ko.xz:
kernel/lib/crc16.ko.xz:
kernel/arch/x86/crypto/crc32c-intel.ko.xz:
kernel/crypto/unrelated.ko.xz:
kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz \
kernel/drivers/virtio/virtio.ko.xz
kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz \
kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko.xz
kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz
kernel/net/core/failover.ko.xz:
kernel/drivers/virtio/virtio.ko.xz:
kernel/drivers/virtio/virtio_ring.ko.xz: kernel/drivers/virtio/virtio.ko.xz
"""
BUILTIN = "kernel/drivers/virtio/virtio_pci.ko\nkernel/fs/binfmt_script.ko\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "modules.dep").write_text(DEPENDS)
    (tmp_path / "modules.builtin").write_text(BUILTIN)
    return tmp_path


def test_each_module_stands_after_what_it_needs(folder: Path) -> None:
    order = boot_closure(folder)
    needs = dict(line.split(":") for line in DEPENDS.splitlines())
    for place, module in enumerate(order):
        assert set(needs[module].split()) <= set(order[:place]), module


def test_nothing_is_left_out_or_said_twice_or_not_asked_for(folder: Path) -> None:
    names = [listed_module(each) for each in boot_closure(folder)]
    assert sorted(names) == sorted([
        "crc32c_intel", "virtio", "virtio_ring", "virtio_blk", "failover", "net_failover",
        "virtio_net", "mbcache", "crc16", "jbd2", "ext4",
    ])  # fmt: skip


def test_what_is_built_in_is_not_needed(folder: Path) -> None:
    (folder / "modules.dep").write_text("")
    (folder / "modules.builtin").write_text(
        BUILTIN + "".join(f"kernel/x/{name}.ko\n" for name in ("virtio-blk", "virtio_net", "ext4"))
    )
    assert boot_closure(folder) == []


@pytest.mark.parametrize("name", ["virtio_pci", "virtio_blk", "virtio_net", "ext4"])
def test_a_kernel_without_one_is_refused(folder: Path, name: str) -> None:
    kept = [line for line in DEPENDS.splitlines() if f"/{name}.ko.xz:" not in line]
    (folder / "modules.dep").write_text("\n".join(kept) + "\n")
    (folder / "modules.builtin").write_text(BUILTIN.replace(name, "other"))
    with pytest.raises(UsageError, match=f"has no {name}, built in or as a module"):
        boot_closure(folder)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/fs/ext4/ext4.ko.xz", "ext4"),
        ("kernel/arch/x86/crypto/crc32c-intel.ko", "crc32c_intel"),
        ("a.b/virtio_blk.ko.zst", "virtio_blk"),
    ],
)
def test_module_names(path: str, name: str) -> None:
    assert listed_module(path) == name


def packed(kind: str, content: bytes, tmp_path: Path) -> Path:
    file = tmp_path / f"a.ko{kind}"
    if kind == ".zst":
        (tmp_path / "plain").write_bytes(content)
        run(["zstd", "--quiet", tmp_path / "plain", "-o", file])
    else:
        file.write_bytes({".xz": lzma.compress, ".gz": gzip.compress, "": bytes}[kind](content))
    return file


@pytest.mark.parametrize("kind", ["", ".xz", ".gz", ".zst"])
def test_modules_are_copied_unpacked(tmp_path: Path, kind: str) -> None:
    if kind == ".zst" and not shutil.which("zstd"):
        pytest.skip("zstd is not installed here")
    content = b"\x7fELF" + bytes(range(256)) * 8
    copy_plain(packed(kind, content, tmp_path), tmp_path / "out.ko")
    assert (tmp_path / "out.ko").read_bytes() == content


def test_boot_modules_are_collected_in_order(folder: Path) -> None:
    for line in DEPENDS.splitlines():
        file = folder / line.partition(":")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(lzma.compress(file.name.encode()))
    collect_boot_modules(folder, folder / "boot")
    order = (folder / "boot" / "order").read_text().split()
    assert order == [f"{listed_module(each)}.ko" for each in boot_closure(folder)]
    assert {each.name for each in (folder / "boot").iterdir()} == {"order", *order}
    assert (folder / "boot" / "crc32c_intel.ko").read_bytes() == b"crc32c-intel.ko.xz"
