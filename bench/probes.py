# SPDX-License-Identifier: Apache-2.0
"""What the probes cost: transitions and shadow variables without them, with each, all, and bpftrace.

Each variant has a restored guest of its own. All are there at once and are measured in turn, with the
others stopped, so that what the host does meanwhile falls on every variant alike.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.bpftrace import bpftrace_files, ship, tracing
from bench.measure import Series
from klp import paths
from klp.drive.subject import LivepatchSubject
from klp.guest.kernel_log import lines_after, write_canary
from klp.guest.ssh import Guest
from klp.images.library import Library
from klp.klog.transitions import PASSES_TOLD_BY, LoggedTransition, logged_transitions
from klp.lab.lab import Lab
from klp.lab.programs import ensure_programs
from klp.lab.warm import ensure_warm, restored
from klp.model import Module
from klp.modules.build import build
from klp.modules.sources import find_source
from klp.paths import RunLayout
from klp.progress import Progress, Silent
from klp.settings import Settings
from klp.trace.store import EventStore
from klp.trace.tracer import PROBES, Tracer
from klp.vm.request import MachineRequest

WITHOUT = "no probe"
_BPFTRACE = "bpftrace"
_ALL = "all probes"
_ROUNDS = 4
# In each round.
_TIMES = 5
_SHADOW_RUNS = 2
_PAIRS = 20_000
_DEADLINE_S = 60.0
_NS = re.compile(r"klp_shadow_load: .*\bns=(\d+)")
_MODULES = "/run/klp/modules"
_FAULTS = paths.PROJECT / "tests" / "faults"


class ProbeCosts:
    """The measurements of one machine."""

    def __init__(
        self, library: Library, request: MachineRequest, settings: Settings, progress: Progress
    ) -> None:
        self._image = request.image
        self._settings = settings
        self._progress = progress
        self._bare = ensure_warm(library.cache, request, progress=progress, probes=())
        self._programs = ensure_programs(library.cache, request, PROBES, progress)

    def measure(self) -> dict[str, list[Series]]:
        """Return transition times, passes, and the cost of a shadow variable, each for every variant."""
        with ExitStack() as stack:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="klp-bench-")))
            modules = self._modules(out)
            root = stack.enter_context(bpftrace_files(self._settings))
            variants = []
            for name in (WITHOUT, *PROBES, _ALL, _BPFTRACE):
                with self._progress.step(f"{name}: a guest"):
                    variants.append(self._variant(name, out / name, modules, root, stack))
            for number in range(_ROUNDS):
                with self._progress.step(f"round {number + 1} of {_ROUNDS}"):
                    for each in variants:
                        each.take()
        one_pass = [Series(each.name, "s", each.seconds(passes=1)) for each in variants]
        return {
            "transitions": [Series(each.name, "s", each.seconds()) for each in variants],
            "one-pass transitions": [each for each in one_pass if each.figures],
            "passes": [Series(each.name, "", each.passes()) for each in variants],
            "shadow variables": [Series(each.name, "us", tuple(each.pairs_us)) for each in variants],
        }

    def _modules(self, out: Path) -> dict[str, Module]:
        kernel = self._image.kernel
        sources = (find_source("samples"), find_source(str(_FAULTS)))
        built = (build(each, kernel, out / "modules", Silent()) for each in sources)
        return {module.name: module for modules in built for module in modules}

    def _variant(
        self, name: str, folder: Path, modules: dict[str, Module], bpftrace: Path, stack: ExitStack
    ) -> _Variant:
        """Make a variant's guest ready, to last as long as `stack`, and stop it."""
        lab = stack.enter_context(self._guest(folder))
        drain = stack.enter_context(self._armed(name, lab, folder, bpftrace))
        for module in (modules["livepatch_sample"], modules["klp_shadow_load"]):
            lab.guest.put(module.file, f"{_MODULES}/{module.file.name}")
        variant = _Variant(name, lab, modules["livepatch_sample"], modules["klp_shadow_load"], drain)
        stack.callback(variant.go_on)  # for what ends its probes
        variant.stop()
        return variant

    @contextmanager
    def _guest(self, folder: Path) -> Iterator[Lab]:
        folder.mkdir()
        with restored(self._bare, RunLayout(folder)) as lab:
            tell = f"echo '{PASSES_TOLD_BY}' >/sys/kernel/debug/dynamic_debug/control"
            lab.guest.run(f"mkdir -p {_MODULES} && {tell}").must("having the kernel tell its passes")
            yield lab

    @contextmanager
    def _armed(self, name: str, lab: Lab, folder: Path, bpftrace: Path) -> Iterator[Callable[[], object]]:
        """Have a variant's probes armed; yields what has them tell all that they have seen."""
        if name == _BPFTRACE:
            ship(lab.guest, bpftrace)
            with tracing(lab.guest):
                yield lambda: None  # it has no way to be asked
            return
        armed = {WITHOUT: (), _ALL: PROBES}.get(name, (name,))
        with EventStore(folder / "events.jsonl") as store:
            tracer = Tracer(lab.guest, store)
            if armed:
                tracer.arm(armed, programs=self._programs)
            yield tracer.mark
            tracer.stop()


@dataclass
class _Variant:
    """One variant's guest, stopped but while it is measured, and what was measured so far."""

    name: str
    lab: Lab
    livepatch: Module
    shadow: Module
    drain: Callable[[], object]
    transitions: list[LoggedTransition] = field(default_factory=list)
    pairs_us: list[float] = field(default_factory=list)

    def go_on(self) -> None:
        self.lab.machine.monitor.execute("cont")

    def stop(self) -> None:
        self.lab.machine.monitor.execute("stop")

    def take(self) -> None:
        """Measure one round, which nothing is left over from the one before to disturb."""
        self.go_on()
        self.drain()
        self.transitions += _transitions(self.lab, self.livepatch)
        self.pairs_us += _pairs_us(self.lab.guest, self.shadow)
        self.stop()

    def seconds(self, passes: int | None = None) -> tuple[float, ...]:
        """Return what the transitions took; of those only that ended in so many passes, if told."""
        return tuple(each.seconds for each in self.transitions if passes in (None, each.passes))

    def passes(self) -> tuple[float, ...]:
        return tuple(float(each.passes) for each in self.transitions)


def _transitions(lab: Lab, module: Module) -> tuple[LoggedTransition, ...]:
    """Enable and disable a livepatch, and return both transitions of each time by the kernel's own log."""
    canary = write_canary(lab.guest, "bench")
    subject = LivepatchSubject(
        lab, module, f"{_MODULES}/{module.file.name}", deadline_s=_DEADLINE_S, stuck=lambda _tasks: None
    )
    for _ in range(_TIMES):
        subject.load()
        subject.disable()
        subject.unload()
    return logged_transitions(lines_after(lab.guest, canary))


def _pairs_us(guest: Guest, module: Module) -> list[float]:
    """Return the microseconds of one klp_shadow_alloc and klp_shadow_free, by the module's own clock."""
    taken = []
    for _ in range(_SHADOW_RUNS):
        load = f"insmod {_MODULES}/{module.file.name} count={_PAIRS} && rmmod {module.name}"
        script = f"{load} && dmesg | grep '{module.name}: ' | tail -n 1"
        said = guest.run(script).must("running the shadow load").stdout
        found = _NS.search(said)
        if found is None:
            raise ValueError(f"{module.name} told no time: {said!r}")
        taken.append(int(found[1]) / 1000 / _PAIRS)
    return taken
