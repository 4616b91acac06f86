# SPDX-License-Identifier: Apache-2.0
"""What a run needs before it can begin: modules built, a folder, guests to start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from klp.drive.job import Job, Wish, make_job
from klp.lab.bootable import Bootable
from klp.lab.warm import WarmStart, ensure_warm
from klp.paths import RunLayout
from klp.progress import Progress
from klp.records.writing import new_folder


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that can begin.

    Attributes:
        warm: the saved guest to start from; None boots one and arms its probes.
        bare: a saved guest without probes, in which every plan's modules are loaded as well, so that the
            trace can tell whether the probes changed anything (T14).
    """

    job: Job
    layout: RunLayout
    kernel: Bootable
    warm: WarmStart | None
    bare: WarmStart | None


def prepare_run(
    wished: Sequence[Wish],
    kernel: Bootable,
    out: Path | None,
    progress: Progress,
    *,
    cold: bool = False,
    control: bool = False,
) -> PreparedRun:
    """Build what was wished for, and make the guests ready that a run starts from.

    Args:
        out: the run folder, new or empty; None for a new one in the settings' folder of runs.
        cold: start from no saved guest.
        control: have one without probes as well.

    Raises:
        UsageError, BuildFailed, NotALivepatch: as `make_job`; or `out` is not empty.
        HostLacks, VmLost: there is no guest to be had; the folder is removed again.
    """
    # In the block is what can fail before anything was run: the folder then goes again. The run itself is
    # outside, so that whatever happens to it, what it recorded stays.
    with new_folder(kernel.settings, out, kernel.image.kernel.release) as layout:
        job = make_job(wished, kernel.image, layout.modules, progress)
        warm = None if cold else ensure_warm(kernel.cache, kernel.request, progress=progress)
        bare = ensure_warm(kernel.cache, kernel.request, progress=progress, probes=()) if control else None
    return PreparedRun(job, layout, kernel, warm, bare)
