# SPDX-License-Identifier: Apache-2.0
"""The frozen values that most rooms hand on: a kernel, an image to boot it in, a module built for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Accelerator(StrEnum):
    """What executes the guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that can be booted, and what modules for it are built with.

    Attributes:
        name: what the user called it: ``6.12``, or the path of a build tree.
        release: ``uname -r`` of it.
        digest: of everything that went into it; equal digests boot the same bits.
        image: the uncompressed ELF kernel, which QEMU starts at its PVH entry; a bzImage where it has none.
        initrd: holds klp's init, and only the modules that it takes to find the disks.
        disk: read-only ext4 with ``modules/RELEASE`` and ``src/``, labelled klp-kernel.
        build: the folder `make M=` is pointed at, as seen inside `toolchain`.
        toolchain: root folder with the compiler that built the kernel.
        source: samples, selftests, documentation and checkpatch from the kernel's source, or None.
        tree: a user's own build tree, seen inside the toolchain at the same path; else None.
        architecture: of the CPU it runs on, by its name in `klp.arch`.
        config: the file of the configuration it was built with; None where it is not known.
        cache: the folder of the cache that it is of; None where it is of none.
        mirror: where its packages come from, a URI; empty for mmdebstrap's own choice.
    """

    name: str
    release: str
    digest: str
    image: Path
    initrd: Path
    disk: Path
    build: Path
    toolchain: Path
    source: Path | None
    tree: Path | None = None
    architecture: str = "amd64"
    config: Path | None = None
    cache: Path | None = None
    mirror: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """All it takes to boot a guest: a root disk, a kernel, and the keys to talk to it.

    Attributes:
        name: its kernel's.
        digest: of root disk and kernel together.
        root_disk: ext4; never written, each guest gets an overlay.
        ssh_key: private key file that the guest's root accepts.
        host_key: the guest's public host key, ``ssh-ed25519 AAAA…``.
    """

    name: str
    digest: str
    kernel: Kernel
    root_disk: Path
    ssh_key: Path
    host_key: str


@dataclass(frozen=True, slots=True)
class Module:
    """A kernel module file, as modinfo tells it.

    Attributes:
        name: as sysfs and lsmod show it (underscores).
        file: the .ko.
        vermagic: the kernel release and options it was built for.
        livepatch: whether MODULE_INFO(livepatch, "Y") is in it.
        depends: modules that must be loaded before it, by name; insmod does not do that by itself.
        licence: MODULE_LICENSE, or an empty string.
        sha256: hex digest of the file.
    """

    name: str
    file: Path
    vermagic: str
    livepatch: bool
    depends: tuple[str, ...]
    licence: str
    sha256: str
