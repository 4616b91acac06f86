# SPDX-License-Identifier: Apache-2.0
"""A whole check: hands units to an executor once what they need is known, and collects the outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import msgspec

from klp.analysis.checked import CheckResult
from klp.analysis.evidence import Verdict
from klp.check.gate import LOST_EARLY, Learned, why_not
from klp.check.host import CHECK_HOSTS, CheckHost, UnitOutcome, perform_unit
from klp.check.outcomes import Outcomes
from klp.check.plan import CheckOrder, CheckUnit, TargetKernel, outcome_of, planned_units, survey_for
from klp.check.registry import OPENER, SCENARIOS
from klp.check.static import BUILD, STATIC, STATIC_READ
from klp.errors import KlpError, OwnFault
from klp.files import remove_tree
from klp.paths import CheckLayout
from klp.progress import Progress
from klp.records.reading import read_run
from klp.records.running import at_work
from klp.settings import Settings
from klp.work import collect

# So many scenarios are named rather than counted.
_NAMED = 4


@contextmanager
def _held(layout: CheckLayout) -> Iterator[None]:
    """Keep other processes away, and remove what one that died in mid-air left behind."""
    with at_work(layout.root):
        # Safe only then: the guests of a check that still runs have the same names.
        for rubbish in (*layout.root.glob("*/.guest-*"), *layout.root.glob("*/.modules-*")):
            remove_tree(rubbish)
        yield


class CheckRun:
    """One check, in one folder.

    Args:
        settings: of the guests; their kernel and number of CPUs are set for each unit.
        jobs: guests at once on this machine; None for as many as help.
        executor: performs the units; by default threads of this process, one for each guest.
        before: what an earlier, interrupted part of this check found.
    """

    def __init__(
        self,
        order: CheckOrder,
        layout: CheckLayout,
        settings: Settings,
        *,
        progress: Progress,
        jobs: int | None = None,
        executor: Executor | None = None,
        before: CheckResult | None = None,
    ) -> None:
        self._order = order
        self._layout = layout
        self._settings = settings
        self._progress = progress
        self._jobs = jobs
        self._executor = executor
        self._units = planned_units(order, settings, layout.root)
        self._outcomes = Outcomes(order, self._units, layout, progress, before)
        self._faults: list[str] = []
        self._learned: dict[tuple[str, str], Learned] = {}
        self._releases = {each.release for each in order.kernels}
        self.result = self._outcomes.result(None)

    def execute(self) -> KlpError | None:
        """Perform what is missing; return what ended that early, if anything did.

        ``check.json`` is written after every scenario; `result` has the same.

        Raises:
            Busy: another process adds to this check.
        """
        own = CheckHost(self._layout, self._progress, self._jobs)
        with _held(self._layout), CHECK_HOSTS.serving(self._layout.root, own) as host:
            return self._execute(host)

    def _execute(self, host: CheckHost) -> KlpError | None:
        # What check.json says if a Ctrl-C, which is no KlpError, goes through the `finally` below.
        error: str | None = "interrupted"
        try:
            for kernel in self._order.kernels:
                with self._progress.step(self._checking(kernel)):
                    self._one_kernel(host, kernel)
            error = None
            if self._faults:
                raise _own_fault(self._faults)
        except KlpError as failure:
            error = failure.message
            return failure
        finally:
            self._outcomes.write(error)
            self.result = self._outcomes.result(error)
        return None

    def _checking(self, kernel: TargetKernel) -> str:
        # With all that says how much it is: what the same took before is told as what is left.
        own = [each for each in self._units if each.kernel == kernel]
        names = list(dict.fromkeys(each.scenario for each in own))
        what = ", ".join(names) if len(names) <= _NAMED else f"{len(own)} scenarios"
        quick = " --quick" if self._order.quick else ""
        return f"checking {_some([each.livepatch.name for each in own])} on {kernel.release}: {what}{quick}"

    def _one_kernel(self, host: CheckHost, kernel: TargetKernel) -> None:
        own = [each for each in self._units if each.kernel == kernel]
        builds = [each for each in own if each.scenario == BUILD]
        with self._progress.step(_building(builds)):
            self._perform(host, builds)
        self._perform(host, [each for each in own if each.scenario == STATIC_READ])
        missing = [
            each for each in own if each.scenario not in STATIC and each.key not in self._outcomes.found
        ]
        # A pool holds guests in memory, and each kind of guest has one: so it is ended before the next.
        for units in _by_guest(missing):
            try:
                self._of_one_guest(host, units)
            finally:
                host.close()

    def _of_one_guest(self, host: CheckHost, units: Sequence[CheckUnit]) -> None:
        """Perform the units that want guests of one kind, those first that others wait for."""
        # Not beside the others: of a livepatch whose first transition does not end, each of them would
        # wait out the whole deadline only to say so again.
        self._perform(host, [each for each in units if each.scenario == OPENER])
        rest = self._worth_trying([each for each in units if each.scenario != OPENER])
        self._perform(host, self._surveys(rest))
        self._perform(host, rest)

    def _surveys(self, units: Sequence[CheckUnit]) -> list[CheckUnit]:
        """Return a unit for each livepatch whose functions a scenario must know, and nothing has told."""
        curious = {
            each.livepatch.name: each
            for each in units
            if SCENARIOS[each.scenario].informed and not self._known(each).objects
        }
        return [survey_for(each, OPENER) for each in curious.values()]

    def _worth_trying(self, units: Iterable[CheckUnit]) -> list[CheckUnit]:
        """Return the units that are to be tried; record why the others are not."""
        wanted = []
        for unit in units:
            why = why_not(unit, self._outcomes.found, self._known(unit), self._releases)
            if why:
                outcome = outcome_of(unit, Verdict.NOT_OBSERVED, (why,))
                # A survey has no outcome of its own that could tell of its guest.
                lost = why.startswith(LOST_EARLY)
                self._outcomes.record(msgspec.structs.replace(outcome, lost=lost))
            else:
                wanted.append(unit)
        return wanted

    def _known(self, unit: CheckUnit) -> Learned:
        """Return what was learned of a unit's livepatch on its kernel, in this process or before it."""
        learned = self._learned.get(_which(unit), Learned())
        if learned.objects:
            return learned
        # A check that goes on where it was interrupted does not perform its first scenario again: what
        # sysfs showed then stands in that scenario's run.json.
        layout = self._layout.scenario(unit.kernel.label, unit.livepatch.name, OPENER)
        found = read_run(layout.root)
        plans = found.result.plans if found and found.result else ()
        return replace(learned, objects=plans[0].objects if plans else ())

    def _perform(self, host: CheckHost, units: Sequence[CheckUnit]) -> None:
        """Have units performed, as many at once as the executor does; record what comes of each."""
        units = self._worth_trying(units)
        if not units:
            return
        if self._executor is not None:
            self._collect(self._executor, host, units)
            return
        if units[0].scenario not in STATIC:
            host.ready(units[0])  # in this thread: it may take minutes, and tells its steps as they go
        size = host.guests_at_once(self._settings.memory_mib)
        with ThreadPoolExecutor(size, thread_name_prefix="check") as workers:
            self._collect(workers, host, units)

    def _collect(self, executor: Executor, host: CheckHost, units: Sequence[CheckUnit]) -> None:
        collect(executor, units, self._submit, self._take, host.stop)

    def _submit(self, executor: Executor, unit: CheckUnit) -> Future[UnitOutcome]:
        return executor.submit(perform_unit, unit, self._known(unit).objects)

    def _take(self, unit: CheckUnit, done: UnitOutcome) -> None:
        known = self._known(unit)
        self._learned[_which(unit)] = Learned(
            done.built_for or known.built_for, done.objects or known.objects, done.lost or known.lost
        )
        if done.own_fault:
            self._faults.append(done.own_fault)
        if done.outcome is not None:
            self._outcomes.record(done.outcome)


def _own_fault(faults: Sequence[str]) -> OwnFault:
    more = f", and {len(faults) - 1} more of its own failures" if len(faults) > 1 else ""
    return OwnFault(
        f"{faults[0]}{more}", hint="a fault of klp's: its traceback.txt is in the scenario's folder"
    )


def _which(unit: CheckUnit) -> tuple[str, str]:
    return (unit.kernel.name, unit.livepatch.name)


def _building(units: Sequence[CheckUnit]) -> str:
    return f"building {_some([each.livepatch.source.name for each in units])}"


def _some(names: Sequence[str]) -> str:
    first, *more = dict.fromkeys(names)
    return f"{first} and {len(more)} more" if more else first


def _by_guest(units: Sequence[CheckUnit]) -> list[list[CheckUnit]]:
    """Return the units by the kind of guest they want: that of `OPENER` first, the others by CPUs."""
    groups: dict[int, list[CheckUnit]] = {}
    for unit in units:
        groups.setdefault(unit.settings.cpus, []).append(unit)
    return sorted(groups.values(), key=lambda own: (not any(each.scenario == OPENER for each in own),
                                                    own[0].settings.cpus))  # fmt: skip
