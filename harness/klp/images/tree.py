# SPDX-License-Identifier: Apache-2.0
"""A user's own kernel build tree as something that can be booted and built against."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from klp.errors import UsageError
from klp.files import digest_of, file_digest
from klp.images import disk, kconfig, kmods, source, vmlinux
from klp.images.cache import Cache, Manifest
from klp.images.definition import ImageDefinition, definitions
from klp.images.kconfig import compiler_of, missing_options
from klp.process import run
from klp.progress import Progress
from klp.settings import Settings

_BZIMAGE = "arch/x86/boot/bzImage"
# What BCC includes from when it compiles a probe in the guest.
_HEADERS = ("include", "arch/x86/include")


class TreeBuilder:
    """Builds, or finds, the cache entries of kernel build trees."""

    def __init__(self, cache: Cache, progress: Progress) -> None:
        self._cache = cache
        self._progress = progress

    def check(self, tree: Path) -> None:
        """Refuse a folder that is no built kernel, or one that lacks what klp needs.

        Raises:
            UsageError: naming the missing file, or the missing options and what they are for.
        """
        for needed in (".config", "include/config/kernel.release", "Module.symvers"):
            if not (tree / needed).is_file():
                raise UsageError(
                    f"{tree}: not a built kernel tree (no {needed})",
                    hint="build it first: make && make modules; with O=, name the output folder",
                )
        _image_of(tree)
        lacks = missing_options(kconfig.read_config(tree / ".config"))
        if lacks:
            told = "; ".join(
                f"{', '.join(f'CONFIG_{name}' for name in names)} (for {reason})"
                for reason, names in lacks.items()
            )
            raise UsageError(f"{tree}: the kernel lacks {told}", hint="enable them and rebuild it")

    def matching_definition(self, tree: Path) -> ImageDefinition:
        """Return the definition whose toolchain holds the compiler that built the tree.

        Raises:
            UsageError: no definition has it.
        """
        wanted = compiler_of(kconfig.read_config(tree / ".config"))
        known = definitions()
        default = known.get(Settings().kernel)
        for each in ([default] if default else []) + list(known.values()):
            if wanted in each.toolchain_packages:
                return each
        have = sorted({p for d in known.values() for p in d.toolchain_packages if "gcc-" in p})
        raise UsageError(
            f"{tree}: built with {wanted or 'an unknown compiler'}; modules must be built with the same",
            hint=f"build the kernel with one of {', '.join(have)} (make CC=…), or add the compiler "
            "to toolchain-packages in vm-images/",
        )

    def build_folder(self, tree: Path) -> Path:
        """Return what `make -C` is pointed at."""
        return tree

    def source_folder(self, tree: Path) -> Path | None:
        """Return where the tree's samples are; with O= they are in the source it links to."""
        for top in (tree, tree / "source"):
            if (top / source.SAMPLES).is_dir():
                return top.resolve()
        return None

    def kernel(self, tree: Path) -> tuple[Path, Manifest]:
        """Return the entry with ``kernel``, ``kernel.ext4`` and ``boot-modules``."""
        image = _image_of(tree)
        inputs = {"tree": str(tree), "image": file_digest(image)}
        inputs |= {name: file_digest(tree / name) for name in (".config", "Module.symvers")}
        inputs["modules"] = _stamps(_modules_of(tree))
        folders = [top / name for top, name in _header_folders(tree)]
        headers = (each for folder in folders for each in sorted(folder.rglob("*.h")))
        inputs["headers"] = digest_of({"stamps": _stamps(headers)})
        return self._cache.ensure("tree", inputs, lambda into: self._fill(tree, image, into))

    def _fill(self, tree: Path, image: Path, into: Path) -> tuple[dict[str, str], tuple[str, ...]]:
        release = (tree / "include/config/kernel.release").read_text().strip()
        with self._progress.step(f"kernel {release} from {tree}"):
            _fill_image(image, into / "kernel")
            staging = into / "disk"
            modules = staging / "lib" / "modules" / release
            _install_modules(tree, modules)
            run(["depmod", "--basedir", staging, release])
            kmods.collect_boot_modules(modules, into / "boot-modules")
            _install_headers(tree, staging / "src" / f"linux-headers-{release}")
            for link in ("build", "source"):
                (modules / link).symlink_to(f"/usr/src/linux-headers-{release}")
            (staging / "lib" / "modules").rename(staging / "modules")
            (staging / "lib").rmdir()
            disk.make_ext4(staging, into / "kernel.ext4", label="klp-kernel", spare_mib=8)
            shutil.rmtree(staging)
        return {"release": release}, ("kernel", "kernel.ext4")


def _image_of(tree: Path) -> Path:
    """Return the bzImage of a tree; its vmlinux where that alone is there, or was built since."""
    built = [tree / name for name in (_BZIMAGE, "vmlinux") if (tree / name).is_file()]
    if not built:
        raise UsageError(f"{tree}: has neither {_BZIMAGE} nor vmlinux", hint="build it first: make")
    return max(built, key=lambda image: image.stat().st_mtime_ns)


def _fill_image(image: Path, destination: Path) -> None:
    if image.name == "vmlinux":
        shutil.copyfile(image, destination)
        return
    vmlinux.extract_vmlinux(image, destination)
    if not vmlinux.has_pvh_entry(destination):
        shutil.copyfile(image, destination)


def _stamps(files: Iterable[Path]) -> str:
    """Return what tells whether a file was written to: there are too many to read them each time."""
    states = ((path, path.stat()) for path in files if path.exists())
    return " ".join(f"{path}:{state.st_mtime_ns}:{state.st_size}" for path, state in states)


def _modules_of(tree: Path) -> list[Path]:
    """Return the tree's built modules; modules.order names them, as .o since Linux 6.3.

    Raises:
        UsageError: one of them was not built.
    """
    order = tree / "modules.order"
    lines = order.read_text().split() if order.is_file() else []
    modules = [tree / Path(line).with_suffix(".ko") for line in lines]
    for module in modules:
        if not module.is_file():
            raise UsageError(f"{module}: listed in modules.order and not built", hint="make modules")
    return modules


def _install_modules(tree: Path, destination: Path) -> None:
    """Do what `make modules_install` does, without running the tree's makefiles as ourselves."""
    destination.mkdir(parents=True)
    for module in _modules_of(tree):
        target = destination / "kernel" / module.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        run(["cp", module, target])
    order = (each.relative_to(tree) for each in _modules_of(tree))
    (destination / "modules.order").write_text("".join(f"kernel/{each}\n" for each in order))
    for name in ("modules.builtin", "modules.builtin.modinfo"):
        target = destination / name
        if (tree / name).is_file():
            shutil.copyfile(tree / name, target)
        else:
            target.touch()


def _header_folders(tree: Path) -> list[tuple[Path, str]]:
    """Return the folders of headers, each as its top and its name below that."""
    tops = (tree / "source", tree)
    return [(top, name) for top in tops for name in _HEADERS if (top / name).is_dir()]


def _install_headers(tree: Path, destination: Path) -> None:
    """Copy the headers BCC needs: those of the source, with the generated ones of O= over them."""
    destination.mkdir(parents=True)
    for top, name in _header_folders(tree):
        (destination / name).mkdir(parents=True, exist_ok=True)
        run(["cp", "--archive", f"{top / name}/.", destination / name])
    shutil.copyfile(tree / ".config", destination / ".config")
