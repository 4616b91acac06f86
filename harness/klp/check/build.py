# SPDX-License-Identifier: Apache-2.0
"""What a check does without a guest: every livepatch built for a kernel, and its module looked at."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import msgspec

from klp.analysis.evidence import Verdict
from klp.check.candidate import Candidate, Wanted, candidate, modules_of
from klp.check.outcomes import KernelJob, Ledger, Order
from klp.check.static import BUILD, MODINFO, modinfo
from klp.errors import BuildFailed, KlpError, UsageError
from klp.model import Module
from klp.modules.modinfo import release_of
from klp.paths import CheckLayout
from klp.progress import NotesOnly, Progress

# Kbuild waits for itself much of the time where there is a file or two to compile.
_AT_ONCE = 2
# Lines of the compiler's that are told with a build that failed; the rest is the author's to see again.
_SHOWN = 10
_NOT_BUILT = "not tried, for it could not be built: see `build`"
_NOT_FITTING = "not tried, for it is built for another kernel: see `modinfo`"


@dataclass(frozen=True, slots=True)
class _Made:
    """The modules that one word's sources gave, or why they gave none."""

    modules: dict[str, Module]
    seconds: float
    failure: KlpError | None = None


class Workshop:
    """Builds for one check.

    Args:
        kernels: all kernels of the check: a module that is for another of them is no fault.
    """

    def __init__(
        self,
        order: Order,
        kernels: Sequence[KernelJob],
        layout: CheckLayout,
        ledger: Ledger,
        progress: Progress,
    ) -> None:
        self._order = order
        self._kernels = kernels
        self._layout = layout
        self._ledger = ledger
        self._progress = progress

    def built(self, kernel: KernelJob) -> list[Candidate]:
        """Build every livepatch for a kernel, each word's sources once; return those that can be loaded."""
        first: dict[str, Wanted] = {}
        for which in self._order.wanted:
            first.setdefault(which.word, which)
        told = f"building {next(iter(first.values())).name}" + f" and {len(first) - 1} more" * (
            len(first) > 1
        )
        with (
            self._progress.step(told),
            ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="build") as builders,
        ):
            made = dict(zip(first, builders.map(partial(self._make, kernel), first.values()), strict=True))
        found = []
        for which in self._order.wanted:
            built = made[which.word]
            try:
                if built.failure:
                    raise built.failure
                one = candidate(which, kernel.image.kernel, built.modules)
            except (BuildFailed, UsageError) as failure:
                self._not_built(kernel, which, failure)
                continue
            self._static(kernel, which, BUILD, (), built.seconds)
            if self._fits(kernel, which, one):
                found.append(one)
        return found

    def _make(self, kernel: KernelJob, which: Wanted) -> _Made:
        out, begun = self._layout.modules(kernel.label, which.name), time.monotonic()
        try:
            modules = modules_of(which.word, kernel.image.kernel, out, NotesOnly(self._progress))
        except (BuildFailed, UsageError) as failure:
            return _Made({}, time.monotonic() - begun, failure)
        return _Made(modules, time.monotonic() - begun)

    def _not_built(self, kernel: KernelJob, which: Wanted, failure: KlpError) -> None:
        output = failure.output.splitlines() if isinstance(failure, BuildFailed) else []
        told = [failure.message, *([failure.hint] if failure.hint else []), *output[:_SHOWN]]
        self._static(kernel, which, BUILD, tuple(dict.fromkeys(told)))
        self._leave_out_all(kernel, which, _NOT_BUILT, but=(BUILD,))

    def _fits(self, kernel: KernelJob, which: Wanted, one: Candidate) -> bool:
        """Look at a module as far as that goes without a guest; return whether it is for this kernel."""
        own, here = release_of(one.livepatch), kernel.image.kernel.release
        if own != here and own in {each.image.kernel.release for each in self._kernels}:
            self._leave_out_all(kernel, which, f"built for {own}, and this kernel is {here}", but=(BUILD,))
            return False
        self._static(kernel, which, MODINFO, modinfo(one.livepatch, kernel.image.kernel))
        if own != here:
            self._leave_out_all(kernel, which, _NOT_FITTING, but=(BUILD, MODINFO))
        return own == here

    def _static(
        self, kernel: KernelJob, which: Wanted, name: str, reasons: tuple[str, ...], seconds: float = 0.0
    ) -> None:
        if name not in self._order.scenarios:
            return
        verdict = Verdict.VIOLATED if reasons else Verdict.HELD
        outcome = self._ledger.outcome(kernel, which, name, verdict, reasons)
        self._ledger.record(msgspec.structs.replace(outcome, seconds=round(seconds, 3)))

    def _leave_out_all(self, kernel: KernelJob, which: Wanted, why: str, *, but: Sequence[str]) -> None:
        """Record that no scenario was tried, those in `but` aside."""
        for name in self._order.scenarios:
            for repetition in self._ledger.repetitions(name) if name not in but else ():
                self._ledger.leave_out(kernel, which, name, repetition, why)
