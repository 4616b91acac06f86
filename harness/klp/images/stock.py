# SPDX-License-Identifier: Apache-2.0
"""The entries of the cache that come from Debian packages: guest roots and kernels."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from klp.errors import HostLacks
from klp.files import remove_tree
from klp.images import debian, disk, kmods, source, vmlinux
from klp.images.cache import Cache, Manifest
from klp.images.definition import ImageDefinition
from klp.process import run
from klp.progress import Progress
from klp.settings import Settings

# What every guest has: BCC for the probes, an SSH server to talk to, busybox as its init, and common tools.
GUEST_PACKAGES = (
    "python3-bpfcc", "dropbear-bin", "openssh-sftp-server", "busybox-static", "kmod", "iproute2", "procps",
    "coreutils", "mount",
)  # fmt: skip
_ROOT_SPARE_MIB = 1024
# Raised whenever this code, or a hook, writes something else for the same definition: images are then
# built anew. Not a digest of the code, which would rebuild them for a changed comment.
_RECIPE = "1"


class StockBuilder:
    """Builds, or finds, the Debian entries of one cache."""

    def __init__(self, cache: Cache, settings: Settings, progress: Progress) -> None:
        self._cache = cache
        self._mirror = settings.mirror
        self._progress = progress

    def guest_root(self, definition: ImageDefinition) -> tuple[Path, Manifest]:
        """Return the entry with ``root.ext4`` and ``busybox``; kernels of a suite share it."""
        inputs = {
            "suite": definition.suite,
            "architecture": definition.architecture,
            "packages": " ".join(GUEST_PACKAGES),
            "mirror": self._mirror,
            "recipe": _RECIPE,
        }
        return self._cache.ensure("guest", inputs, lambda into: self._fill_guest(definition, into))

    def _fill_guest(
        self, definition: ImageDefinition, into: Path
    ) -> tuple[dict[str, str], tuple[str, ...]]:
        root = into / "root"
        root.mkdir()
        with self._progress.step(f"guest root from {definition.suite} packages"):
            plain = _without_extra_suites(definition)
            debian.make_root(plain, self._mirror, GUEST_PACKAGES, root)
        with self._progress.step("root disk"):
            # The read-only kernel disk is mounted here, and bound over these (vm-images/guest).
            for folder in ("usr/lib/klp/kernel", "usr/lib/modules", "usr/src"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            (root / "usr/lib/klp/init").symlink_to("/bin/busybox")
            shutil.copyfile(root / "bin/busybox", into / "busybox")
            (into / "busybox").chmod(0o755)
            disk.make_ext4(root, into / "root.ext4", label="klp-root", spare_mib=_ROOT_SPARE_MIB)
            versions = _versions(root)
            remove_tree(root)
        return versions, ("root.ext4", "busybox")

    def kernel(self, definition: ImageDefinition) -> tuple[Path, Manifest]:
        """Return the entry with kernel, disk, boot modules, source and toolchain."""
        inputs = {
            "series": definition.name,
            "suites": " ".join((definition.suite, *definition.extra_suites)),
            "architecture": definition.architecture,
            "source": " ".join((definition.kernel_source, *source.members(definition.selftest_modules))),
            "packages": " ".join(definition.toolchain_packages),
            "mirror": self._mirror,
            "recipe": _RECIPE,
        }
        return self._cache.ensure("kernel", inputs, lambda into: self._fill_kernel(definition, into))

    def _fill_kernel(
        self, definition: ImageDefinition, into: Path
    ) -> tuple[dict[str, str], tuple[str, ...]]:
        toolchain = into / "toolchain"
        toolchain.mkdir()
        with self._progress.step(f"kernel {definition.name} packages"):
            release = debian.fetch_kernel(definition, self._mirror, into)
        with self._progress.step(f"toolchain root for {release}"):
            wanted = (f"linux-headers-{release}", *definition.toolchain_packages)
            debian.make_root(definition, self._mirror, wanted, toolchain)
        packages = into / "klp"
        with self._progress.step("what is needed of the kernel's source"):
            self._extract_source(definition, packages, into / "source")
        with self._progress.step("kernel, boot modules and kernel disk"):
            self._fill_boot(packages, release, toolchain, into)
        remove_tree(packages)
        return {"release": release}, ("kernel", "kernel.ext4", "config")

    def _extract_source(self, definition: ImageDefinition, packages: Path, into: Path) -> None:
        [package] = packages.glob("linux-source-*.deb")
        unpacked = packages / "source"
        debian.unpack_package(package, unpacked)
        [tarball] = (unpacked / "usr/src").glob("linux-source-*.tar.xz")
        source.extract(tarball, source.members(definition.selftest_modules), into)
        remove_tree(unpacked)

    def _fill_boot(self, packages: Path, release: str, toolchain: Path, into: Path) -> None:
        root = packages / "root"
        for package in packages.glob("*.deb"):
            if not package.name.startswith("linux-source-"):
                debian.unpack_package(package, root)
        bzimage = _find(root, f"boot/vmlinuz-{release}", f"usr/lib/modules/{release}/vmlinuz")
        vmlinux.extract_vmlinux(bzimage, into / "kernel")
        if not vmlinux.has_pvh_entry(into / "kernel"):
            shutil.copyfile(bzimage, into / "kernel")
        shutil.copyfile(
            _find(root, f"boot/config-{release}", f"usr/lib/modules/{release}/config"), into / "config"
        )
        modules = _find(root, f"usr/lib/modules/{release}", f"lib/modules/{release}")
        # depmod looks for BASE/lib/modules; where a package has usr/lib, BASE is its usr.
        run(["depmod", "--basedir", modules.parents[2], release])
        kmods.collect_boot_modules(modules, into / "boot-modules")
        staging = packages / "disk"
        (staging / "modules").mkdir(parents=True)
        modules.rename(staging / "modules" / release)
        run(["cp", "--archive", toolchain / "usr/src", staging / "src"])
        for link in ("build", "source"):
            there = toolchain / "usr/lib/modules" / release / link
            if there.is_symlink():
                run(["cp", "--archive", there, staging / "modules" / release / link])
        disk.make_ext4(staging, into / "kernel.ext4", label="klp-kernel", spare_mib=8)


def _without_extra_suites(definition: ImageDefinition) -> ImageDefinition:
    return msgspec.structs.replace(definition, extra_suites=())


def _find(root: Path, *candidates: str) -> Path:
    for each in candidates:
        if (root / each).exists():
            return root / each
    raise HostLacks(f"the kernel's packages hold none of {', '.join(candidates)}")


def _versions(root: Path) -> dict[str, str]:
    """Read from dpkg's own record the versions that a run's provenance names."""
    wanted = {"python3-bpfcc", "dropbear-bin"}
    found: dict[str, str] = {}
    package = ""
    for line in (root / "var/lib/dpkg/status").read_text().splitlines():
        if line.startswith("Package: "):
            package = line.removeprefix("Package: ")
        elif line.startswith("Version: ") and package in wanted:
            found[package] = line.removeprefix("Version: ")
    return found
