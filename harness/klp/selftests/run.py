# SPDX-License-Identifier: Apache-2.0
"""The upstream selftests on several kernels: each script in a guest of its own, several at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack

from klp import paths
from klp.analysis.selftests import SELFTESTS_SCHEMA, KernelResult, ScriptResult, SelftestsResult, tally
from klp.errors import KlpError
from klp.images.cache import Cache
from klp.paths import SelftestsLayout
from klp.progress import Progress
from klp.records.running import at_work
from klp.records.writing import write_selftests
from klp.selftests.build import find_selftests, make_bundle
from klp.selftests.host import SELFTEST_HOSTS, SelftestsHost, perform_script
from klp.selftests.plan import Choices, KernelSelftests, ScriptUnit, script_units
from klp.version import __version__
from klp.vm.request import MachineRequest
from klp.vm.spec import qemu_version
from klp.work import collect


def build_selftests(
    requests: Sequence[MachineRequest],
    wanted: Sequence[str],
    layout: SelftestsLayout,
    progress: Progress,
) -> list[KernelSelftests]:
    """Find and build the selftests of every kernel: all scripts, or those that `wanted` names.

    Raises:
        UsageError: it has none, or not one of `wanted`.
        BuildFailed: the compiler refused something.
    """
    kernels = [each.image.kernel for each in requests]
    found = [find_selftests(kernel, wanted) for kernel in kernels]
    labels = paths.numbered([kernel.release for kernel in kernels])
    built = []
    for request, label, selftests in zip(requests, labels, found, strict=True):
        bundle = make_bundle(selftests, request.image.kernel, layout.build(label), progress)
        built.append(KernelSelftests(label, request, selftests, bundle))
    return built


class SelftestsRun:
    """One run of the selftests, in one run folder.

    What was found is complete at any moment, so that an early end, whatever its cause, loses nothing.
    """

    def __init__(
        self,
        kernels: Sequence[KernelSelftests],
        layout: SelftestsLayout,
        cache: Cache,
        *,
        choices: Choices,
        progress: Progress,
        executor: Executor | None = None,
    ) -> None:
        self._kernels = kernels
        self._layout = layout
        self._units = script_units(kernels, layout.root, choices)
        self._cache = cache
        self._choices = choices
        self._progress = progress
        self._executor = executor
        self._begun = time.time()
        self._found: dict[tuple[str, str], ScriptResult] = {}

    def execute(self) -> KlpError | None:
        """Run every script of every kernel; return what ended that early, if anything did.

        ``selftests.json`` is written, as far as it goes, whatever happens; `result` has the same.
        """
        with at_work(self._layout.root):
            return self._execute()

    def _execute(self) -> KlpError | None:
        error: str | None = "interrupted"
        try:
            for each in self._kernels:
                own = [unit for unit in self._units if unit.kernel == each.label]
                release = each.request.image.kernel.release
                with self._progress.step(f"selftests of {release}, {len(own)} scripts"):
                    self._one_kernel(own)
            error = None
        except KlpError as failure:
            error = failure.message
            return failure
        finally:
            self.result = self._result(error)
            write_selftests(self._layout, self.result)
        return None

    def _one_kernel(self, units: Sequence[ScriptUnit]) -> None:
        # For each kernel one, ended after it: guests that wait in a pool hold memory that the next
        # kernel's need.
        own = SelftestsHost(self._cache, self._progress, self._choices.jobs)
        with SELFTEST_HOSTS.serving(self._layout.root, own) as host, ExitStack() as stack:
            executor = self._executor
            if executor is None:
                # In this thread: it may take minutes, and tells its steps as they go.
                host.ready(units[0], len(units))
                size = host.guests_at_once(units[0], len(units))
                executor = stack.enter_context(ThreadPoolExecutor(size, thread_name_prefix="selftest"))
            collect(executor, units, _submit, self._take, host.stop)

    def _take(self, unit: ScriptUnit, found: ScriptResult) -> None:
        self._found[unit.kernel, found.name] = found
        cases = tally(found.cases)
        place = f"{len(self._found)}/{len(self._units)}"
        self._progress.note(f"{place} {found.name}: {found.status.value}, {cases}, {found.seconds:.1f} s")

    def _result(self, error: str | None) -> SelftestsResult:
        return SelftestsResult(
            schema=SELFTESTS_SCHEMA, klp=__version__, qemu=qemu_version(), begun_at=self._begun,
            ended_at=time.time(), kernels=tuple(self._kernel(each) for each in self._kernels), error=error,
        )  # fmt: skip

    def _kernel(self, one: KernelSelftests) -> KernelResult:
        kernel = one.request.image.kernel
        planned = tuple(each.name for each in one.selftests.scripts)
        found = (self._found.get((one.label, name)) for name in planned)
        return KernelResult(
            name=kernel.name, release=kernel.release, kernel_digest=kernel.digest,
            image_digest=one.request.image.digest, accelerator=one.request.accelerator.value,
            modules={module.name: module.sha256 for module in one.bundle.modules},
            planned=planned, scripts=tuple(each for each in found if each),
        )  # fmt: skip


def _submit(executor: Executor, unit: ScriptUnit) -> Future[ScriptResult]:
    return executor.submit(perform_script, unit)
