# SPDX-License-Identifier: Apache-2.0
"""A kernel that Debian built: the newest packages of its series in the archive."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from klp.errors import HostLacks
from klp.files import remove_tree
from klp.images import debian, disk, kmods, source, vmlinux
from klp.images.builder import KernelEntry, ModuleTools
from klp.images.cache import EntryKind, Filled
from klp.images.definition import ImageDefinition
from klp.process import run
from klp.progress import Progress, teller

# Raised whenever this code, or a hook, writes something else for the same definition: kernels are then
# built anew. Not a digest of the code, which would rebuild them for a changed comment.
_RECIPE = "1"


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
        with self.progress.step(f"kernel {self.which.name} packages"):
            release = debian.fetch_kernel(self.which, self.mirror, into, teller(self.progress))
        with self.progress.step(f"toolchain root for {release}"):
            wanted = (f"linux-headers-{release}", *self.which.toolchain_packages)
            debian.make_root(self.which, self.mirror, wanted, entry.toolchain, tell=teller(self.progress))
        packages = into / "klp"
        with self.progress.step("what is needed of the kernel's source"):
            self._extract_source(packages, entry)
        with self.progress.step("kernel, boot modules and kernel disk"):
            _fill_boot(packages, release, entry)
        remove_tree(packages)
        return {"release": release}, (entry.image.name, entry.disk.name, entry.config.name)

    def tools(self, entry: Path, release: str) -> ModuleTools:
        """Return the entry's own toolchain, with the headers package in it."""
        own = StockEntry(entry)
        headers = Path("/usr/src") / f"linux-headers-{release}"
        return ModuleTools(headers, own.toolchain, own.source, tree=None, config=own.config)

    def _extract_source(self, packages: Path, entry: StockEntry) -> None:
        [package] = packages.glob("linux-source-*.deb")
        unpacked = packages / "source"
        debian.unpack_package(package, unpacked)
        source.extract(
            source.tarball_in(unpacked), source.members(self.which.selftest_modules), entry.source
        )
        remove_tree(unpacked)


def _fill_boot(packages: Path, release: str, entry: StockEntry) -> None:
    root = packages / "root"
    for package in packages.glob("*.deb"):
        if not package.name.startswith("linux-source-"):
            debian.unpack_package(package, root)
    # 7.2's packages have kernel and configuration in /usr/lib/modules/RELEASE, earlier ones in /boot.
    bzimage = _find(root, f"boot/vmlinuz-{release}", f"usr/lib/modules/{release}/vmlinuz")
    vmlinux.write_kernel(bzimage, entry.image)
    config = _find(root, f"boot/config-{release}", f"usr/lib/modules/{release}/config")
    shutil.copyfile(config, entry.config)
    modules = _find(root, f"usr/lib/modules/{release}", f"lib/modules/{release}")
    # depmod looks for BASE/lib/modules; where a package has usr/lib, BASE is its usr.
    run(["depmod", "--basedir", modules.parents[2], release])
    kmods.collect_boot_modules(modules, entry.boot_modules)
    staging = packages / "disk"
    (staging / "modules").mkdir(parents=True)
    modules.rename(staging / "modules" / release)
    run(["cp", "--archive", entry.toolchain / "usr/src", staging / "src"])
    # BCC looks for a kernel's headers where these lead to.
    for link in ("build", "source"):
        there = entry.toolchain / "usr/lib/modules" / release / link
        if there.is_symlink():
            run(["cp", "--archive", there, staging / "modules" / release / link])
    disk.make_kernel_disk(staging, entry.disk)


def _find(root: Path, *candidates: str) -> Path:
    for each in candidates:
        if (root / each).exists():
            return root / each
    raise HostLacks(f"the kernel's packages hold none of {', '.join(candidates)}")
