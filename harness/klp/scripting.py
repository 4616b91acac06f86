# SPDX-License-Identifier: Apache-2.0
"""What a script does with klp: have a kernel's image, build modules, run livepatches, read a run again.

Each does what the `klp` command of its name does, and returns values where that prints.
"""

from __future__ import annotations

from pathlib import Path

from klp import paths
from klp import settings as settings_room
from klp.analysis.recording import RecordedRun
from klp.drive.job import make_job, wishes
from klp.drive.run import Run
from klp.images.library import Library
from klp.lab.warm import ensure_warm
from klp.model import Image, Module
from klp.modules import build as kbuild
from klp.modules.sources import SAMPLES_WORD, find_source
from klp.process import require
from klp.progress import Progress, Silent
from klp.records.finding import LATEST, find_folder
from klp.records.reading import read_run
from klp.records.writing import new_folder
from klp.settings import Settings
from klp.vm.accel import choose_accelerator
from klp.vm.machine import programs
from klp.vm.request import MachineRequest


def ensure_image(settings: Settings | None = None, *, progress: Progress | None = None) -> Image:
    """Return the image of the settings' kernel, building what is missing of it: minutes, the first time.

    Args:
        settings: made by `klp.settings.load`; without, those of this process.
        progress: what shows the steps of long work; without, nothing does.

    Raises:
        UsageError: there is no such kernel, or its build tree lacks what is needed.
        HostLacks: a tool, space or the archive is out of reach.
    """
    wanted = settings or settings_room.load()
    return Library(wanted, progress or Silent()).ensure(wanted.kernel)


def build(what: str, image: Image, out: Path, *, progress: Progress | None = None) -> tuple[Module, ...]:
    """Build the modules of `what` for an image's kernel into the folder `out`.

    Args:
        what: a folder, a .c file, a .ko, a name of klp's patches/, or ``samples``.

    Raises:
        UsageError: there is no such thing, or nothing that could be built.
        BuildFailed: the compiler refused it; has the compiler's own lines.
        NotALivepatch: a .ko is for another kernel, or damaged.
        HostLacks: the build sandbox does not work here, or `out` cannot be written.
    """
    return kbuild.build(find_source(what), image.kernel, out, progress or Silent())


def run(
    *what: str,
    settings: Settings | None = None,
    out: Path | None = None,
    repeat: int = 1,
    progress: Progress | None = None,
) -> RecordedRun:
    """Load, observe, disable and unload livepatches in a guest, under probes.

    A guest that is lost while a plan runs raises nothing: what was found until then is returned, and its
    `error` says what happened.

    Args:
        what: as `build`; the kernel's own samples without any.
        out: the run folder, new or empty; without, a new one in the settings' folder of runs.
        repeat: how often each is done; each repetition has a fresh guest.

    Raises:
        UsageError, BuildFailed, NotALivepatch: as `build`; or `out` is not empty.
        HostLacks: this host cannot run guests.
        VmLost: the guest to start from did not come up.
    """
    wanted, shown = settings or settings_room.load(), progress or Silent()
    wished = wishes(what or (SAMPLES_WORD,))
    require(*programs())
    library = Library(wanted, shown)
    image = library.ensure(wanted.kernel)
    accelerator = choose_accelerator(wanted, library.layout, image)
    # In the block is what can fail before anything was run: the folder then goes again. The run itself is
    # outside, so that whatever happens to it, what it recorded stays.
    with new_folder(wanted, out, image.kernel.release) as layout:
        job = make_job(wished, image, layout.modules, shown)
        request = MachineRequest.from_settings(image, wanted, accelerator.accelerator)
        warm = ensure_warm(library.cache, request, progress=shown)
    Run(job, layout, wanted, accelerator, progress=shown, warm=warm, repeat=repeat).execute()
    return read_run(layout.root)


def recorded_run(which: str | Path = LATEST, *, settings: Settings | None = None) -> RecordedRun:
    """Return a run that was recorded.

    Args:
        which: its folder, its name in the settings' folder of runs, or ``latest``.

    Raises:
        UsageError: there is nothing there, or it is no run folder.
    """
    wanted = settings or settings_room.load()
    return read_run(find_folder(str(which), paths.runs_root(wanted.runs)))
