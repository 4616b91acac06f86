# SPDX-License-Identifier: Apache-2.0
"""A kernel that Debian built: the newest packages of its series in the archive."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from klp.errors import HostLacks
from klp.files import remove_tree
from klp.images import debian, disk, kmods, source, vmlinux
from klp.images.builder import KernelEntry, ModuleTools
from klp.images.cache import EntryKind, Filled
from klp.images.definition import ImageDefinition
from klp.images.unpacked import unpack_root
from klp.process import run
from klp.progress import Progress, teller
from klp.sidework import beside

# Raised whenever this code, or a hook, writes something else for the same definition: kernels are then
# built anew. Not a digest of the code, which would rebuild them for a changed comment.
_RECIPE = "2"


@dataclass(frozen=True, slots=True)
class StockEntry(KernelEntry):
    """A stock kernel's entry, which has all that modules for it are built with besides."""

    @property
    def config(self) -> Path:
        """The configuration it was built with."""
        return self.root / "config"

    @property
    def toolchain(self) -> Path:
        """A root folder with the compiler that built it, and its headers."""
        return self.root / "toolchain"

    @property
    def source(self) -> Path:
        """What klp keeps of its source: see `source.members`."""
        return self.root / "source"


@dataclass(frozen=True, slots=True)
class StockKernel:
    """Builds the entry of a definition's kernel (see `KernelBuilder`).

    Attributes:
        taken: the release that its user has asked for, if so: see `klp.images.newest`.
    """

    which: ImageDefinition
    mirror: str
    progress: Progress
    taken: str = ""

    kind = EntryKind.KERNEL

    @property
    def name(self) -> str:
        """The definition's."""
        return self.which.name

    @property
    def mark(self) -> dict[str, str]:
        """The series."""
        return {"series": self.which.name}

    def definition(self) -> ImageDefinition:
        """Return its own. Nothing is checked: Debian's kernels have what a guest needs."""
        return self.which

    def inputs(self) -> dict[str, str]:
        """Return what packages it is made of, and what is kept of them."""
        which = self.which
        asked = {"release": self.taken} if self.taken else {}
        return (
            self.mark
            | asked
            | {
                "suites": " ".join((which.suite, *which.extra_suites)),
                "architecture": which.architecture,
                "source": " ".join((which.kernel_source, *source.members(which.selftest_modules))),
                "packages": " ".join(which.toolchain_packages),
                "mirror": self.mirror,
                "recipe": _RECIPE,
            }
        )

    def fill(self, into: Path) -> Filled:
        """Fetch the packages, and make the entry of them.

        Raises:
            HostLacks: the archive cannot be reached, or packages are missing.
        """
        entry = StockEntry(into)
        entry.toolchain.mkdir()
        with self.progress.step(f"packages of kernel {self.which.name} and its compiler"):
            release = debian.fetch_kernel(
                self.which,
                self.mirror,
                into,
                tools=self.which.toolchain_packages,
                tell=teller(self.progress),
            )
        packages = into / "klp"
        with beside(lambda: self._make_toolchain(packages / "tools", entry)) as toolchain_made:
            with self.progress.step("what is needed of the kernel's source"):
                self._extract_source(packages, entry)
            with self.progress.step("kernel and boot modules"):
                modules = _fill_boot(packages, release, entry, teller(self.progress))
            toolchain_made()
        with self.progress.step("kernel disk"):
            _make_disk(packages / "disk", modules, entry, teller(self.progress))
        remove_tree(packages)
        return {"release": release}, (entry.image.name, entry.disk.name, entry.config.name)

    def tools(self, entry: Path, release: str) -> ModuleTools:
        """Return the entry's own toolchain, with the headers package in it."""
        own = StockEntry(entry)
        headers = Path("/usr/src") / f"linux-headers-{release}"
        return ModuleTools(headers, own.toolchain, own.source, tree=None, config=own.config)

    def _make_toolchain(self, packages: Path, entry: StockEntry) -> None:
        with self.progress.step(f"toolchain root of kernel {self.which.name}"):
            unpack_root(packages.glob("*.deb"), entry.toolchain, teller(self.progress))
        remove_tree(packages)

    def _extract_source(self, packages: Path, entry: StockEntry) -> None:
        [package] = packages.glob("linux-source-*.deb")
        unpacked = packages / "source"
        debian.unpack_package(package, unpacked)
        source.extract(
            source.tarball_in(unpacked),
            source.members(self.which.selftest_modules),
            entry.source,
            teller(self.progress),
        )
        remove_tree(unpacked)


def _binary_packages(packages: Path) -> list[Path]:
    """Return the kernel's packages but for its source."""
    return [each for each in sorted(packages.glob("*.deb")) if not each.name.startswith("linux-source-")]


def _fill_boot(packages: Path, release: str, entry: StockEntry, tell: Callable[[str], None]) -> Path:
    """Fill what boots the kernel; return the folder with all of its modules."""
    root = packages / "root"
    for package in _binary_packages(packages):
        tell(f"unpacking {package.name}")
        debian.unpack_package(package, root)
    # 7.2's packages have kernel and configuration in /usr/lib/modules/RELEASE, earlier ones in /boot.
    bzimage = _find(root, f"boot/vmlinuz-{release}", f"usr/lib/modules/{release}/vmlinuz")
    tell("unpacking the kernel")
    vmlinux.write_kernel(bzimage, entry.image)
    config = _find(root, f"boot/config-{release}", f"usr/lib/modules/{release}/config")
    shutil.copyfile(config, entry.config)
    modules = _find(root, f"usr/lib/modules/{release}", f"lib/modules/{release}")
    # depmod looks for BASE/lib/modules; where a package has usr/lib, BASE is its usr.
    tell("depmod")
    run(["depmod", "--basedir", modules.parents[2], release])
    kmods.collect_boot_modules(modules, entry.boot_modules)
    return modules


def _make_disk(staging: Path, modules: Path, entry: StockEntry, tell: Callable[[str], None]) -> None:
    """Write the kernel disk: all modules, and the headers out of the toolchain."""
    release = modules.name
    tell("copying modules and headers")
    (staging / "modules").mkdir(parents=True)
    modules.rename(staging / "modules" / release)
    run(["cp", "--archive", entry.toolchain / "usr/src", staging / "src"])
    # BCC looks for a kernel's headers where these lead to.
    for link in ("build", "source"):
        there = entry.toolchain / "usr/lib/modules" / release / link
        if there.is_symlink():
            run(["cp", "--archive", there, staging / "modules" / release / link])
    disk.make_kernel_disk(staging, entry.disk, tell)


def _find(root: Path, *candidates: str) -> Path:
    for each in candidates:
        if (root / each).exists():
            return root / each
    raise HostLacks(f"the kernel's packages hold none of {', '.join(candidates)}")
