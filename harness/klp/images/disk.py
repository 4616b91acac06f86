# SPDX-License-Identifier: Apache-2.0
"""Disk images and initrds, made of folders without being root."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from klp.images.sandbox import as_root_of_files
from klp.process import run
from klp.progress import unheard
from klp.sidework import looked_at

_MIB = 2**20
# Half as much again as the files take: for metadata, and for what a guest writes. The image is sparse, so
# on the host it costs nothing.
_HEADROOM = 1.5


def tree_size(folder: Path) -> int:
    """Return the bytes a folder's files need, in whole 4 KiB blocks."""
    total = 0
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            total += (os.lstat(Path(parent, name)).st_size // 4096 + 1) * 4096
    return total


def make_ext4(
    folder: Path,
    image: Path,
    *,
    label: str,
    spare_mib: int = 64,
    tell: Callable[[str], None] = unheard,
) -> None:
    """Write `folder` as an ext4 image with `spare_mib` to spare; every file is root's in it.

    No journal: a guest's disk is an overlay that is thrown away, never recovered.

    Args:
        tell: gets how far it is.
    """
    # UUID and hash seed are fixed: mke2fs draws them at random, and equal folders are to make equal images.
    content = tree_size(folder)
    size_mib = int(content * _HEADROOM) // _MIB + spare_mib
    image.unlink(missing_ok=True)
    with looked_at(lambda: tell(written_so_far(image, content))):
        run(as_root_of_files([
            "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^resize_inode", "-m", "0",
            "-E", "lazy_itable_init=1,hash_seed=6b6c7000-0000-4000-8000-000000000000",
            "-U", "6b6c7000-0000-4000-8000-000000000001",
            "-L", label, "-d", folder, image, f"{size_mib}M",
        ]))  # fmt: skip


def written_so_far(image: Path, content: int) -> str:
    """Return how much of a sparse image is there, in words, of as many bytes of content."""
    try:
        there = image.stat().st_blocks * 512
    except FileNotFoundError:
        there = 0
    return f"{min(there, content) / 1e6:.0f} of {content / 1e6:.0f} MB written"


def make_kernel_disk(staging: Path, image: Path, tell: Callable[[str], None] = unheard) -> None:
    """Write what `Kernel.disk` is: ``modules/RELEASE`` and ``src/`` of a folder."""
    make_ext4(staging, image, label="klp-kernel", spare_mib=8, tell=tell)


def quoted(path: Path) -> str:
    """Return a path as a command of debugfs's takes it, blanks and all."""
    return '"' + str(path).replace('"', '""') + '"'


def make_initrd(files: Mapping[str, Path], scratch: Path, initrd: Path) -> None:
    """Write an uncompressed initrd (newc cpio) of `files`: path in the initrd to file or folder here.

    Uncompressed, because unpacking under emulation takes longer than reading a few megabytes.
    """
    for inside, source in files.items():
        target = scratch / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        run(["cp", "--archive", source, target])
    # A shell, because cpio reads names from standard input, and `klp.process.run` gives commands none.
    run(["sh", "-c", 'cd "$1" && find . -mindepth 1 | LC_ALL=C sort |'
         ' cpio --create --quiet --format=newc --reproducible --owner=+0:+0 >"$2"',
         "sh", scratch, initrd])  # fmt: skip
