# SPDX-License-Identifier: Apache-2.0
"""How a machine starts: by booting, or in one of the ways that snapshots are made and used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec


@dataclass(frozen=True, slots=True)
class SnapshotFiles:
    """The files of a snapshot, in one folder."""

    root: Path

    @property
    def memory(self) -> Path:
        """The guest's memory, sparse."""
        return self.root / "memory"

    @property
    def state(self) -> Path:
        """The devices' state, a QEMU migration stream."""
        return self.root / "state"

    @property
    def disk(self) -> Path:
        """The guest's disk as it was saved: a qcow2 overlay."""
        return self.root / "disk.qcow2"

    @property
    def console(self) -> Path:
        """What the guest's console had said until then."""
        return self.root / "console.log"

    def stamps(self) -> str:
        """Return size and time of change of each file: while they stay, so does the content."""
        found = ((file, file.stat()) for file in (self.memory, self.state, self.disk))
        return " ".join(f"{file.name}:{stat.st_size}:{stat.st_mtime_ns}" for file, stat in found)


class Boot(msgspec.Struct, frozen=True, tag=True):
    """The kernel boots, in memory of QEMU's own."""


class Save(msgspec.Struct, frozen=True, tag=True):
    """The kernel boots to be saved: its memory and its disk are the snapshot's files."""

    files: SnapshotFiles


class SaveAgain(msgspec.Struct, frozen=True, tag=True):
    """It goes on where the snapshot was made, in the snapshot's own files, to be saved once more.

    What it is for: see `klp.lab.warm`.
    """

    files: SnapshotFiles


class Restore(msgspec.Struct, frozen=True, tag=True):
    """It goes on where the snapshot was made, with a copy of its own of what it writes."""

    files: SnapshotFiles


MachineStart = Boot | Save | SaveAgain | Restore
