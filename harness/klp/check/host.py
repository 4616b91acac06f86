# SPDX-License-Identifier: Apache-2.0
"""This machine, as it performs the units of a check: builds sources, runs guests, returns outcomes.

`perform_unit` is all that an executor needs: it takes a unit that can be pickled, and what is known of its
livepatch by then; it returns a value that can be pickled. What is made once for many units (modules, a
kernel's saved guest, its pool) belongs to the process, in its `CheckHost`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from klp import paths
from klp.analysis.checked import ScenarioOutcome
from klp.analysis.evidence import Verdict
from klp.analysis.result import PatchedFunctions, PlanResult
from klp.check.candidate import Candidate, candidate, modules_of
from klp.check.perform import Performed, perform
from klp.check.plan import CheckUnit, outcome_of
from klp.check.registry import SCENARIOS
from klp.check.static import BUILD, STATIC_READ, static_faults
from klp.diskspace import is_full, room_on
from klp.drive.case import Case, Promised
from klp.errors import BuildFailed, Interrupted, KlpError, UsageError, VmLost
from klp.files import remove_tree
from klp.lab.ready import ReadyKernel
from klp.model import Module
from klp.modules.modinfo import release_of
from klp.modules.sources import ModuleSource
from klp.paths import CheckLayout
from klp.progress import NotesOnly, Progress, Silent, teller, under_way
from klp.vm.machine import Machine
from klp.vm.pool import size_that_fits
from klp.work import Hosts

# One guest in use and one being made ready, or two in use: more would only take from each other.
_AT_ONCE = 2
# Lines of the compiler's that are told with a build that failed; the author can have the rest by building.
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class UnitOutcome:
    """What came of a unit.

    Attributes:
        outcome: for check.json; None of a survey.
        objects: what its livepatch changes, if it was loaded.
        built_for: the release that its module was built for, if it was built.
        lost: why the guest of a survey was lost, if it was; of any other unit its outcome says so.
        own_fault: what of klp's own failed in it, in words.
    """

    outcome: ScenarioOutcome | None
    objects: tuple[PatchedFunctions, ...] = ()
    built_for: str = ""
    lost: str = ""
    own_fault: str = ""


def perform_unit(unit: CheckUnit, objects: tuple[PatchedFunctions, ...]) -> UnitOutcome:
    """Perform a unit on this machine.

    Args:
        objects: what its livepatch changes, as far as that is known by now.

    Raises:
        HostLacks: this machine cannot perform it.
        Interrupted: no further outcome is wanted.
    """
    return CHECK_HOSTS.of(unit.folder).perform(unit, objects)


@dataclass(slots=True)
class _MachinesInUse:
    """The guests in use, so that they can be ended from another thread."""

    stop: threading.Event = field(default_factory=threading.Event)
    machines: list[Machine] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def using(self, machine: Machine) -> Iterator[None]:
        """Keep a guest in the list for the length of a block."""
        with self.lock:
            self.check()
            self.machines.append(machine)
        try:
            yield
        finally:
            with self.lock:
                self.machines.remove(machine)

    def check(self) -> None:
        """Raise Interrupted once all is to end."""
        if self.stop.is_set():
            raise Interrupted("no further outcome is wanted")

    def end(self) -> None:
        """End every guest in use: whoever uses one finds it lost, and stops."""
        with self.lock:
            self.stop.set()
            # By signal: `Machine.stop` belongs to the thread that uses the guest, and may be waiting.
            for machine in self.machines:
                with suppress(ProcessLookupError):
                    os.kill(machine.pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class _Made:
    """The modules that sources gave for a kernel, or why they gave none."""

    modules: dict[str, Module]
    seconds: float
    failure: BuildFailed | UsageError | None = None


class CheckHost:
    """What this process has made ready for the units of one check.

    Args:
        jobs: guests at once; None for as many as help here.
    """

    def __init__(self, layout: CheckLayout, progress: Progress, jobs: int | None = None) -> None:
        self._layout = layout
        self._progress = progress
        self._jobs = jobs
        self._made: dict[tuple[str, ModuleSource], _Made] = {}
        self._building: dict[tuple[str, ModuleSource], threading.Lock] = {}
        self._ready: dict[tuple[str, int], ReadyKernel] = {}
        self._lock = threading.Lock()
        self._in_use = _MachinesInUse()

    def perform(self, unit: CheckUnit, objects: tuple[PatchedFunctions, ...]) -> UnitOutcome:
        """See `perform_unit`."""
        self._in_use.check()
        with under_way(self._progress, _name(unit)), room_on(self._layout.root):
            try:
                return self._perform(unit, objects)
            except KlpError:
                raise
            except Exception as error:
                if is_full(error):
                    raise
                return self._failed(unit, error)

    def _perform(self, unit: CheckUnit, objects: tuple[PatchedFunctions, ...]) -> UnitOutcome:
        if unit.scenario == BUILD:
            return self._build(unit)
        if unit.scenario == STATIC_READ:
            return self._static(unit)
        return self._in_guest(unit, objects)

    def _failed(self, unit: CheckUnit, error: Exception) -> UnitOutcome:
        """Return what came of a unit in which klp itself failed: it costs this one, and blames nobody."""
        self._in_use.check()  # what fails because all is being ended is no failure
        own = f"klp itself failed: {type(error).__name__}: {error}"
        file = self._folder(unit) / "traceback.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(traceback.format_exception(error)))
        shown = file.relative_to(self._layout.root)
        if unit.survey:
            return UnitOutcome(None, lost=own, own_fault=own)
        outcome = outcome_of(unit, Verdict.NOT_OBSERVED, (f"{own} ({shown})",))
        return UnitOutcome(outcome, own_fault=f"{unit.livepatch.name} {unit.scenario}: {own}")

    def _folder(self, unit: CheckUnit) -> Path:
        label, livepatch = unit.kernel.label, unit.livepatch.name
        return self._layout.scenario(label, livepatch, unit.scenario, unit.repetition).root

    def guests_at_once(self, memory_mib: int) -> int:
        """Return how many guests of `memory_mib` are used at once."""
        return size_that_fits(memory_mib, self._jobs or _AT_ONCE)

    def ready(self, unit: CheckUnit) -> ReadyKernel:
        """Return the kernel that a unit's guests come from; made ready where it is not yet, in minutes.

        Raises:
            HostLacks: this machine cannot run its guests.
            VmLost: the guest to be saved did not come up.
        """
        with self._lock:
            if unit.guest not in self._ready:
                # Under the lock, minutes long as it is: two units that come at once would else both make
                # it ready.
                size = self.guests_at_once(unit.settings.memory_mib)
                out = self._layout.kernel(unit.kernel.label)
                self._ready[unit.guest] = ReadyKernel(unit.settings, out, self._progress, size=size)
            return self._ready[unit.guest]

    def close(self) -> None:
        """End every guest that waits to be used; a later unit begins anew."""
        with self._lock:
            for kernel in self._ready.values():
                kernel.close()
                kernel.forget()
            self._ready.clear()

    def stop(self) -> None:
        """End what is under way, from another thread: each unit ends with Interrupted."""
        self._in_use.end()

    def _build(self, unit: CheckUnit) -> UnitOutcome:
        made = self._modules(unit)
        try:
            if made.failure:
                raise made.failure
            one = candidate(unit.livepatch, unit.kernel.image.kernel, made.modules)
        except (BuildFailed, UsageError) as failure:
            return UnitOutcome(outcome_of(unit, Verdict.VIOLATED, _why_not_built(failure)))
        outcome = outcome_of(unit, Verdict.HELD)
        outcome = msgspec.structs.replace(outcome, seconds=round(made.seconds, 3))
        return UnitOutcome(outcome, built_for=release_of(one.livepatch))

    def _static(self, unit: CheckUnit) -> UnitOutcome:
        found = static_faults(self._candidate(unit))
        outcome = outcome_of(unit, Verdict.VIOLATED if found.faults else Verdict.HELD, found.faults)
        return UnitOutcome(msgspec.structs.replace(outcome, notes=found.notes))

    def _candidate(self, unit: CheckUnit) -> Candidate:
        made = self._modules(unit)
        if made.failure:
            raise made.failure
        return candidate(unit.livepatch, unit.kernel.image.kernel, made.modules)

    def _modules(self, unit: CheckUnit) -> _Made:
        """Return what a unit's sources give, built once for all livepatches that they make."""
        key = (unit.kernel.label, unit.livepatch.source)
        with self._lock:
            building = self._building.setdefault(key, threading.Lock())
        # A lock for each source, so that one that compiles for long keeps no other waiting.
        with building:
            if key not in self._made:
                self._made[key] = self._make(unit)
            return self._made[key]

    def _make(self, unit: CheckUnit) -> _Made:
        out, begun = self._layout.modules(unit.kernel.label, unit.livepatch.name), time.monotonic()
        kernel, source = unit.kernel.image.kernel, unit.livepatch.source
        try:
            modules = modules_of(source, kernel, out, NotesOnly(self._progress))
        except (BuildFailed, UsageError) as failure:
            if is_full(failure):  # the compiler's, and no fault of what it was given
                raise
            return _Made({}, time.monotonic() - begun, failure)
        return _Made(modules, time.monotonic() - begun)

    def _in_guest(self, unit: CheckUnit, objects: tuple[PatchedFunctions, ...]) -> UnitOutcome:
        one, kernel = self._candidate(unit), self.ready(unit)
        folder = self._folder(unit)
        tell = teller(self._progress)
        tell("waiting for a guest")
        try:
            with kernel.lease() as ready_guest, self._in_use.using(ready_guest.lab.machine):
                tell("")
                begun = time.monotonic()
                places, module = (paths.PATCHES,), one.livepatch.name
                case = Case(kernel, ready_guest, unit.scenario, places, Promised(), livepatch=module)
                done = perform(case, one, SCENARIOS[unit.scenario], objects, tell, quick=unit.quick)
                seconds = time.monotonic() - begun
                # Whatever a guest that `stop` has killed seems to tell is no outcome.
                self._in_use.check()
                if not unit.survey:
                    plan = msgspec.structs.replace(done.plan, repetition=unit.repetition)
                    # Within the lease: it asks the guest for its log, and the guest's files are moved as
                    # it is ended.
                    self._keep(case, folder, plan)
        except VmLost as lost:  # before the scenario: what befalls the guest later is its outcome
            why = f"its guest did not come up: {lost.message}"
            if unit.survey:
                return UnitOutcome(None, lost=why)
            outcome = outcome_of(unit, Verdict.NOT_OBSERVED, (why,))
            return UnitOutcome(msgspec.structs.replace(outcome, lost=True))
        if unit.survey:
            return UnitOutcome(None, done.objects, lost=done.reasons[0] if done.lost else "")
        return UnitOutcome(self._outcome(unit, done, seconds, folder), done.objects)

    def _keep(self, case: Case, folder: Path, plan: PlanResult) -> None:
        remove_tree(folder)  # of an attempt that was cut off before it was told
        folder.parent.mkdir(parents=True, exist_ok=True)
        case.keep(folder, plan.error, (plan,))

    def _outcome(self, unit: CheckUnit, done: Performed, seconds: float, folder: Path) -> ScenarioOutcome:
        outcome = outcome_of(unit, done.verdict, done.reasons)
        return msgspec.structs.replace(
            outcome, notes=done.notes, rules=done.rules, lost=done.lost, seconds=round(seconds, 3),
            callbacks_only=bool(done.objects) and not any(each.functions for each in done.objects),
            calls=done.calls, folder=str(folder.relative_to(self._layout.root)),
        )  # fmt: skip


def _name(unit: CheckUnit) -> str:
    which = f" ({unit.repetition})" if unit.repetition > 1 else ""
    return f"{unit.livepatch.name} {'survey' if unit.survey else unit.scenario}{which}"


def _why_not_built(failure: KlpError) -> tuple[str, ...]:
    shown, others = failure.parts() if isinstance(failure, BuildFailed) else ((), ())
    hint = [failure.hint] if failure.hint and failure.hint not in others else []
    more = [f"and {len(others) - _SHOWN} more lines"] if len(others) > _SHOWN else []
    return (failure.message, *shown, *hint, *others[:_SHOWN], *more)


def _silent(folder: Path) -> CheckHost:
    return CheckHost(CheckLayout(folder), Silent())


CHECK_HOSTS = Hosts(_silent)
