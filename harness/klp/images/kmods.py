# SPDX-License-Identifier: Apache-2.0
"""The modules of a kernel: which there are, and those that its initrd loads, in order."""

from __future__ import annotations

import gzip
import lzma
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from klp.errors import UsageError
from klp.images.disk import quoted
from klp.model import Kernel
from klp.process import run

# What finds the disks and the network in a guest of ours, by module name.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "ext4")
# What some kernels want besides without saying so in modules.dep: until v6.14 ext4 asks the crypto
# API for "crc32c" by name (fs/ext4/super.c), of which only a MODULE_SOFTDEP tells. Left out where the
# kernel has no such module.
OPTIONAL_MODULES = ("crc32c_generic", "crc32c_intel", "virtio_rng")


def listed_module(path: str) -> str:
    """Return the module's name for a path in modules.dep or modules.builtin."""
    return Path(path).name.split(".ko")[0].replace("-", "_")


def boot_closure(folder: Path) -> list[str]:
    """Return the module files the initrd needs, relative to `folder`, dependencies first.

    Args:
        folder: ``…/modules/RELEASE`` with the modules.dep and modules.builtin of depmod.

    Raises:
        UsageError: the kernel has one of them neither built in nor as a module.
    """
    # The initrd's insmod looks up no dependencies, so their order is found here.
    depends = dict(_read_depends(folder / "modules.dep"))
    by_name = {listed_module(path): path for path in depends}
    builtin = {listed_module(line) for line in (folder / "modules.builtin").read_text().split()}
    wanted = [name for name in OPTIONAL_MODULES if name in by_name]
    for name in BOOT_MODULES:
        if name in by_name:
            wanted.append(name)
        elif name not in builtin:
            raise UsageError(
                f"the kernel in {folder} has no {name}, built in or as a module",
                hint="enable it in the kernel's configuration",
            )
    ordered: dict[str, None] = {}
    for name in wanted:
        path = by_name[name]
        # modules.dep lists the nearest first; insmod needs the farthest first.
        ordered.update(dict.fromkeys([*reversed(depends[path]), path]))
    return list(ordered)


@dataclass(frozen=True, slots=True)
class KernelModules:
    """The modules of a kernel, by name.

    Attributes:
        loadable: those that can be loaded.
        builtin: those that are part of vmlinux, and never come or go.
    """

    loadable: frozenset[str]
    builtin: frozenset[str]


def modules_on(kernel: Kernel) -> KernelModules | None:
    """Return the modules on a kernel's disk; None where its lists cannot be read.

    Raises:
        HostLacks: there is no debugfs(8) here.
    """
    loadable = {listed_module(path) for path, _ in _depends(_on_disk(kernel, "modules.dep"))}
    builtin = {listed_module(line) for line in _on_disk(kernel, "modules.builtin").split()}
    return KernelModules(frozenset(loadable), frozenset(builtin)) if loadable | builtin else None


def needs_on(kernel: Kernel) -> dict[str, frozenset[str]]:
    """Return the loadable modules on a kernel's disk, and what each needs, near and far.

    Raises:
        HostLacks: there is no debugfs(8) here.
    """
    return {
        listed_module(path): frozenset(map(listed_module, needs))
        for path, needs in _depends(_on_disk(kernel, "modules.dep"))
    }


def module_on_disk(kernel: Kernel, name: str) -> bytes:
    """Return the file of a module on a kernel's disk, decompressed.

    Raises:
        UsageError: the kernel has no module of that name, or has it built in.
        HostLacks: there is no debugfs(8) here.
    """
    listed = (path for path, _ in _depends(_on_disk(kernel, "modules.dep")))
    path = next((each for each in listed if listed_module(each) == name), None)
    if path is None:
        raise UsageError(
            f"kernel {kernel.name} has no module {name}", hint="`klp kernels` lists other kernels"
        )
    with tempfile.TemporaryDirectory(prefix="klp-") as folder:
        packed, plain = Path(folder, Path(path).name), Path(folder, "plain")
        dump = f"dump /modules/{kernel.release}/{path} {quoted(packed)}"
        run(["debugfs", "-R", dump, kernel.disk])
        # debugfs ends with 0 whether or not it could do what it was asked for.
        if not packed.is_file():
            raise UsageError(f"kernel {kernel.name}: {path} is listed, and not there")
        copy_plain(packed, plain)
        return plain.read_bytes()


def _on_disk(kernel: Kernel, name: str) -> str:
    """Return a text file of a kernel's modules; empty if there is none."""
    # debugfs reads ext4 without mounting it, for which it would take root.
    return run(["debugfs", "-R", f"cat /modules/{kernel.release}/{name}", kernel.disk], check=False).stdout


def _read_depends(file: Path) -> list[tuple[str, list[str]]]:
    return _depends(file.read_text())


def _depends(text: str) -> list[tuple[str, list[str]]]:
    lines = (line.partition(":") for line in text.splitlines())
    return [(path, needs.split()) for path, _, needs in lines]


def copy_plain(source: Path, destination: Path) -> None:
    """Copy a module, decompressed: in an emulated guest unpacking it would take longer than reading it."""
    if source.suffix == ".xz":
        destination.write_bytes(lzma.decompress(source.read_bytes()))
    elif source.suffix == ".zst":
        run(["zstd", "--decompress", "--quiet", "--force", source, "-o", destination])
    elif source.suffix == ".gz":
        destination.write_bytes(gzip.decompress(source.read_bytes()))
    else:
        shutil.copyfile(source, destination)


def collect_boot_modules(folder: Path, destination: Path) -> None:
    """Put the initrd's modules into `destination`, with their order in a file ``order``."""
    destination.mkdir()
    names = []
    for relative in boot_closure(folder):
        name = f"{listed_module(relative)}.ko"
        copy_plain(folder / relative, destination / name)
        names.append(name)
    (destination / "order").write_text("".join(f"{name}\n" for name in names))
