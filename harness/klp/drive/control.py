# SPDX-License-Identifier: Apache-2.0
"""The same livepatches in a guest without probes: does watching change what is watched (rule T14)?

Passes are compared rather than seconds, which vary by a factor of five with what else the host does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import assert_never

from klp.drive.commands import GUEST_MODULES, TELL_PASSES, guest_path
from klp.drive.job import Job
from klp.drive.steps import Act, Disable, Load, Unload, acts, life_of, removal_of
from klp.drive.subject import LivepatchSubject, ModuleSubject
from klp.errors import CheckFailed
from klp.guest.kernel_log import lines_after, write_canary
from klp.klog.transitions import LoggedTransition, logged_transitions
from klp.lab.lab import Lab
from klp.lab.warm import WarmStart, restored
from klp.model import Module
from klp.modules.plan import PatchPlan
from klp.paths import RunLayout
from klp.progress import Progress, teller

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
        tell, found = teller(progress), Controls()
        livepatches = [plan for plan in job.plans if plan.livepatch]
        for number, plan in enumerate(livepatches, 1):
            tell(f"{plan.name}, {number} of {len(livepatches)}")
            found[plan.name] = guest.transitions(plan)
        return found


class _Unprobed:
    """A guest without probes, in which plans are run; the kernel's log alone tells what happened."""

    def __init__(self, lab: Lab, modules: Mapping[str, Module], deadline_s: float) -> None:
        self._lab = lab
        self._modules = modules
        self._deadline_s = deadline_s
        self._loaded: list[str] = []
        lab.guest.run(["mkdir", "-p", GUEST_MODULES]).must("making room for modules")
        lab.guest.run(TELL_PASSES).must("having the kernel tell its passes")

    def transitions(self, plan: PatchPlan) -> tuple[LoggedTransition, ...]:
        """Do what a plan does; return the transitions by the kernel's own log.

        What is seen of the livepatch meanwhile is judged where it is traced.
        """
        canary = write_canary(self._lab.guest, f"{plan.name} without probes")
        try:
            for step in acts(life_of(plan)):
                self._take(step)
        except CheckFailed:
            self._clear_up()
            return ()
        return logged_transitions(lines_after(self._lab.guest, canary))

    def _take(self, step: Act) -> None:
        match step:
            case Load(name, parameters):
                subject = self._subject(name)
                self._lab.guest.put(subject.module.file, subject.path)
                subject.load(parameters)
                self._loaded.append(name)
            case Disable(name, if_there):
                subject = self._subject(name)
                if isinstance(subject, LivepatchSubject) and (not if_there or subject.state):
                    subject.disable()
            case Unload(name):
                self._subject(name).unload()
                self._loaded.remove(name)
            case _:
                assert_never(step)

    def _clear_up(self) -> None:
        """Take out what a plan left that failed, as far as it goes: the next one may do without."""
        for name in reversed(tuple(self._loaded)):
            with suppress(CheckFailed):
                for step in removal_of(name):
                    self._take(step)
        self._loaded.clear()

    def _subject(self, name: str) -> LivepatchSubject | ModuleSubject:
        try:
            module = self._modules[name]
        except KeyError:
            raise CheckFailed(f"no module {name} was built") from None
        path = guest_path(name)
        if not module.livepatch:
            return ModuleSubject(self._lab, module, path)
        return LivepatchSubject(
            self._lab, module, path, deadline_s=self._deadline_s, stuck=lambda _tasks: None
        )
