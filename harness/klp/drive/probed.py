# SPDX-License-Identifier: Apache-2.0
"""A plan's steps taken in a guest under probes, which write them into the trace; what is seen is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from klp.analysis import plan_checks
from klp.analysis.result import Check, PatchedFunctions
from klp.drive.commands import guest_path
from klp.drive.steps import (
    AwaitLog,
    Disable,
    LifeStep,
    Load,
    LookAtSysfs,
    Observe,
    Unload,
    life_of,
)
from klp.drive.subject import LivepatchSubject, ModuleSubject, not_enabled
from klp.errors import CheckFailed, KlpError, TransitionStuck, VmLost
from klp.guest.kernel_log import lines_after
from klp.guest.livepatch import PendingTask
from klp.klog.canary import Canary
from klp.klog.lines import without_stamp
from klp.lab.lab import Lab
from klp.model import Module
from klp.modules.plan import LogPhase, PatchPlan, module_name
from klp.paths import RunLayout
from klp.progress import Progress
from klp.records.writing import add_pending
from klp.trace.observer import Observer
from klp.trace.tracer import Tracer
from klp.waiting import DeadlineMissed, wait_until

# Each look is a command in the guest, 0.08 s under emulation: more of them would slow what is waited for.
_LOG_POLL_S = 0.2
# klp_force_transition() completes nothing itself: the next pass does, up to a second later. A deadline that
# was short enough to find the transition stuck may be too short for that.
_FORCED_S = 60.0


@dataclass(frozen=True, slots=True)
class ProbedGuest:
    """A guest under probes, and how plans are run in it.

    Attributes:
        modules: every module a plan may name, by its name; they are in the guest.
        deadline_s: seconds a transition may take.
        slow: gets the tasks that hold a transition which lasts.
        force: whether a transition that outlasts its deadline is forced, which fails a check.
    """

    lab: Lab
    tracer: Tracer
    observer: Observer
    modules: Mapping[str, Module]
    layout: RunLayout
    progress: Progress
    deadline_s: float
    slow: Callable[[tuple[PendingTask, ...]], None] | None
    force: bool

    def module(self, name: str) -> Module:
        """Return a module by its name.

        Raises:
            CheckFailed: none of that name was built.
        """
        try:
            return self.modules[name]
        except KeyError:
            raise CheckFailed(f"the plan names a module {name} that was not built") from None

    def plain(self, module: Module) -> ModuleSubject:
        """Return a module as something to be loaded and unloaded."""
        return ModuleSubject(self.lab, module, guest_path(module.name), self.observer)

    def livepatch(self, module: Module) -> LivepatchSubject:
        """Return a livepatch as something to be disabled as well."""
        return LivepatchSubject(
            self.lab, module, guest_path(module.name), deadline_s=self.deadline_s,
            stuck=self._keep_pending, slow=self.slow, observer=self.observer,
        )  # fmt: skip

    def _keep_pending(self, tasks: tuple[PendingTask, ...]) -> None:
        """Write down who holds a stuck transition, before anything is torn down."""
        add_pending(self.layout, tasks)
        for task in tasks:
            self.progress.note(f"pending: {task.line()}")


@dataclass(slots=True)
class ProbedLife:
    """One plan in a guest under probes, and what was seen of it so far, which stays whatever happens.

    Attributes:
        objects: what the livepatch changes, as sysfs shows it.
        checks: on the steps taken.
    """

    guest: ProbedGuest
    plan: PatchPlan
    canary: Canary
    objects: tuple[PatchedFunctions, ...] = ()
    checks: list[Check] = field(default_factory=list)
    _loaded: list[Module] = field(default_factory=list)
    _pinned: list[Module] = field(default_factory=list)

    def live(self) -> str | None:
        """Take every step, or those up to the first that fails: then clear up, and return what failed.

        Raises:
            VmLost: the guest went away.
        """
        try:
            for step in life_of(self.plan):
                self._take(step)
        except VmLost:
            raise
        except KlpError as failure:
            self._clear_up()
            return failure.message
        return None

    def _take(self, step: LifeStep) -> None:
        match step:
            case Load(name, parameters):
                self._load(self.guest.module(name), parameters)
            case LookAtSysfs(name):
                self._look(name)
            case Observe(moment):
                self._observe(moment)
            case AwaitLog(phase):
                self._await_log(phase)
            case Disable(name, if_there):
                module = self.guest.module(name)
                if not if_there or (module.livepatch and self.guest.livepatch(module).state):
                    self._disable(module)
            case Unload(name):
                self._unload(self.guest.module(name))
            case _:
                assert_never(step)

    def _load(self, module: Module, parameters: str) -> None:
        with self.guest.progress.step(f"load {module.name}"):
            # Not as a livepatch, whose `load` waits and raises: `_settle` waits, for it can force the
            # transition.
            self.guest.plain(module).load(parameters)
            self._loaded.append(module)
            if module.livepatch:
                self._settle(self.guest.livepatch(module))

    def _settle(self, livepatch: LivepatchSubject) -> bool:
        """Wait for a transition; force one that is stuck, if that is wanted. Return whether it was."""
        try:
            livepatch.wait()
        except TransitionStuck as stuck:
            if not self.guest.force:
                raise
            self.guest.progress.note(f"forced: {livepatch.name}")
            livepatch.force(wait=False)
            livepatch.wait(deadline_s=max(self.guest.deadline_s, _FORCED_S))
            self.checks.append(plan_checks.forced(stuck.message))
            return True
        return False

    def _look(self, name: str) -> None:
        state = next((each for each in self.guest.observer.sysfs() if each.name == name), None)
        if state is None:
            raise not_enabled(name)
        self.objects = tuple(
            PatchedFunctions(object=each.name, functions=each.functions) for each in state.objects
        )
        self.checks.append(plan_checks.enabled(state.enabled))

    def _observe(self, moment: str) -> None:
        for each in self.plan.observe:
            pattern = getattr(each, moment)
            if pattern:
                output = self.guest.lab.guest.run(each.command).stdout.strip()
                held = re.search(pattern, output) is not None
                self.guest.observer.behaviour(
                    patch=module_name(self.plan.livepatch), moment=moment, command=each.command,
                    pattern=pattern, output=output, held=held, rules=self.plan.rules,
                )  # fmt: skip
                self.checks.append(plan_checks.behaved(moment, each.command, output, held=held))

    def _await_log(self, phase: LogPhase) -> None:
        """Wait, up to the plan's `settle`, for the lines the kernel log must have by now."""
        for each in (entry for entry in self.plan.log if entry.when is phase):
            pattern = re.compile(each.pattern)

            def matching(pattern: re.Pattern[str] = pattern) -> str | None:
                lines = lines_after(self.guest.lab.guest, self.canary)
                return next((line for line in lines if pattern.search(line)), None)

            line, waited_s = None, 0.0
            try:
                found = wait_until(
                    matching, what=each.pattern, timeout_s=self.plan.settle, every_s=_LOG_POLL_S
                )
                line = without_stamp(found)
            except DeadlineMissed as missed:
                waited_s = missed.waited_s
            self.checks.append(plan_checks.awaited(phase, each.pattern, line, waited_s))

    def _disable(self, module: Module) -> None:
        with self.guest.progress.step(f"disable {module.name}"):
            livepatch = self.guest.livepatch(module)
            # Without waiting, for it is `_settle` that forces a transition which outlasts its deadline.
            livepatch.disable(wait=False)
            if self._settle(livepatch):
                self._pinned.append(module)
            livepatch.wait_gone()
            livepatch.look()

    def _unload(self, module: Module) -> None:
        # After a force a task may still run its code, so klp_free_patch_finish (kernel/livepatch/core.c)
        # never gives the module's reference back, and rmmod is refused for good.
        if module in self._pinned:
            self.guest.progress.note(f"{module.name} stays loaded for good: it was disabled by force")
            self._loaded.remove(module)
            return
        with self.guest.progress.step(f"unload {module.name}"):
            if module.livepatch:
                self.guest.tracer.mark()  # with it go its symbols, by which the probes name who called
            self.guest.plain(module).unload()
            self._loaded.remove(module)

    def _clear_up(self) -> None:
        """Take out what a failed plan left, so that the next one starts clean; the first error stands."""
        for module in reversed(tuple(self._loaded)):
            try:
                if module.livepatch and self.guest.livepatch(module).enabled:
                    self._disable(module)
                self._unload(module)
            except VmLost:
                raise
            except KlpError as error:
                self.guest.progress.note(f"left behind: {module.name} ({error.message})")
