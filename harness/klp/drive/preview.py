# SPDX-License-Identifier: Apache-2.0
"""What a run would do, as lines for people to read and copy; for it nothing is built, booted or fetched.

The steps are those that a run takes (module `steps`), and the commands those that it runs (module
`commands`). What a line says after ``#`` is for the reader: what klp does itself, and what is not known
before something is built.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

from klp.drive import commands
from klp.drive.job import Wish
from klp.drive.steps import (
    AwaitLog,
    Disable,
    LifeStep,
    Load,
    LookAtSysfs,
    Observe,
    Unload,
    acts,
    life_of,
)
from klp.errors import HostLacks
from klp.images.cache import Cache, NotBuilt
from klp.images.library import Library
from klp.lab.warm import snapshot_place
from klp.model import Image
from klp.modules.plan import PatchPlan, module_name
from klp.modules.sources import SourceFolder, UpstreamSamples
from klp.paths import RunLayout
from klp.progress import Silent
from klp.settings import Settings
from klp.trace.tracer import CONSISTENCY, PROBES
from klp.vm.accel import AcceleratorVerdict, choose_accelerator
from klp.vm.machine import overlay_command
from klp.vm.request import MachineRequest
from klp.vm.spec import argv
from klp.vm.start import Restore, SnapshotFiles

# What a livepatch is called that has no plan, before its module is built.
_UNKNOWN = "LIVEPATCH"


@dataclass(frozen=True, slots=True)
class RunChoices:
    """How a run is made; see `klp.drive.run.Run`.

    Attributes:
        cold: boot a guest in place of restoring one.
        control: do the same without probes, too.
    """

    cold: bool = False
    repeat: int = 1
    retry_lost: bool = False
    force: bool = False
    control: bool = False
    consistency: bool = False


def preview(
    wished: Sequence[Wish], settings: Settings, choices: RunChoices, layout: RunLayout
) -> Iterator[str]:
    """Yield what a run would do, line by line.

    Raises:
        UsageError: there is no such kernel.
        HostLacks: the settings demand an accelerator that this host lacks.
    """
    start = _look(settings, layout)
    plans = [plan for each in wished for plan in _plans(each) if plan.is_for(start.kernel)]
    plain = plain_modules(wished)
    yield f"# {start.accelerator.accelerator.value}: {start.accelerator.reason}"
    if start.image is None:
        yield f"# the image of kernel {start.kernel} is not built; that comes first"
        yield f"klp image build {shlex.quote(start.kernel)}"
    words = shlex.join(each.source.word for each in wished)
    yield f"klp build {words} --kernel {shlex.quote(start.kernel)} -o {layout.modules}"
    if not plans:
        yield f"# nothing here is for kernel {start.kernel}: the run ends here"
        return
    if choices.control:
        yield from _control(replace(start, layout=RunLayout(Path("CONTROL"))), plans, plain)
    if choices.repeat > 1:
        yield f"# from here on {choices.repeat} times, each in a fresh guest:"
    yield from start.booting() if choices.cold else start.restoring(PROBES)
    if choices.consistency:
        yield f"# {CONSISTENCY} is armed for every function that the livepatches change"
    yield _SHIPPED
    for plan in plans:
        yield from plan_lines(plan, life_of(plan), plain)
    yield from _afterwards(settings, choices, layout)


_SHIPPED = f"# each module is copied to {commands.guest_path('NAME')}"


def _control(start: _Start, plans: Sequence[PatchPlan], plain: Collection[str]) -> Iterator[str]:
    yield f"# first the same without probes; {start.layout.root} is a folder that goes with the guest"
    yield from start.restoring(())
    yield commands.TELL_PASSES
    yield _SHIPPED
    for plan in plans:
        if plan.livepatch:
            yield from plan_lines(plan, acts(life_of(plan)), plain)
    yield "# with probes:"


def _afterwards(settings: Settings, choices: RunChoices, layout: RunLayout) -> Iterator[str]:
    """Yield what is done if something goes wrong, and at the end."""
    if choices.force:
        line = commands.write_attribute("NAME", "force", 1)
        yield f"# where a transition outlasts {settings.deadline_s:g} s: {line}"
    if choices.retry_lost:
        yield "# where the guest is lost under a plan: that plan once more, in a fresh guest"
    yield f"# the probes are stopped, all rules are judged, and {layout.summary} is written"


def _plans(wish: Wish) -> tuple[PatchPlan, ...]:
    """Return what is planned with sources; where nobody wrote a plan, one that says what is not known."""
    if wish.plans:
        return wish.plans
    summary = f"no patch.toml; so each livepatch {_UNKNOWN} of its modules, the plain ones loaded before"
    return (PatchPlan(name=wish.source.name, summary=summary, livepatch=_UNKNOWN),)


@dataclass(frozen=True, slots=True)
class _Start:
    """What a guest is started from.

    Attributes:
        kernel: what it is called.
        image: None where it is not built.
    """

    kernel: str
    image: Image | None
    cache: Cache
    accelerator: AcceleratorVerdict
    settings: Settings
    layout: RunLayout

    def _request(self, image: Image) -> MachineRequest:
        return MachineRequest.from_settings(image, self.settings, self.accelerator.accelerator)

    def booting(self) -> Iterator[str]:
        """Yield how a guest is booted, and its probes are armed."""
        if self.image is None:
            yield "# a guest is booted; QEMU's command line names files of the image"
        else:
            yield shlex.join(overlay_command(self.image.root_disk, self.layout.disk))
            yield shlex.join(argv(self._request(self.image).spec(self.layout)))
        yield f"# in the guest, over SSH: {', '.join(PROBES)} are copied and armed"

    def restoring(self, probes: tuple[str, ...]) -> Iterator[str]:
        """Yield how a saved guest goes on, and what is done first where there is none."""
        if self.image is None:
            yield "# a guest is booted, armed and saved, and goes on from there; QEMU's command line names"
            yield "# files of the image"
            return
        request = self._request(self.image)
        try:
            files = snapshot_place(self.cache, request, probes)
        except HostLacks as lacking:
            yield f"# {lacking.message}: which saved guest SNAPSHOT is depends on it"
            files = SnapshotFiles(Path("SNAPSHOT"))
        if not files.state.exists():
            armed = ", its probes are armed" if probes else ""
            yield f"# first a guest is booted{armed}, and it is saved in {files.root}"
        spec = request.starting(Restore(files)).spec(self.layout)
        yield shlex.join(overlay_command(files.disk, self.layout.disk))
        yield shlex.join(["cp", str(files.console), str(self.layout.console)])
        yield shlex.join(argv(spec))
        over = f"# over QMP, on descriptor {spec.qmp_fd}"
        yield f"{over}: x-ignore-shared, the state from {files.state}, cont"
        yield "# in the guest, over SSH, the host's clock:"
        yield "date --set @SECONDS"


def _look(settings: Settings, layout: RunLayout) -> _Start:
    """Find what there is, and make nothing."""
    shelf = Library(settings, Silent(), building=False)
    kernel, image = settings.kernel, None
    try:
        image = shelf.ensure(kernel)
        kernel = image.name
    except NotBuilt:
        kernel = str(Path(kernel).absolute()) if Path(kernel).is_dir() else kernel
    return _Start(kernel, image, shelf.cache, choose_accelerator(settings, shelf.layout), settings, layout)


def plan_lines(plan: PatchPlan, steps: Sequence[LifeStep], plain: Collection[str] = ()) -> Iterator[str]:
    """Yield steps of a plan as they are taken in a guest.

    Args:
        plain: the modules of which is known that they are no livepatches.
    """
    yield f"# {plan.name}: {plan.summary}"
    for step in steps:
        if not (isinstance(step, Disable) and step.module in plain):
            yield from _step_lines(step, plan)
        if isinstance(step, Load) and step.module not in plain:
            yield commands.wait_while_in_transition(step.module)


def plain_modules(wished: Sequence[Wish]) -> frozenset[str]:
    """Return the modules of which is known before anything is built that they are no livepatches."""
    found: set[str] = set()
    for each in wished:
        named = {entry.module for plan in each.plans for entry in plan.load}
        if isinstance(each.source, SourceFolder):
            found |= {name for name in named if _is_plain(each.source.folder, name)}
        elif isinstance(each.source, UpstreamSamples):
            found |= named - {plan.livepatch for plan in each.plans}
    return frozenset(found)


def _is_plain(folder: Path, module: str) -> bool:
    """Whether a module is made of one file of its name, which enables no livepatch."""
    files = [each for each in folder.glob("*.c") if module_name(each.stem) == module]
    return bool(files) and not any("klp_enable_patch" in each.read_text() for each in files)


def _step_lines(step: LifeStep, plan: PatchPlan) -> Iterator[str]:
    match step:
        case Load(name, parameters):
            yield shlex.join(commands.insmod(commands.guest_path(name), parameters))
        case LookAtSysfs(name):
            yield f"cat {commands.SYSFS}/{name}/enabled  # must be 1"
        case Observe(moment):
            for each in plan.observe:
                if pattern := getattr(each, moment):
                    yield each.command
                    yield f"# must have: {pattern}"
        case AwaitLog(phase):
            for line in (each for each in plan.log if each.when is phase):
                yield f"dmesg  # must have, within {plan.settle:g} s: {line.pattern}"
        case Disable(name, if_there):
            there = f"[ ! -d {commands.SYSFS}/{name} ] || " if if_there else ""
            yield there + commands.write_attribute(name, "enabled", 0)
            yield commands.wait_while_there(name)
        case Unload(name):
            yield shlex.join(commands.rmmod(name))
        case _:
            assert_never(step)
