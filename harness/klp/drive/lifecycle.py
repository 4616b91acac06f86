# SPDX-License-Identifier: Apache-2.0
"""Plans run one after another in a guest under probes, and each judged on its span of the trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from klp.analysis import plan_checks
from klp.analysis.calls import fields_of
from klp.analysis.evidence import Verdict, overall
from klp.analysis.history import history
from klp.analysis.result import Check, PlanResult, callback_calls
from klp.analysis.rule_checks import plan_verdicts, rule_checks
from klp.drive.calls import CallCounter, new_functions, untold
from klp.drive.commands import guest_path
from klp.drive.control import Controls
from klp.drive.probed import ProbedGuest, ProbedLife
from klp.errors import GuestSilent, VmLost
from klp.guest.kernel_log import lines_after, write_canary
from klp.guest.livepatch import PendingTask
from klp.lab.lab import Lab
from klp.model import Module
from klp.modules.plan import PatchPlan, module_name
from klp.paths import RunLayout
from klp.progress import Progress
from klp.trace.observer import Observer
from klp.trace.tracer import Tracer


def lost_result(plan: PatchPlan, lost: VmLost) -> PlanResult:
    """Return the result of a plan whose guest was lost under it: the trace ends where the guest did."""
    # Of a guest that falls silent nobody has asked here why: it may be the livepatch that keeps it busy.
    blamed = not lost.by_nobody or isinstance(lost, GuestSilent)
    gone = plan_checks.guest_lost(lost.message, Verdict.VIOLATED if blamed else Verdict.NOT_OBSERVED)
    return PlanResult(
        name=plan.name,
        livepatch=plan.livepatch,
        objects=(),
        transitions=(),
        shadow=history(()).ledger,
        callbacks=(),
        checks=(gone,),
        log=lost.console_tail,
        error=lost.message,
        verdict=gone.verdict,
    )


class Lifecycle:
    """Runs plans in one lab, one after another.

    Args:
        modules: every module a plan may name, by its name.
        deadline_s: seconds a transition may take.
        slow: gets the tasks that hold a transition which lasts.
        controls: the transitions of the plans' livepatches in a guest without probes (see `control`).
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
        self._observer = Observer(lab.guest, lab.livepatches, tracer.store)
        self._guest = ProbedGuest(
            lab, tracer, self._observer, modules, layout, progress, deadline_s, slow, force
        )
        self._controls = controls or {}
        self._counters: dict[str, CallCounter] = {}

    def ship(self) -> None:
        """Copy every module into the guest."""
        for module in self._guest.modules.values():
            self._guest.lab.guest.put(module.file, guest_path(module.name))

    def run(self, plan: PatchPlan) -> PlanResult:
        """Run one plan to its end, or to its first failure, and judge what was seen.

        Raises:
            VmLost: the machine went away; nothing more can be run in this lab.
            HostStalled: this host stood still meanwhile, and what failed may have failed for that.
        """
        started, machine = time.monotonic(), self._guest.lab.machine
        try:
            result = self._run(plan)
        except GuestSilent as silent:
            raise machine.stalled(started) or silent from None
        stalled = machine.stalled(started)
        if stalled and result.verdict is Verdict.VIOLATED:
            raise stalled
        return result

    def _run(self, plan: PatchPlan) -> PlanResult:
        name = module_name(plan.livepatch)
        begun = self._guest.tracer.mark()
        self._observer.begin(plan.name, name)
        canary = write_canary(self._guest.lab.guest, plan.name)
        counter = self._counting(name)
        life = ProbedLife(self._guest, plan, canary)
        error = life.live()
        # What the probes saw has to stand in the trace before what klp now says of it.
        self._guest.tracer.mark()
        lines = lines_after(self._guest.lab.guest, canary)
        self._observer.log(lines)
        self._observer.taint()
        for same in self._controls.get(plan.name, ()):
            lasted = int(same.seconds * 1e9)
            self._observer.control(same.patch, same.target, passes=same.passes, duration_ns=lasted)
        for each in counter.read() or untold(life.objects):
            self._observer.calls(name, **fields_of(each))
        self._observer.end(plan.name, name)
        return self._judge(life, begun, lines, error)

    def _counting(self, livepatch: str) -> CallCounter:
        """Have the calls of a livepatch's own functions counted from 0; it is not loaded."""
        if livepatch in self._counters:
            self._counters[livepatch].clear()
            return self._counters[livepatch]
        module = self._guest.modules.get(livepatch)
        functions = new_functions(module) if module else ()
        counter = CallCounter(self._guest.lab.guest, functions, f"klp_calls{len(self._counters)}")
        counter.arm()
        self._counters[livepatch] = counter
        return counter

    def _judge(self, life: ProbedLife, begun: int, lines: tuple[str, ...], error: str | None) -> PlanResult:
        """Judge a plan on its span: what the trace holds from `begun` on."""
        store, name = self._guest.tracer.store, module_name(life.plan.livepatch)
        span = store.numbered_since(begun)
        # With what came before: by it the rules know what the probes can see, and which shadow variables
        # are older than the plan.
        whole = history(span, store.numbered_before(begun))
        own = tuple(each for each in whole.transitions if each.patch == name)
        checks: list[Check] = [*([plan_checks.life_failed(error)] if error else []), *life.checks]
        if name:
            checks += [plan_checks.transitions_complete(own), plan_checks.log_agrees(own, lines, name)]
        checks += [plan_checks.none_lost([each for _, each in span]), *rule_checks(plan_verdicts(whole))]
        return PlanResult(
            name=life.plan.name,
            livepatch=name,
            objects=life.objects,
            transitions=own,
            shadow=whole.ledger,
            callbacks=callback_calls(whole, name),
            checks=tuple(checks),
            log=lines,
            error=error,
            verdict=overall(each.verdict for each in checks),
            calls=whole.seen.calls_of(name),
        )
