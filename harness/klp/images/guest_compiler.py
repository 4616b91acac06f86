# SPDX-License-Identifier: Apache-2.0
"""A guest root's BCC as a folder, for this machine's CPU to compile with it what the guest is to load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from klp.errors import HostLacks
from klp.images.cache import EntryKind, Filled
from klp.images.disk import quoted
from klp.process import run

# What its Python and its BCC are in.
_FOLDERS = ("bin", "lib", "lib64")
# The places where a guest's kernel tells of itself, and where its headers are.
_FILES = ("sys/kernel/btf/vmlinux", "sys/kernel/notes", "sys/devices/system/cpu/possible")
# Raised whenever this code makes something else of the same guest root.
_RECIPE = "1"


@dataclass(frozen=True, slots=True)
class CompilerEntry:
    """The files of a guest compiler's entry."""

    folder: Path

    @property
    def root(self) -> Path:
        """The root folder to run it in."""
        return self.folder / "root"


@dataclass(frozen=True, slots=True)
class GuestCompiler:
    """Takes the compiler out of a guest's root disk (see `EntryBuilder`)."""

    root_disk: Path

    kind = EntryKind.COMPILER

    def inputs(self) -> dict[str, str]:
        """Return all that the entry depends on."""
        return {"guest": self.root_disk.parent.name, "recipe": _RECIPE}

    def fill(self, into: Path) -> Filled:
        """Make the entry in the folder `into`.

        Raises:
            HostLacks: there is no debugfs(8) here, or it cannot read the disk.
        """
        root = CompilerEntry(into).root
        (root / "usr").mkdir(parents=True)
        # debugfs reads ext4 without mounting it, for which it would take root; of an ordinary user it
        # complains that files cannot be given to others.
        folders = " ".join(f"/usr/{each}" for each in _FOLDERS)
        dump = f"rdump {folders} {quoted(root / 'usr')}"
        said = run(["debugfs", "-R", dump, self.root_disk], check=False).stderr
        if not (root / "usr/bin/python3").exists():
            last = said.strip().splitlines()[-1:] or ["it said nothing"]
            raise HostLacks(f"{self.root_disk}: debugfs found no Python in it: {last[0]}")
        for each in _FOLDERS:
            (root / each).symlink_to(f"usr/{each}")
        for folder in ("usr/src", "usr/lib/modules"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for file in _FILES:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
        return {}, ()
