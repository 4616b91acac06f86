# SPDX-License-Identifier: Apache-2.0
"""A kernel that can be booted here: its image built, and what runs it chosen."""

from __future__ import annotations

from dataclasses import dataclass

from klp.images.cache import Cache
from klp.images.library import Library
from klp.model import Image
from klp.process import require
from klp.progress import Progress, under_way
from klp.settings import Settings
from klp.vm.accel import AcceleratorVerdict, choose_accelerator
from klp.vm.machine import programs
from klp.vm.request import MachineRequest


@dataclass(frozen=True, slots=True)
class Bootable:
    """A kernel's image with what runs it.

    Attributes:
        settings: by which it was chosen.
        cache: the store that the image is in; saved guests go there, too.
    """

    settings: Settings
    cache: Cache
    image: Image
    accelerator: AcceleratorVerdict

    @property
    def request(self) -> MachineRequest:
        """The machine that boots it as the settings want."""
        return MachineRequest.from_settings(self.image, self.settings, self.accelerator.accelerator)


def make_bootable(settings: Settings, progress: Progress) -> Bootable:
    """Build what is missing of the settings' kernel, and choose what runs it.

    Raises:
        UsageError: there is no such kernel.
        HostLacks: this host cannot build it, or lacks what guests take.
    """
    require(*programs())  # before minutes are spent on building an image that nothing here can boot
    library = Library(settings, progress)
    image = library.ensure(settings.kernel)
    with under_way(progress, "finding out what runs guests here"):
        accelerator = choose_accelerator(settings, library.layout, image)
    return Bootable(settings, library.cache, image, accelerator)
