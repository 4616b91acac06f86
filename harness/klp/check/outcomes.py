# SPDX-License-Identifier: Apache-2.0
"""What a check is asked for, and what it has found so far: written down after every outcome."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from klp.analysis.checked import CHECK_SCHEMA as SCHEMA
from klp.analysis.checked import CheckedKernel, CheckResult
from klp.analysis.checked import ScenarioOutcome as Outcome
from klp.analysis.evidence import Verdict
from klp.check.candidate import Candidate, Wanted
from klp.check.static import STATIC
from klp.model import Image
from klp.paths import CheckLayout
from klp.progress import Progress
from klp.records.writing import write_check
from klp.version import __version__
from klp.vm.spec import qemu_version

Key = tuple[str, str, str, int]


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for.

    Attributes:
        wanted: the livepatches.
        scenarios: names, in order.
        quick: whether scenarios are to take a first look only.
        repeat: how often each is run.
        jobs: guests at once; None for as many as help on this host.
    """

    wanted: tuple[Wanted, ...]
    scenarios: tuple[str, ...]
    quick: bool = False
    repeat: int = 1
    jobs: int | None = None


@dataclass(frozen=True, slots=True)
class KernelJob:
    """A kernel, ready to be booted; `accelerator` is kvm or tcg."""

    image: Image
    accelerator: str

    @property
    def name(self) -> str:
        """What the user called it."""
        return self.image.kernel.name

    @property
    def label(self) -> str:
        """What its folder is called."""
        return self.image.kernel.release if "/" in self.name else self.name

    @property
    def told(self) -> CheckedKernel:
        """Return it as check.json has it."""
        return CheckedKernel(
            name=self.name, release=self.image.kernel.release, kernel_digest=self.image.kernel.digest,
            image_digest=self.image.digest, accelerator=self.accelerator,
        )  # fmt: skip


class Ledger:
    """The outcomes of one check.

    Args:
        before: what an earlier, interrupted part of it found.
    """

    def __init__(
        self,
        order: Order,
        kernels: Sequence[KernelJob],
        layout: CheckLayout,
        progress: Progress,
        before: CheckResult | None,
    ) -> None:
        self._order = order
        self._kernels = tuple(kernels)
        self._layout = layout
        self._progress = progress
        self._begun = before.begun_at if before else time.time()
        self._found: dict[Key, Outcome] = {each.key: each for each in (before.outcomes if before else ())}

    def get(self, kernel: str, livepatch: str, scenario: str, repetition: int = 1) -> Outcome | None:
        """Return an outcome that is there."""
        return self._found.get((kernel, livepatch, scenario, repetition))

    def repetitions(self, scenario: str) -> range:
        """Return the numbers of a scenario's repetitions; what takes no guest needs none."""
        return range(1, (1 if scenario in STATIC else self._order.repeat) + 1)

    def outcome(
        self,
        kernel: KernelJob,
        which: Candidate | Wanted,
        scenario: str,
        verdict: Verdict,
        reasons: tuple[str, ...] = (),
        *,
        repetition: int = 1,
    ) -> Outcome:
        """Return an outcome with what all have; it is not recorded."""
        only = [] if which.alone else ["--livepatch", which.name]
        quick = ["--quick"] if self._order.quick else []
        words = ["klp", "check", which.word, "--kernel", kernel.name, *only, "--scenario", scenario, *quick]
        return Outcome(
            kernel=kernel.name, livepatch=which.name, scenario=scenario, repetition=repetition,
            verdict=verdict, reasons=reasons, notes=(), rules={}, lost=False, seconds=0.0,
            command=shlex.join(words), folder="",
        )  # fmt: skip

    def not_observed(
        self, kernel: KernelJob, which: Candidate | Wanted, scenario: str, repetition: int, why: str
    ) -> Outcome:
        """Return the outcome of a scenario that was not tried; it is not recorded."""
        kind = Verdict.NOT_OBSERVED
        return self.outcome(kernel, which, scenario, kind, (why,), repetition=repetition)

    def leave_out(
        self, kernel: KernelJob, which: Candidate | Wanted, scenario: str, repetition: int, why: str
    ) -> None:
        """Record that a scenario was not tried."""
        self.record(self.not_observed(kernel, which, scenario, repetition, why))

    def record(self, outcome: Outcome) -> None:
        """Take an outcome, write check.json, and say it."""
        self._found[outcome.key] = outcome
        self.write(None)
        took = f", {outcome.seconds:.1f} s" if outcome.seconds else ""
        why = f": {outcome.reasons[0]}" if outcome.reasons else ""
        done = f"{len(self._found)}/{sum(1 for _ in self._planned())}"
        what = f"{outcome.livepatch} {outcome.scenario}: {outcome.verdict.value}"
        self._progress.note(f"{done} {what}{took}{why}")

    def write(self, error: str | None) -> None:
        """Write check.json; `error` says why it ended early."""
        write_check(self._layout, self.result(error))

    def result(self, error: str | None) -> CheckResult:
        """Return all that was found so far."""
        planned = list(self._planned())
        return CheckResult(
            schema=SCHEMA, klp=__version__, qemu=qemu_version(), begun_at=self._begun,
            ended_at=time.time(), livepatches=tuple(each.told for each in self._order.wanted),
            kernels=tuple(each.told for each in self._kernels), scenarios=self._order.scenarios,
            quick=self._order.quick, repeat=self._order.repeat,
            outcomes=tuple(self._found[key] for key in planned if key in self._found), error=error,
            complete=all(key in self._found for key in planned),
        )  # fmt: skip

    def _planned(self) -> Iterator[Key]:
        """Yield the keys of all outcomes that there are to be, in order."""
        for which in self._order.wanted:
            for kernel in self._kernels:
                for name in self._order.scenarios:
                    for repetition in self.repetitions(name):
                        yield (kernel.name, which.name, name, repetition)
