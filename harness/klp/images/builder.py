# SPDX-License-Identifier: Apache-2.0
"""What all builders of kernels have in common: their methods, and the files they leave in the cache.

`klp.images.library` picks a builder by the kernel's name, and uses nothing of it but what stands here. To
add another kind of kernel, write one more class with these methods, and one more line in `Library.builder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from klp.images.cache import EntryKind, Filled
from klp.images.definition import ImageDefinition


@dataclass(frozen=True, slots=True)
class KernelEntry:
    """The files of a kernel's entry that boot it; its builder may keep others beside them."""

    root: Path

    @property
    def image(self) -> Path:
        """The kernel itself, as QEMU starts it."""
        return self.root / "kernel"

    @property
    def disk(self) -> Path:
        """Its modules, and the headers that BCC includes."""
        return self.root / "kernel.ext4"

    @property
    def boot_modules(self) -> Path:
        """The folder of the modules that its initrd loads."""
        return self.root / "boot-modules"


@dataclass(frozen=True, slots=True)
class ModuleTools:
    """What modules for a kernel are built with; `klp.model.Kernel` explains each field."""

    build: Path
    toolchain: Path
    source: Path | None
    tree: Path | None
    config: Path | None = None


class EntryBuilder(Protocol):
    """Makes one entry of the cache."""

    @property
    def kind(self) -> EntryKind:
        """The entry's kind."""

    def inputs(self) -> dict[str, str]:
        """Return all that the entry depends on: with its kind the cache's key.

        Raises:
            UsageError: something of it is missing.
        """

    def fill(self, into: Path) -> Filled:
        """Make the entry in the folder `into`.

        Raises:
            HostLacks: a tool, or the archive, is out of reach.
            UsageError: what it is made of does not do.
        """


class KernelBuilder(EntryBuilder, Protocol):
    """Makes one kernel's entry; its facts hold the kernel's ``release``."""

    @property
    def name(self) -> str:
        """What the kernel is asked for by."""

    @property
    def mark(self) -> dict[str, str]:
        """The inputs that stay the same when this kernel is rebuilt: they find its older entries."""

    def definition(self) -> ImageDefinition:
        """Return the definition whose guest boots the kernel, once it is seen that it can be booted.

        Raises:
            UsageError: the kernel lacks what a guest needs.
        """

    def tools(self, entry: Path, release: str) -> ModuleTools:
        """Return what modules for the kernel of a finished entry are built with.

        Raises:
            HostLacks: they are not there yet, and the archive is out of reach.
        """
