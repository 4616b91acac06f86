# SPDX-License-Identifier: Apache-2.0
"""What a script does with klp: have a kernel's image, build modules, run livepatches, read a run again.

Each does what the `klp` command of its name does, and returns values where that prints.
"""

from __future__ import annotations

from pathlib import Path

from klp import paths
from klp import settings as settings_room
from klp.analysis.recording import RecordedRun
from klp.drive.job import wishes
from klp.drive.prepare import prepare_run
from klp.drive.run import Run
from klp.images.library import Library
from klp.lab.bootable import make_bootable
from klp.model import Image, Module
from klp.modules import build as kbuild
from klp.modules.sources import SAMPLES_WORD, find_source
from klp.progress import Progress, Silent
from klp.records.finding import LATEST, find_folder
from klp.records.reading import read_run
from klp.settings import Settings


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
        what: a source patch, a folder, a .c file, a .ko, a name of klp's patches/, or ``samples``.

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
    prepared = prepare_run(wished, make_bootable(wanted, shown), out, shown)
    Run(prepared, progress=shown, repeat=repeat).execute()
    return read_run(prepared.layout.root)


def recorded_run(which: str | Path = LATEST, *, settings: Settings | None = None) -> RecordedRun:
    """Return a run that was recorded.

    Args:
        which: its folder, its name in the settings' folder of runs, or ``latest``.

    Raises:
        UsageError: there is nothing there, or it is no run folder.
    """
    wanted = settings or settings_room.load()
    return read_run(find_folder(str(which), paths.runs_root(wanted.runs)))
