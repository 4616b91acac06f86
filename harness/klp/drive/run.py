# SPDX-License-Identifier: Apache-2.0
"""A whole run: guests booted or restored, their probes armed, every plan run, the run folder written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from klp.analysis.evidence import Verdict, overall
from klp.analysis.result import RUN_SCHEMA, PlanResult, RunResult
from klp.analysis.rules.rule import RuleVerdict
from klp.diskspace import is_full, room_on
from klp.drive.control import Controls, unprobed
from klp.drive.lifecycle import Lifecycle, lost_result
from klp.drive.prepare import PreparedRun
from klp.drive.watch import Watch
from klp.errors import GuestSilent, HostLacks, Interrupted, KlpError, OwnFault, UsageError, VmLost
from klp.lab.lab import Lab, booted
from klp.lab.programs import ensure_programs
from klp.lab.provenance import provenance
from klp.lab.warm import WarmStart, restored
from klp.modules.functions import watched
from klp.modules.plan import PatchPlan
from klp.paths import RunLayout
from klp.progress import Progress, under_way
from klp.records.running import at_work
from klp.records.verdicts import judge_run
from klp.records.writing import write_run
from klp.trace.tracer import CONSISTENCY, PROBES, Tracer, traced


@dataclass(frozen=True, slots=True)
class Turn:
    """One repetition of a plan, counted from 1."""

    plan: PatchPlan
    repetition: int


class Run:
    """One execution of a job, in one run folder.

    Args:
        repeat: how often each plan is run; each repetition of all of them has a fresh guest, so that none
            depends on another's.
        retry_lost: run a plan whose guest was lost once more, in a fresh guest.
        force: force a transition that outlasts its deadline.
        watch: gets what happens while it happens.
        consistency: have klpconsistency watch every function that the livepatches change (T12).

    What is found is complete at any moment, so that an early end, whatever its cause, loses nothing.
    """

    def __init__(
        self,
        prepared: PreparedRun,
        *,
        progress: Progress,
        repeat: int = 1,
        retry_lost: bool = False,
        force: bool = False,
        watch: Watch | None = None,
        consistency: bool = False,
    ) -> None:
        job, kernel = prepared.job, prepared.kernel
        self._job = job
        self._layout = prepared.layout
        self._settings = kernel.settings
        self._request = kernel.request
        self._cache = kernel.cache
        self._progress = progress
        self._warm = prepared.warm
        self._watch = watch
        self._bare = prepared.bare
        self._consistency = consistency
        self._force = force
        self._controls: Controls = {}
        self._begun = time.time()
        self._provenance = provenance(self._request, job.modules.values(), kernel.accelerator.reason)
        self._repeat = repeat
        self._pending = [Turn(plan, number) for number in range(1, repeat + 1) for plan in job.plans]
        self._retries = set(self._pending) if retry_lost else set()
        self._plans: list[PlanResult] = []
        self._unseen: tuple[str, ...] = ()
        self._events = 0
        self._lost = 0
        self._in_plan = False  # whether the guest at hand got as far as a plan

    def execute(self) -> tuple[RunResult, KlpError | None]:
        """Run every plan; return what was found, and what first went wrong with a guest or with klp itself.

        The result stands in ``run.json``, as far as it goes, whatever happens.
        """
        with at_work(self._layout.root):
            return self._execute()

    def _execute(self) -> tuple[RunResult, KlpError | None]:
        first: KlpError | None = None
        try:
            self._controls = self._unprobed()
            while self._pending:
                with room_on(self._layout.root):
                    failure = self._one_guest()
                first = first or failure
                # A folder for each guest, or its console and events would go on in the last one's.
                if self._pending:
                    self._layout = self._layout.of_guest(self._layout.guest + 1)
        except KlpError as failure:
            return self._conclude(failure), first or failure
        except Exception as bug:
            self._conclude(OwnFault(f"klp itself failed: {type(bug).__name__}: {bug}"))
            raise
        except BaseException:  # Ctrl-C
            self._conclude(Interrupted("interrupted"))
            raise
        return self._conclude(first), first

    def _unprobed(self) -> Controls:
        if self._bare is None:
            return {}
        return unprobed(self._job, self._bare, self._settings.deadline_s, self._progress)

    def _one_guest(self) -> VmLost | None:
        """Run the plans of one repetition in one guest, until all are done or it is lost under one of them.

        Returns the loss, unless that plan is to be run again.

        Raises:
            VmLost: the guest was lost before it was of any use; another would fare no better.
        """
        waiting = len(self._pending)
        try:
            with self._lab() as lab:
                self._in_guest(lab)
        except VmLost as lost:
            return self._after_loss(lost, progressed=len(self._pending) < waiting)
        return None

    def _after_loss(self, lost: VmLost, *, progressed: bool) -> VmLost | None:
        # Lost before any plan: by the host or the saved guest, and a fresh guest would meet the same.
        if not self._pending or not (progressed or self._in_plan):
            raise lost
        turn = self._pending[0]
        if turn in self._retries:
            self._retries.remove(turn)
            self._progress.note(f"{turn.plan.name}: guest lost ({lost.message}); once more in a fresh one")
            return None
        self._progress.note(f"{turn.plan.name}: guest lost ({lost.message})")
        self._done(lost_result(turn.plan, lost))
        return lost

    def _done(self, result: PlanResult) -> None:
        """Keep what came of the plan whose turn it is."""
        turn = self._pending.pop(0)
        where = {"repetition": turn.repetition, "guest": self._layout.guest}
        self._plans.append(msgspec.structs.replace(result, **where))

    def _lab(self) -> AbstractContextManager[Lab]:
        if self._warm is None:
            return booted(self._request, self._layout, self._progress)
        self._progress.note("starting from a saved guest, its probes armed")
        return self._restored(self._warm)

    @contextmanager
    def _restored(self, warm: WarmStart) -> Iterator[Lab]:
        with ExitStack() as stack:
            with under_way(self._progress, "restoring it"):
                lab = stack.enter_context(restored(warm, self._layout))
            yield lab

    def _in_guest(self, lab: Lab) -> None:
        running = self._warm.probes if self._warm else ()
        self._in_plan = False
        listen = self._watch.event if self._watch else None
        try:
            with traced(
                lab.guest, self._layout.events, self._progress, running, listen, programs=self._programs()
            ) as tracer:
                self._watch_functions(tracer)
                self._unseen = tracer.missing()
                for line in self._unseen:
                    self._progress.note(line)
                try:
                    self._all_plans(lab, tracer)
                finally:
                    self._events += tracer.store.count()
                    self._lost += tracer.store.lost()
        finally:
            with under_way(self._progress, "keeping the kernel log"):
                _keep_log(lab, self._layout)

    def _programs(self) -> tuple[Path, ...]:
        if self._warm:  # its probes are loaded
            return ()
        with self._progress.step("compiling the probes"):
            return ensure_programs(self._cache, self._request, (*PROBES, CONSISTENCY), self._progress)

    def _watch_functions(self, tracer: Tracer) -> None:
        if not self._consistency:
            return
        functions = watched(each for each in self._job.modules.values() if each.livepatch)
        with self._progress.step(f"arming {CONSISTENCY} for {len(functions)} functions"):
            tracer.watch(functions)

    def _all_plans(self, lab: Lab, tracer: Tracer) -> None:
        lifecycle = Lifecycle(
            lab,
            tracer,
            self._job.modules,
            self._layout,
            self._progress,
            deadline_s=self._settings.deadline_s,
            slow=self._watch.slow if self._watch else None,
            controls=self._controls,
            force=self._force,
        )
        with self._progress.step(f"shipping {len(self._job.modules)} modules"):
            lifecycle.ship()
        own, count = self._pending[0].repetition, len(self._job.plans)
        while self._pending and self._pending[0].repetition == own:
            plan = self._pending[0].plan
            self._in_plan = True
            place = f"{self._job.plans.index(plan) + 1}/{count} " if count > 1 else ""
            which = f" ({own} of {self._repeat})" if self._repeat > 1 else ""
            with self._progress.step(f"{place}{plan.name}{which}"):
                self._done(lifecycle.run(plan))

    def _rules(self) -> tuple[RuleVerdict, ...]:
        """Judge what was recorded, from the files, so that `klp analyze` later says the same."""
        try:
            return judge_run(self._layout.root)
        except UsageError as error:  # nothing was recorded yet, or a stream was cut by what ended the run
            self._progress.note(f"not judged by the rules: {error.message}")
            return ()

    def _conclude(self, error: KlpError | None) -> RunResult:
        """Write run.json with all that was found so far, if the disk has room for it."""
        with under_way(self._progress, "judging what was recorded"):
            rules = self._rules()
        result = RunResult(
            schema=RUN_SCHEMA,
            begun_at=self._begun,
            ended_at=time.time(),
            provenance=self._provenance,
            plans=tuple(self._plans),
            events=self._events,
            lost_events=self._lost,
            unseen=self._unseen,
            error=error.message if error else None,
            rules=rules,
            verdict=_verdict(error, self._plans, rules),
        )
        try:
            write_run(self._layout, result)
        except OSError as refused:
            if not is_full(refused):
                raise
            self._progress.note(f"not written, for the disk is full: {self._layout.summary}")
        return result


def _verdict(error: KlpError | None, plans: Sequence[PlanResult], rules: Sequence[RuleVerdict]) -> Verdict:
    """Return a run's verdict: what was found, and what ended it, if that may be a livepatch's fault."""
    found = overall(_verdicts(plans, rules))
    if error is None:
        return found
    lost_by_nobody = isinstance(error, VmLost) and error.by_nobody and not isinstance(error, GuestSilent)
    if isinstance(error, HostLacks | Interrupted | OwnFault) or lost_by_nobody:
        return Verdict.VIOLATED if found is Verdict.VIOLATED else Verdict.NOT_OBSERVED
    return Verdict.VIOLATED


def _verdicts(plans: Sequence[PlanResult], rules: Sequence[RuleVerdict]) -> list[Verdict]:
    """Return what a run's own verdict is made of: its plans, and the rules that were broken."""
    # A rule that was not observed is no shortcoming of a run: most plans give few rules occasion.
    broken = [each.verdict for each in rules if each.verdict is Verdict.VIOLATED]
    return [*(plan.verdict for plan in plans), *broken]


def _keep_log(lab: Lab, layout: RunLayout) -> None:
    """Write the kernel log down; a lost guest's is on its console."""
    try:
        layout.dmesg.write_text(lab.diagnosis.run("dmesg").stdout)
    except (VmLost, HostLacks):
        layout.dmesg.write_text(lab.machine.console.text())
