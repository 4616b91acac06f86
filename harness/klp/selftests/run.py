# SPDX-License-Identifier: Apache-2.0
"""The upstream selftests on several kernels: each script in a guest of its own, several at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from klp.analysis.selftests import (
    SELFTESTS_SCHEMA,
    KernelResult,
    ScriptResult,
    SelftestsResult,
    tally,
)
from klp.errors import KlpError, VmLost
from klp.images.cache import Cache
from klp.lab.lab import Lab
from klp.lab.warm import ensure_warm, warm_pool
from klp.model import Accelerator, Image
from klp.paths import SelftestsLayout
from klp.progress import Progress
from klp.records.writing import write_selftests
from klp.selftests.build import Bundle, Selftests, find_selftests, make_bundle
from klp.selftests.script import Order, Stopped, lost_script, run_script
from klp.settings import Settings
from klp.trace.tracer import PROBES
from klp.version import __version__
from klp.vm.deadlines import deadlines
from klp.vm.pool import Pool, size_that_fits
from klp.vm.spec import qemu_version


@dataclass(frozen=True, slots=True)
class KernelJob:
    """The selftests of one kernel, built; `label` is what its folder is called."""

    label: str
    image: Image
    accelerator: Accelerator
    selftests: Selftests
    bundle: Bundle


@dataclass(frozen=True, slots=True)
class Choices:
    """What a user can say about a run.

    Attributes:
        jobs: how many guests at once; as many as the host holds where None.
        traced: whether probes watch each script.
        deadline_s: seconds a script may take; by accelerator where None.
    """

    jobs: int | None = None
    traced: bool = True
    deadline_s: float | None = None


def make_kernel_jobs(
    images: Sequence[tuple[Image, Accelerator]],
    wanted: Sequence[str],
    layout: SelftestsLayout,
    progress: Progress,
) -> list[KernelJob]:
    """Find and build the selftests of every kernel: all scripts, or those that `wanted` names.

    Raises:
        UsageError: it has none, or not one of `wanted`.
        BuildFailed: the compiler refused something.
    """
    found = [find_selftests(image.kernel, wanted) for image, _ in images]
    jobs: list[KernelJob] = []
    for (image, accelerator), selftests in zip(images, found, strict=True):
        release = image.kernel.release
        same = sum(each.image.kernel.release == release for each in jobs)
        label = f"{release}-{same + 1}" if same else release
        bundle = make_bundle(selftests, image.kernel, layout.build(label), progress)
        jobs.append(KernelJob(label, image, accelerator, selftests, bundle))
    return jobs


class SelftestsRun:
    """One run of the selftests, in one run folder.

    What was found is complete at any moment, so that an early end, whatever its cause, loses nothing.
    """

    def __init__(
        self,
        jobs: Sequence[KernelJob],
        layout: SelftestsLayout,
        settings: Settings,
        cache: Cache,
        *,
        choices: Choices,
        progress: Progress,
    ) -> None:
        self._jobs = jobs
        self._layout = layout
        self._settings = settings
        self._cache = cache
        self._choices = choices
        self._progress = progress
        self._stop = threading.Event()
        self._begun = time.time()
        self._found: dict[tuple[str, str], ScriptResult] = {}

    def execute(self) -> KlpError | None:
        """Run every script of every kernel; return what ended that early, if anything did.

        ``selftests.json`` is written, as far as it goes, whatever happens; `result` has the same.
        """
        error: str | None = "interrupted"
        try:
            for job in self._jobs:
                with self._progress.step(f"selftests of {job.image.kernel.release}"):
                    self._one_kernel(job)
            error = None
        except KlpError as failure:
            error = failure.message
            return failure
        finally:
            self.result = self._result(error)
            write_selftests(self._layout, self.result)
        return None

    def _one_kernel(self, job: KernelJob) -> None:
        probes = PROBES if self._choices.traced else ()
        warm = ensure_warm(
            self._cache, job.image, self._settings, job.accelerator, progress=self._progress, probes=probes
        )
        limit = self._choices.deadline_s or deadlines(job.accelerator).selftest
        orders = [
            Order(
                script, job.bundle, job.image.kernel.release, self._layout, warm.probes, limit, self._stop
            )
            for script in job.selftests.scripts
        ]
        asked = min(self._choices.jobs or len(orders), len(orders))
        size = size_that_fits(self._settings.memory_mib, asked)
        with (
            warm_pool(job.image, warm, self._settings, job.accelerator, asked=size) as pool,
            ThreadPoolExecutor(size, thread_name_prefix="selftest") as workers,
        ):
            self._gather(job, (workers.submit(self._one_script, pool, order) for order in orders))

    def _gather(self, job: KernelJob, submitted: Iterable[Future[ScriptResult]]) -> None:
        futures: list[Future[ScriptResult]] = []
        try:
            futures.extend(submitted)  # here, for an interrupt may come as a worker is started, too
            for future in as_completed(futures):
                found = future.result()
                self._found[job.label, found.name] = found
                told = f"{found.name}: {found.status.value}, {tally(found.cases)}, {found.seconds:.1f} s"
                self._progress.note(told)
        except BaseException:
            self._stop.set()
            for future in futures:
                future.cancel()
            raise

    def _one_script(self, pool: Pool[Lab], order: Order) -> ScriptResult:
        if self._stop.is_set():
            raise Stopped
        try:
            with pool.lease() as lab:
                return run_script(lab, order)
        except VmLost as lost:  # before the script: what befalls the guest later is the script's result
            return lost_script(order, lost)

    def _result(self, error: str | None) -> SelftestsResult:
        return SelftestsResult(
            schema=SELFTESTS_SCHEMA, klp=__version__, qemu=qemu_version(), begun_at=self._begun,
            ended_at=time.time(), kernels=tuple(self._kernel(job) for job in self._jobs), error=error,
        )  # fmt: skip

    def _kernel(self, job: KernelJob) -> KernelResult:
        kernel = job.image.kernel
        planned = tuple(each.name for each in job.selftests.scripts)
        found = (self._found.get((job.label, name)) for name in planned)
        return KernelResult(
            name=kernel.name, release=kernel.release, kernel_digest=kernel.digest,
            image_digest=job.image.digest, accelerator=job.accelerator.value,
            modules={module.name: module.sha256 for module in job.bundle.modules},
            planned=planned, scripts=tuple(each for each in found if each),
        )  # fmt: skip
