# SPDX-License-Identifier: Apache-2.0
"""What a run ran on, for its run.json: all versions and digests that its outcome may depend on."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from klp import paths
from klp.analysis.result import Provenance
from klp.files import file_digest
from klp.model import Module
from klp.version import __version__
from klp.vm.request import MachineRequest
from klp.vm.spec import qemu_version


def provenance(request: MachineRequest, modules: Iterable[Module], accelerator_reason: str) -> Provenance:
    """Return what guests with `modules` run on, on this host.

    Args:
        request: their machine.
        accelerator_reason: why it has that accelerator.
    """
    image = request.image
    return Provenance(
        klp=__version__,
        qemu=qemu_version(request.architecture),
        python=platform.python_version(),
        kernel=image.kernel.release,
        kernel_name=image.kernel.name,
        kernel_digest=image.kernel.digest,
        image_digest=image.digest,
        accelerator=request.accelerator.value,
        accelerator_reason=accelerator_reason,
        memory_mib=request.memory_mib,
        cpus=request.cpus,
        debug=request.looking.summary if request.looking else "",
        modules={module.name: module.sha256 for module in modules},
        probes={probe.name: file_digest(probe) for probe in paths.probe_files()},
    )
