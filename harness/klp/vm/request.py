# SPDX-License-Identifier: Apache-2.0
"""What is asked for when a machine is wanted: one value, made of the settings, of which QEMU is started."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from klp import arch
from klp.model import Accelerator, Image
from klp.paths import RunLayout
from klp.settings import Settings
from klp.vm.debugging import MemoryDebugging, memory_debugging
from klp.vm.spec import MachineSpec
from klp.vm.start import Boot, MachineStart, Save, SaveAgain


@dataclass(frozen=True, slots=True)
class MachineRequest:
    """A machine, but for where its files are. Can be pickled, and written as JSON.

    Attributes:
        image: what it boots; its kernel tells the architecture.
        accelerator: what executes it.
        memory_mib: MiB of memory.
        cpus: virtual CPUs.
        mitigations: leave the kernel's CPU-bug mitigations on.
        looking: by what its kernel looks for faults in memory; None of a kernel that does not.
        start: by booting, or from a snapshot.
    """

    image: Image
    accelerator: Accelerator
    memory_mib: int = 1024
    cpus: int = 2
    mitigations: bool = False
    looking: MemoryDebugging | None = None
    start: MachineStart = field(default_factory=Boot)

    @classmethod
    def from_settings(cls, image: Image, settings: Settings, accelerator: Accelerator) -> MachineRequest:
        """Return the machine that boots `image` as the settings want it.

        Raises:
            UsageError: its kernel is to look for faults in memory, and has nothing built in to do so.
        """
        return cls(
            image, accelerator, settings.memory_mib, settings.cpus, settings.mitigations,
            memory_debugging(image.kernel) if settings.debug else None,
        )  # fmt: skip

    @property
    def architecture(self) -> arch.Architecture:
        """The CPU's."""
        return arch.of(self.image.kernel.architecture)

    @property
    def entries(self) -> tuple[Path, ...]:
        """The cache's entries that it is made of."""
        image, start = self.image, self.start
        files = [image.root_disk, image.kernel.image, image.kernel.initrd]
        saved = [] if isinstance(start, Boot) else [start.files.root]
        return (*dict.fromkeys(each.parent for each in files), *saved)

    def starting(self, start: MachineStart) -> MachineRequest:
        """Return the same machine, started in another way."""
        return replace(self, start=start)

    def spec(self, layout: RunLayout) -> MachineSpec:
        """Return the machine with its files in `layout`, but for those of the snapshot it is to become."""
        kernel = self.image.kernel
        return MachineSpec(
            architecture=self.architecture,
            kernel=kernel.image,
            initrd=kernel.initrd,
            disk=self.start.files.disk if isinstance(self.start, Save | SaveAgain) else layout.disk,
            kernel_disk=kernel.disk,
            console=layout.console,
            accelerator=self.accelerator,
            memory_mib=self.memory_mib,
            cpus=self.cpus,
            mitigations=self.mitigations,
            append=self.looking.words if self.looking else (),
            start=self.start,
        )
