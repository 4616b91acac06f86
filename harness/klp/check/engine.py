# SPDX-License-Identifier: Apache-2.0
"""A whole check: every livepatch, on every kernel, in every scenario; what is done is kept."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from klp import paths
from klp.analysis.checked import CheckResult
from klp.analysis.checked import ScenarioOutcome as Outcome
from klp.analysis.diagnosis import DOES_NOT_END
from klp.analysis.evidence import Verdict
from klp.analysis.result import PatchedFunctions, PlanResult
from klp.check.build import Workshop
from klp.check.candidate import Candidate
from klp.check.outcomes import KernelJob, Ledger, Order
from klp.check.perform import Performed, perform
from klp.check.registry import SCENARIOS
from klp.check.scenario import Scenario
from klp.check.scenarios.life import life
from klp.drive.case import Case, Promised
from klp.errors import Busy, KlpError, VmLost
from klp.files import remove_tree
from klp.lab.ready import Bench
from klp.paths import CheckLayout
from klp.progress import Progress
from klp.records.reading import read_run as look
from klp.settings import Settings
from klp.vm.machine import Machine
from klp.vm.pool import size_that_fits

# One guest in use and one being made ready, or two in use: more would only take from each other.
_AT_ONCE = 2
_NO_END = "not tried, for its transition does not end: see `life`"
_NOT_TRIED = "not tried, for it could not be loaded and enabled: see `life`"


class _Stopped(Exception):
    """The user asked to stop."""


@dataclass(slots=True)
class _Task:
    """One scenario of one livepatch that is still to be run; without one, to learn what it changes."""

    candidate: Candidate
    scenario: Scenario
    repetition: int
    survey: bool = False


@dataclass(slots=True)
class _Running:
    """The guests in use, so that they can be ended from another thread."""

    stop: threading.Event = field(default_factory=threading.Event)
    machines: list[Machine] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def using(self, machine: Machine) -> Iterator[None]:
        """Know of a guest for the length of a block."""
        with self.lock:
            if self.stop.is_set():
                raise _Stopped
            self.machines.append(machine)
        try:
            yield
        finally:
            with self.lock:
                self.machines.remove(machine)

    def end(self) -> None:
        """End every guest in use: whoever uses one finds it lost, and stops."""
        with self.lock:
            self.stop.set()
            for machine in self.machines:
                with suppress(ProcessLookupError):
                    os.kill(machine.pid, signal.SIGKILL)


@contextmanager
def _held(layout: CheckLayout) -> Iterator[None]:
    """Keep other processes away, and remove what one that died in mid-air left behind."""
    lock = FileLock(layout.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Busy(f"{layout.root}: another klp is at work there", hint="wait for its end") from None
    try:
        for rubbish in (*layout.root.glob("*/.guest-*"), *layout.root.glob("*/.modules-*")):
            remove_tree(rubbish)
        yield
    finally:
        lock.release()


class CheckRun:
    """One check, in one folder.

    Args:
        kernels: where it is to run.
        settings: of the guests; their kernel and number of CPUs are set here.
        before: what an earlier, interrupted part of this check found.
    """

    def __init__(
        self,
        order: Order,
        kernels: Sequence[KernelJob],
        layout: CheckLayout,
        settings: Settings,
        *,
        progress: Progress,
        before: CheckResult | None = None,
    ) -> None:
        self._order = order
        self._kernels = tuple(kernels)
        self._layout = layout
        self._settings = settings
        self._progress = progress
        self._ledger = Ledger(order, kernels, layout, progress, before)
        self._objects: dict[tuple[str, str], tuple[PatchedFunctions, ...]] = {}
        self._running = _Running()
        self.result = self._ledger.result(None)

    def execute(self) -> KlpError | None:
        """Run what is missing; return what ended that early, if anything did.

        ``check.json`` is written after every scenario; `result` has the same.

        Raises:
            Busy: another process adds to this check.
        """
        with _held(self._layout):
            return self._execute()

    def _execute(self) -> KlpError | None:
        error: str | None = "interrupted"
        try:
            for kernel in self._kernels:
                with self._progress.step(f"checking on {kernel.image.kernel.release}"):
                    self._one_kernel(kernel)
            error = None
        except KlpError as failure:
            error = failure.message
            return failure
        finally:
            self._ledger.write(error)
            self.result = self._ledger.result(error)
        return None

    def _one_kernel(self, kernel: KernelJob) -> None:
        candidates = Workshop(self._order, self._kernels, self._layout, self._ledger, self._progress).built(
            kernel
        )
        tasks = [
            _Task(candidate, SCENARIOS[name], repetition)
            for candidate in candidates
            for name in self._order.scenarios
            if name in SCENARIOS
            for repetition in self._ledger.repetitions(name)
            if not self._ledger.get(kernel.name, candidate.name, name, repetition)
        ]
        tasks = [each for each in tasks if not self._skipped(kernel, each)]
        for cpus in sorted({each.scenario.cpus for each in tasks}, key=lambda each: each or 0):
            self._with_cpus(kernel, cpus, [each for each in tasks if each.scenario.cpus == cpus])

    def _skipped(self, kernel: KernelJob, task: _Task) -> bool:
        """Leave out what patch.toml says is not for this livepatch, or for this kernel."""
        plan = task.candidate.plan
        reasons = [each.reason for each in plan.skip if each.scenario == task.scenario.name]
        if plan.kernels and kernel.name not in plan.kernels:
            reasons.insert(0, f"patch.toml says it is for {', '.join(plan.kernels)} only")
        if not reasons:
            return False
        why = reasons[0]
        self._ledger.leave_out(kernel, task.candidate, task.scenario.name, task.repetition, why)
        return True

    def _with_cpus(self, kernel: KernelJob, cpus: int | None, tasks: list[_Task]) -> None:
        """Run the scenarios that want guests of one kind: the first lives first, they open the way."""
        changes = {"kernel": kernel.name, **({"cpus": cpus} if cpus else {})}
        settings = msgspec.structs.replace(self._settings, **changes)
        size = size_that_fits(settings.memory_mib, self._order.jobs or _AT_ONCE)
        bench = Bench(settings, self._layout.kernel(kernel.label), self._progress, size=size)
        try:
            first = [each for each in tasks if each.scenario is life]
            self._wave(kernel, bench, size, first)
            rest = [each for each in tasks if each.scenario is not life]
            self._wave(kernel, bench, size, self._surveys(kernel, rest))
            self._wave(kernel, bench, size, [each for each in rest if not self._barred(kernel, each)])
        finally:
            bench.close()
            bench.forget()

    def _surveys(self, kernel: KernelJob, tasks: Sequence[_Task]) -> list[_Task]:
        """Return a task for each livepatch whose functions a scenario must know, and no life has told."""
        curious = {each.candidate.name: each.candidate for each in tasks if each.scenario.informed}
        return [
            _Task(candidate, life, 0, survey=True)
            for candidate in curious.values()
            if not self._known(kernel, candidate)
        ]

    def _known(self, kernel: KernelJob, candidate: Candidate) -> tuple[PatchedFunctions, ...]:
        """Return what a livepatch changes, as its life has told, in this process or before it."""
        key = (kernel.name, candidate.name)
        if not self._objects.get(key):
            found = look(self._layout.scenario(kernel.label, candidate.name, life.name).root)
            plans = found.result.plans if found and found.result else ()
            self._objects[key] = plans[0].objects if plans else ()
        return self._objects[key]

    def _barred(self, kernel: KernelJob, task: _Task) -> bool:
        """Leave out what cannot be tried: in its life it was never enabled, or stayed in transition."""
        lived = self._ledger.get(kernel.name, task.candidate.name, life.name)
        if lived is None or lived.verdict is not Verdict.VIOLATED:
            return False
        stuck = any(each.startswith(DOES_NOT_END) for each in lived.reasons)
        if self._known(kernel, task.candidate) and not stuck:
            return False
        why = _NO_END if stuck else _NOT_TRIED
        self._ledger.leave_out(kernel, task.candidate, task.scenario.name, task.repetition, why)
        return True

    def _wave(self, kernel: KernelJob, bench: Bench, size: int, tasks: Sequence[_Task]) -> None:
        if not tasks:
            return
        with ThreadPoolExecutor(size, thread_name_prefix="check") as workers:
            self._gather(workers.submit(self._one, kernel, bench, each) for each in tasks)

    def _gather(self, submitted: Iterable[Future[Outcome | None]]) -> None:
        futures: list[Future[Outcome | None]] = []
        try:
            futures.extend(submitted)  # here, for an interrupt may come as a worker is started, too
            for future in as_completed(futures):
                if outcome := future.result():
                    self._ledger.record(outcome)
        except BaseException:
            for future in futures:
                future.cancel()
            self._running.end()
            raise

    def _one(self, kernel: KernelJob, bench: Bench, task: _Task) -> Outcome | None:
        """Run one scenario in a guest of its own; return its outcome, or None of a survey.

        Raises:
            HostLacks: this host cannot run it.
        """
        if self._running.stop.is_set():
            raise _Stopped
        folder = self._layout.scenario(
            kernel.label, task.candidate.name, task.scenario.name, task.repetition
        ).root
        try:
            with bench.lease() as prepared, self._running.using(prepared.lab.machine):
                begun = time.monotonic()
                name, module = task.scenario.name, task.candidate.livepatch.name
                case = Case(bench, prepared, name, (paths.PATCHES,), Promised(), livepatch=module)
                known = self._known(kernel, task.candidate)
                done = perform(case, task.candidate, task.scenario, known, quick=self._order.quick)
                seconds = time.monotonic() - begun
                if self._running.stop.is_set():
                    raise _Stopped
                if done.objects:
                    self._objects[kernel.name, task.candidate.name] = done.objects
                if task.survey:
                    return None
                self._keep(case, folder, msgspec.structs.replace(done.plan, repetition=task.repetition))
        except (
            VmLost
        ) as lost:  # before the scenario: what befalls the guest later is the scenario's outcome
            why = f"its guest did not come up: {lost.message}"
            outcome = self._ledger.not_observed(
                kernel, task.candidate, task.scenario.name, task.repetition, why
            )
            return msgspec.structs.replace(outcome, lost=True)
        return self._performed(kernel, task, done, seconds, folder)

    def _keep(self, case: Case, folder: Path, plan: PlanResult) -> None:
        if folder.exists():  # of an attempt that was cut off before it was told
            remove_tree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        case.keep(folder, plan.error, (plan,))

    def _performed(
        self, kernel: KernelJob, task: _Task, done: Performed, seconds: float, folder: Path
    ) -> Outcome:
        name, repetition = task.scenario.name, task.repetition
        outcome = self._ledger.outcome(
            kernel, task.candidate, name, done.verdict, done.reasons, repetition=repetition
        )
        return msgspec.structs.replace(
            outcome, notes=done.notes, rules=done.rules, lost=done.lost, seconds=round(seconds, 3),
            folder=str(folder.relative_to(self._layout.root)),
        )  # fmt: skip
