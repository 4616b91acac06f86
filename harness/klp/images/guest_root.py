# SPDX-License-Identifier: Apache-2.0
"""The root disk that guests share, from Debian packages."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from klp.files import remove_tree
from klp.images import debian, disk
from klp.images.cache import EntryKind, Filled
from klp.images.definition import ImageDefinition
from klp.progress import Progress, teller

# What every guest has: BCC for the probes, an SSH server to talk to, busybox as its init, and common tools.
# dropbear, not OpenSSH, which starts a program anew for each connection: a restored guest took 0.8 s to the
# first one with it, and takes 0.4 s now. `mount` is named because bookworm's minimal root has none.
GUEST_PACKAGES = (
    "python3-bpfcc", "dropbear-bin", "openssh-sftp-server", "busybox-static", "kmod", "iproute2", "procps",
    "coreutils", "mount",
    # What `klp check` finds the callers of a changed function with: its scenario `exercise`.
    "util-linux", "e2fsprogs", "nftables", "keyutils", "attr", "acl", "netcat-openbsd",
)  # fmt: skip
_HOOKS = ("add-stressors.sh",)
_SPARE_MIB = 1024
# Raised whenever this code, or a hook, makes something else of the same definition: see stock.py.
_RECIPE = "3"


@dataclass(frozen=True, slots=True)
class GuestEntry:
    """The files of a guest root's entry."""

    root: Path

    @property
    def disk(self) -> Path:
        """An ext4 image of the whole system."""
        return self.root / "root.ext4"

    @property
    def busybox(self) -> Path:
        """Its busybox, for the initrd."""
        return self.root / "busybox"


@dataclass(frozen=True, slots=True)
class GuestRoot:
    """Builds the guest root of one suite; its kernels share it."""

    suite: ImageDefinition
    mirror: str
    progress: Progress

    kind = EntryKind.GUEST

    def inputs(self) -> dict[str, str]:
        """Return all that the entry depends on."""
        return {
            "suite": self.suite.suite,
            "architecture": self.suite.architecture,
            "packages": " ".join(GUEST_PACKAGES),
            "mirror": self.mirror,
            "recipe": _RECIPE,
        }

    def fill(self, into: Path) -> Filled:
        """Make the entry in the folder `into`; its facts are versions of packages.

        Raises:
            HostLacks: the archive cannot be reached, or packages are missing.
        """
        entry, root = GuestEntry(into), into / "root"
        root.mkdir()
        with self.progress.step(f"guest root from {self.suite.suite} packages"):
            debian.make_root(
                _without_extra_suites(self.suite), self.mirror, GUEST_PACKAGES, root, _HOOKS,
                tell=teller(self.progress),
            )  # fmt: skip
        with self.progress.step("root disk"):
            # The read-only kernel disk is mounted here, and bound over these (vm-images/guest).
            for folder in ("usr/lib/klp/kernel", "usr/lib/modules", "usr/src"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            (root / "usr/lib/klp/init").symlink_to("/bin/busybox")
            shutil.copyfile(root / "bin/busybox", entry.busybox)
            entry.busybox.chmod(0o755)
            disk.make_ext4(
                root, entry.disk, label="klp-root", spare_mib=_SPARE_MIB, tell=teller(self.progress)
            )
            versions = _versions(root)
            remove_tree(root)
        return versions, (entry.disk.name, entry.busybox.name)


def _without_extra_suites(definition: ImageDefinition) -> ImageDefinition:
    # They are the kernel's alone: without them 6.12 and 7.2, both on trixie, share one root disk.
    return msgspec.structs.replace(definition, extra_suites=())


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
