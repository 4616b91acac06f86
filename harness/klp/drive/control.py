# SPDX-License-Identifier: Apache-2.0
"""The same livepatches in a guest without probes: whether watching changes what is watched (T14)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from klp.drive.job import Job
from klp.drive.subject import LivepatchSubject, ModuleSubject
from klp.errors import CheckFailed
from klp.guest.kernel_log import lines_after, write_canary
from klp.klog.transitions import PASSES_TOLD_BY, LoggedTransition, logged_transitions
from klp.lab.lab import Lab
from klp.lab.warm import WarmStart, restored
from klp.model import Module
from klp.modules.plan import PatchPlan, module_name
from klp.paths import RunLayout
from klp.progress import Progress

_MODULES = "/run/klp/modules"
Controls = dict[str, tuple[LoggedTransition, ...]]


def unprobed(job: Job, bare: WarmStart, deadline_s: float, progress: Progress) -> Controls:
    """Return the transitions that each plan's modules make in a guest without probes, by the plan's name.

    A plan that fails there has none: what failed is told where it is traced.

    Args:
        bare: a saved guest in which no probe is armed.
        deadline_s: seconds a transition may take.

    Raises:
        VmLost: that guest was lost.
    """
    with (
        tempfile.TemporaryDirectory(prefix="klp-control-") as folder,
        progress.step("the same without probes"),
        restored(bare, RunLayout(Path(folder))) as lab,
    ):
        guest = _Unprobed(lab, job.modules, deadline_s)
        return {plan.name: guest.transitions(plan) for plan in job.plans if plan.livepatch}


class _Unprobed:
    """A guest without probes."""

    def __init__(self, lab: Lab, modules: Mapping[str, Module], deadline_s: float) -> None:
        self._lab = lab
        self._modules = modules
        self._deadline_s = deadline_s
        lab.guest.run(["mkdir", "-p", _MODULES]).must("making room for modules")
        tell = f"echo '{PASSES_TOLD_BY}' >/sys/kernel/debug/dynamic_debug/control"
        lab.guest.run(tell).must("having the kernel tell its passes")

    def transitions(self, plan: PatchPlan) -> tuple[LoggedTransition, ...]:
        """Load and unload what a plan names; return the transitions by the kernel's own log."""
        canary = write_canary(self._lab.guest, f"{plan.name} without probes")
        loaded: list[LivepatchSubject | ModuleSubject] = []
        try:
            for word, parameters in [*((each.module, each.parameters) for each in plan.load),
                                     (plan.livepatch, plan.parameters)]:  # fmt: skip
                subject = self._subject(word)
                subject.load(parameters)
                loaded.append(subject)
        except CheckFailed:
            return ()
        finally:
            self._unload(loaded)
        return logged_transitions(lines_after(self._lab.guest, canary))

    def _unload(self, loaded: list[LivepatchSubject | ModuleSubject]) -> None:
        for subject in reversed(loaded):
            if isinstance(subject, LivepatchSubject):
                subject.disable()
            subject.unload()

    def _subject(self, word: str) -> LivepatchSubject | ModuleSubject:
        module = self._modules[module_name(word)]
        path = f"{_MODULES}/{module.file.name}"
        self._lab.guest.put(module.file, path)
        if not module.livepatch:
            return ModuleSubject(self._lab, module, path)
        return LivepatchSubject(
            self._lab, module, path, deadline_s=self._deadline_s, stuck=lambda _tasks: None
        )
