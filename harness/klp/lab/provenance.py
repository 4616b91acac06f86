# SPDX-License-Identifier: Apache-2.0
"""What a run ran on, for its run.json."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from klp import paths
from klp.analysis.result import Provenance
from klp.files import file_digest
from klp.model import Image, Module
from klp.settings import Settings
from klp.version import __version__
from klp.vm.accel import AcceleratorVerdict
from klp.vm.spec import qemu_version


def provenance(
    image: Image, modules: Iterable[Module], settings: Settings, accelerator: AcceleratorVerdict
) -> Provenance:
    """Return what guests of `image` with `modules` run on, on this host."""
    return Provenance(
        klp=__version__,
        qemu=qemu_version(),
        python=platform.python_version(),
        kernel=image.kernel.release,
        kernel_name=image.kernel.name,
        kernel_digest=image.kernel.digest,
        image_digest=image.digest,
        accelerator=accelerator.accelerator.value,
        accelerator_reason=accelerator.reason,
        memory_mib=settings.memory_mib,
        cpus=settings.cpus,
        modules={module.name: module.sha256 for module in modules},
        probes={probe.name: file_digest(probe) for probe in paths.probe_files()},
    )
