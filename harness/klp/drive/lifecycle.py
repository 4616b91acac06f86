# SPDX-License-Identifier: Apache-2.0
"""One plan, from load to unload: what is done to a livepatch, and what must be seen meanwhile.

The order is that of the kernel's own selftests (tools/testing/selftests/livepatch/functions.sh):
load_lp, check, disable_lp, unload_lp, with what the livepatch needs loaded before and removed after.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from klp.analysis.checks import (
    SURVIVES,
    alarm_check,
    callback_calls,
    check,
    log_check,
    loss_check,
    shadow_check,
    transition_checks,
)
from klp.analysis.evidence import Verdict, overall
from klp.analysis.result import Check, PatchedFunctions, PlanResult
from klp.analysis.shadow import shadow_ledger
from klp.analysis.transitions import transitions
from klp.drive.control import Controls
from klp.drive.subject import LivepatchSubject, ModuleSubject, not_enabled
from klp.errors import CheckFailed, KlpError, TransitionStuck, VmLost
from klp.guest.kernel_log import lines_after, write_canary
from klp.guest.livepatch import PendingTask
from klp.klog.canary import Canary
from klp.klog.lines import alarms, without_stamp
from klp.lab.lab import Lab
from klp.model import Module
from klp.modules.plan import PatchPlan, module_name
from klp.paths import RunLayout
from klp.progress import Progress
from klp.trace.observer import Observer
from klp.trace.tracer import Tracer
from klp.waiting import DeadlineMissed, wait_until

log = logging.getLogger(__name__)

_MODULES = "/run/klp/modules"
_LOG_POLL_S = 0.2
# The next pass completes what was forced, whatever the deadline for one that nobody forces.
_FORCED_S = 60.0


@dataclass(slots=True)
class _Observed:
    """What has been seen so far, kept whatever happens next."""

    objects: tuple[PatchedFunctions, ...] = ()
    checks: list[Check] = field(default_factory=list)
    loaded: list[Module] = field(default_factory=list)
    pinned: list[Module] = field(default_factory=list)


def lost_result(plan: PatchPlan, lost: VmLost) -> PlanResult:
    """Return the result of a plan whose guest was lost under it: the trace ends where the guest did."""
    return PlanResult(
        name=plan.name,
        livepatch=plan.livepatch,
        objects=(),
        transitions=(),
        shadow=shadow_ledger(()),
        callbacks=(),
        checks=(check(SURVIVES, False, lost.message),),
        log=lost.console_tail,
        error=lost.message,
        verdict=Verdict.VIOLATED,
    )


class Lifecycle:
    """Runs plans in one lab, one after another.

    Args:
        modules: every module a plan may name, by the name of its file without ``.ko``.
        deadline_s: seconds a transition may take.
        slow: gets the tasks that hold a transition which lasts.
        controls: what the plans' livepatches did in a guest without probes.
        force: whether a transition that outlasts its deadline is forced, which fails a check.
    """

    def __init__(
        self,
        lab: Lab,
        tracer: Tracer,
        modules: Mapping[str, Module],
        layout: RunLayout,
        progress: Progress,
        *,
        deadline_s: float,
        slow: Callable[[tuple[PendingTask, ...]], None] | None = None,
        controls: Controls | None = None,
        force: bool = False,
    ) -> None:
        self._lab = lab
        self._tracer = tracer
        self._modules = modules
        self._layout = layout
        self._progress = progress
        self._deadline_s = deadline_s
        self._slow = slow
        self._controls = controls or {}
        self._force = force
        self._observer = Observer(lab.guest, lab.livepatches, tracer.store)

    def ship(self) -> None:
        """Copy every module into the guest."""
        for module in self._modules.values():
            self._lab.guest.put(module.file, self._path(module))

    def _path(self, module: Module) -> str:
        return f"{_MODULES}/{module.file.name}"

    def run(self, plan: PatchPlan) -> PlanResult:
        """Run one plan to its end, or to its first failure, and judge what was seen.

        Raises:
            VmLost: the machine went away; nothing more can be run in this lab.
        """
        begun = self._tracer.mark()
        self._observer.begin(plan.name, module_name(plan.livepatch))
        canary = write_canary(self._lab.guest, plan.name)
        seen = _Observed()
        error: str | None = None
        try:
            self._steps(plan, seen, canary)
        except VmLost:
            raise
        except KlpError as failure:
            error = failure.message
            self._clear_up(seen)
        self._tracer.mark()
        lines = lines_after(self._lab.guest, canary)
        self._observer.log(lines)
        self._observer.taint()
        for same in self._controls.get(plan.name, ()):
            lasted = int(same.seconds * 1e9)
            self._observer.control(same.patch, same.target, passes=same.passes, duration_ns=lasted)
        self._observer.end(plan.name, module_name(plan.livepatch))
        return self._judge(plan, seen, begun, lines, error)

    def _steps(self, plan: PatchPlan, seen: _Observed, canary: Canary) -> None:
        for entry in plan.load:
            self._load(self._module(entry.module), entry.parameters, seen)
        self._observe(plan, "before", seen)
        if plan.livepatch:
            self._whole_life(plan, seen, canary)
        for module in reversed(tuple(seen.loaded)):
            self._unload(module, seen)
        self._await_log(plan, "unloaded", canary, seen)

    def _whole_life(self, plan: PatchPlan, seen: _Observed, canary: Canary) -> None:
        module = self._module(plan.livepatch)
        self._load(module, plan.parameters, seen)
        state = next((each for each in self._observer.sysfs() if each.name == module.name), None)
        if state is None:
            raise not_enabled(module.name)
        seen.objects = tuple(
            PatchedFunctions(object=each.name, functions=each.functions) for each in state.objects
        )
        seen.checks.append(
            check("enabled after loading", state.enabled, f"enabled is {int(state.enabled)}")
        )
        self._observe(plan, "enabled", seen)
        self._await_log(plan, "enabled", canary, seen)
        self._disable(module, seen)
        self._observer.sysfs()
        self._observe(plan, "after", seen)
        self._await_log(plan, "disabled", canary, seen)
        self._rmmod(module, seen)

    def _module(self, name: str) -> Module:
        try:
            return self._modules[module_name(name)]
        except KeyError:
            raise CheckFailed(f"the plan names a module {module_name(name)} that was not built") from None

    def _plain(self, module: Module) -> ModuleSubject:
        return ModuleSubject(self._lab, module, self._path(module), self._observer)

    def _livepatch(self, module: Module) -> LivepatchSubject:
        return LivepatchSubject(
            self._lab, module, self._path(module), deadline_s=self._deadline_s,
            stuck=self._keep_pending, slow=self._slow, observer=self._observer,
        )  # fmt: skip

    def _load(self, module: Module, parameters: str, seen: _Observed) -> None:
        with self._progress.step(f"load {module.name}"):
            self._plain(module).load(parameters)
            seen.loaded.append(module)
            if module.livepatch:
                self._settle(self._livepatch(module), seen)

    def _settle(self, livepatch: LivepatchSubject, seen: _Observed) -> bool:
        """Wait for a transition; force one that is stuck, if that is wanted. Return whether it was."""
        try:
            livepatch.wait()
        except TransitionStuck as stuck:
            if not self._force:
                raise
            self._progress.note(f"forced: {livepatch.name}")
            livepatch.force(wait=False)
            livepatch.wait(deadline_s=max(self._deadline_s, _FORCED_S))
            seen.checks.append(check("transition needs no force", False, f"{stuck.message}; forced"))
            return True
        return False

    def _unload(self, module: Module, seen: _Observed) -> None:
        if module.livepatch and self._livepatch(module).state:  # else it was replaced meanwhile
            self._disable(module, seen)
        self._rmmod(module, seen)

    def _disable(self, module: Module, seen: _Observed) -> None:
        with self._progress.step(f"disable {module.name}"):
            livepatch = self._livepatch(module)
            livepatch.disable(wait=False)
            if self._settle(livepatch, seen):
                seen.pinned.append(module)
            livepatch.wait_gone()
            livepatch.look()

    def _rmmod(self, module: Module, seen: _Observed) -> None:
        if module in seen.pinned:  # klp_free_patch_finish keeps it: a task may still run its code
            self._progress.note(f"{module.name} stays loaded for good: it was disabled by force")
            seen.loaded.remove(module)
            return
        with self._progress.step(f"unload {module.name}"):
            if module.livepatch:
                self._tracer.mark()  # with it go its symbols, by which the probes name who called
            self._plain(module).unload()
            seen.loaded.remove(module)

    def _keep_pending(self, tasks: tuple[PendingTask, ...]) -> None:
        """Write down who holds a stuck transition, before anything is torn down."""
        with self._layout.pending.open("a") as file:
            for task in tasks:
                file.write("\n  ".join([task.line(), *task.stack]) + "\n")
                self._progress.note(f"pending: {task.line()}")

    def _observe(self, plan: PatchPlan, when: str, seen: _Observed) -> None:
        for each in plan.observe:
            pattern = getattr(each, when)
            if pattern:
                output = self._lab.guest.run(each.command).stdout.strip()
                found = re.search(pattern, output) is not None
                shown = output.splitlines()[-1][:100] if output else "nothing"
                self._observer.behaviour(
                    patch=module_name(plan.livepatch), moment=when, command=each.command, pattern=pattern,
                    output=output, held=found, rules=plan.rules,
                )  # fmt: skip
                seen.checks.append(check(f"{when}: {each.command}", found, f"says {shown!r}"))

    def _await_log(self, plan: PatchPlan, when: str, canary: Canary, seen: _Observed) -> None:
        """Wait, up to the plan's `settle`, for the lines the kernel log must have by now."""
        for each in (entry for entry in plan.log if entry.when == when):
            pattern = re.compile(each.pattern)

            def matching(pattern: re.Pattern[str] = pattern) -> str | None:
                lines = lines_after(self._lab.guest, canary)
                return next((line for line in lines if pattern.search(line)), None)

            try:
                line = wait_until(matching, what=each.pattern, timeout_s=plan.settle, every_s=_LOG_POLL_S)
                seen.checks.append(check(f"{when}: log has {each.pattern}", True, without_stamp(line)))
            except DeadlineMissed as missed:
                told = f"no such line within {missed.waited_s:.1f} s"
                seen.checks.append(check(f"{when}: log has {each.pattern}", False, told))

    def _clear_up(self, seen: _Observed) -> None:
        """Take out what a failed plan left, so that the next one starts clean; the first error stands."""
        for module in reversed(tuple(seen.loaded)):
            try:
                if module.livepatch and self._livepatch(module).enabled:
                    self._disable(module, seen)
                self._rmmod(module, seen)
            except VmLost:
                raise
            except KlpError as error:
                self._progress.note(f"left behind: {module.name} ({error.message})")

    def _judge(
        self,
        plan: PatchPlan,
        seen: _Observed,
        begun: int,
        lines: tuple[str, ...],
        error: str | None,
    ) -> PlanResult:
        events = self._tracer.store.since(begun)
        name = module_name(plan.livepatch)
        own = tuple(each for each in transitions(events) if each.patch == name)
        ledger = shadow_ledger(events)
        checks = list(seen.checks)
        if name:
            checks += [*transition_checks(own), log_check(own, lines, name)]
        checks += [shadow_check(ledger), loss_check(events), alarm_check(alarms(lines))]
        if error:
            checks.insert(0, check("life cycle", False, error))
        return PlanResult(
            name=plan.name,
            livepatch=name,
            objects=seen.objects,
            transitions=own,
            shadow=ledger,
            callbacks=callback_calls(events, name),
            checks=tuple(checks),
            log=lines,
            error=error,
            verdict=overall(each.verdict for each in checks) if checks else Verdict.NOT_OBSERVED,
        )
