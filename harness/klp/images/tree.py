# SPDX-License-Identifier: Apache-2.0
"""A kernel from a build tree, be it a user's or one that klp compiled (compiled.py)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from klp.errors import UsageError
from klp.files import digest_of, file_digest
from klp.images import disk, kmods, source, vmlinux
from klp.images.builder import KernelEntry, ModuleTools
from klp.images.cache import EntryKind, Filled
from klp.images.definition import ImageDefinition, definitions
from klp.images.kconfig import compiler_of, missing_options, read_config
from klp.process import run
from klp.progress import Progress, teller
from klp.settings import Settings

_BZIMAGE = "arch/x86/boot/bzImage"
# What BCC includes from when it compiles a probe in the guest.
_HEADERS = ("include", "arch/x86/include")


@dataclass(frozen=True, slots=True)
class TreeKernel:
    """Builds the entry of a build tree's kernel (see `KernelBuilder`).

    Attributes:
        tree: its folder, absolute.
        toolchain_of: returns a definition's toolchain root, which may take a while the first time.
    """

    tree: Path
    toolchain_of: Callable[[ImageDefinition], Path]
    progress: Progress

    kind = EntryKind.TREE

    @property
    def name(self) -> str:
        """The tree's folder."""
        return str(self.tree)

    @property
    def mark(self) -> dict[str, str]:
        """The tree's folder: what was built in it before counts as the same kernel."""
        return {"tree": str(self.tree)}

    def definition(self) -> ImageDefinition:
        """Return the definition whose toolchain holds the compiler that built the tree.

        Raises:
            UsageError: the folder is no built kernel, or one that lacks what klp needs; no definition
                has its compiler.
        """
        config = self._checked()
        wanted = compiler_of(config)
        known = definitions()
        # The default kernel's first: its toolchain is the likeliest to be built already.
        default = known.get(Settings().kernel)
        for each in ([default] if default else []) + list(known.values()):
            if wanted in each.toolchain_packages:
                return each
        have = sorted({p for d in known.values() for p in d.toolchain_packages if "gcc-" in p})
        raise UsageError(
            f"{self.tree}: built with {wanted or 'an unknown compiler'}; modules must be built with "
            "the same",
            hint=f"build the kernel with one of {', '.join(have)} (make CC=…), or add the compiler "
            "to toolchain-packages in vm-images/",
        )

    def _checked(self) -> dict[str, str]:
        """Return the tree's configuration, once it is seen that there is all that is needed."""
        for needed in (".config", "include/config/kernel.release", "Module.symvers"):
            if not (self.tree / needed).is_file():
                raise UsageError(
                    f"{self.tree}: not a built kernel tree (no {needed})",
                    hint="build it first: make && make modules; with O=, name the output folder",
                )
        _image_of(self.tree)
        config = read_config(self.tree / ".config")
        lacks = "; ".join(
            f"{', '.join(f'CONFIG_{name}' for name in names)} (for {reason})"
            for reason, names in missing_options(config).items()
        )
        if lacks:
            raise UsageError(f"{self.tree}: the kernel lacks {lacks}", hint="enable them and rebuild it")
        return config

    def inputs(self) -> dict[str, str]:
        """Return what the tree holds: digests of what is read whole, times and sizes of the rest.

        Raises:
            UsageError: one of its modules was not built.
        """
        tree = self.tree
        inputs = self.mark | {"image": file_digest(_image_of(tree))}
        inputs |= {name: file_digest(tree / name) for name in (".config", "Module.symvers")}
        inputs["modules"] = _stamps(_modules_of(tree))
        folders = [top / name for top, name in _header_folders(tree)]
        headers = (each for folder in folders for each in sorted(folder.rglob("*.h")))
        inputs["headers"] = digest_of({"stamps": _stamps(headers)})
        return inputs

    def fill(self, into: Path) -> Filled:
        """Make the entry of what stands in the tree; the tree is not written to.

        Raises:
            UsageError: the kernel has no driver for what finds the disks.
        """
        tree, entry = self.tree, KernelEntry(into)
        release = (tree / "include/config/kernel.release").read_text().strip()
        with self.progress.step(f"kernel {release} from {tree}"):
            tell = teller(self.progress)
            vmlinux.write_kernel(_image_of(tree), entry.image)
            staging = into / "disk"
            modules = staging / "lib" / "modules" / release
            _install_modules(tree, modules, tell)
            tell("depmod")
            run(["depmod", "--basedir", staging, release])
            kmods.collect_boot_modules(modules, entry.boot_modules)
            tell("headers")
            _install_headers(tree, staging / "src" / f"linux-headers-{release}")
            for link in ("build", "source"):
                (modules / link).symlink_to(f"/usr/src/linux-headers-{release}")
            (staging / "lib" / "modules").rename(staging / "modules")
            (staging / "lib").rmdir()
            disk.make_kernel_disk(staging, entry.disk, tell)
            shutil.rmtree(staging)
        return {"release": release}, (entry.image.name, entry.disk.name)

    def tools(self, entry: Path, release: str) -> ModuleTools:
        """Return the tree itself, with the toolchain of its definition.

        Raises:
            HostLacks: that toolchain is not there yet, and the archive is out of reach.
        """
        toolchain = self.toolchain_of(self.definition())
        return ModuleTools(
            build=self.tree, toolchain=toolchain, source=_source_of(self.tree), tree=self.tree,
            config=self.tree / ".config",
        )  # fmt: skip


def _source_of(tree: Path) -> Path | None:
    """Return where the tree's samples are; with O= they are in the source it links to."""
    for top in (tree, tree / "source"):
        if (top / source.SAMPLES_FOLDER).is_dir():
            return top.resolve()
    return None


def _image_of(tree: Path) -> Path:
    """Return the bzImage of a tree; its vmlinux where that alone is there, or was built since."""
    built = [tree / name for name in (_BZIMAGE, "vmlinux") if (tree / name).is_file()]
    if not built:
        raise UsageError(f"{tree}: has neither {_BZIMAGE} nor vmlinux", hint="build it first: make")
    return max(built, key=lambda image: image.stat().st_mtime_ns)


def _stamps(files: Iterable[Path]) -> str:
    """Return times and sizes of files: a tree has too many to read each of them whenever it is used."""
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


def _install_modules(tree: Path, destination: Path, tell: Callable[[str], None]) -> None:
    """Do what `make modules_install` does, which would run the tree's makefiles outside of the sandbox."""
    destination.mkdir(parents=True)
    built = _modules_of(tree)
    for number, module in enumerate(built, 1):
        tell(f"module {number} of {len(built)}")
        target = destination / "kernel" / module.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        run(["cp", module, target])
    order = (each.relative_to(tree) for each in built)
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
