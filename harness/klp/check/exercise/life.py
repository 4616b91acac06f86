# SPDX-License-Identifier: Apache-2.0
"""One life of a livepatch, with workloads that call what it changes from before it until after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from klp.analysis.checked import COULD_NOT_BE_TRIED
from klp.analysis.inventory import in_words
from klp.check.control import LifeWatch, control_life
from klp.check.exercise.faults import (
    AFTER,
    BEFORE,
    DISABLING,
    ENABLED,
    LOADING,
    changes,
    failures,
    hanging_words,
    lasting_changes,
)
from klp.check.exercise.finding import ProbedFunction
from klp.check.exercise.growing import CALLS_TO_JUDGE, Growing
from klp.check.exercise.remote import Alone, Exerciser
from klp.check.exercise.workloads import GuestWorkload
from klp.check.stage import NotApplicable, Stage
from klp.drive.steps import Moment
from klp.drive.subject import LivepatchSubject
from klp.errors import CheckFailed
from klp.waiting import DeadlineMissed, wait_until

_TASKS = 4
_CALLS, _CALLS_S = 200, 10.0
# What is slow to call gets so much longer, until its calls are enough to see whether memory grows by them.
_JUDGED_S = 20.0
# Before loading it is learned how workloads end beside others: so often each, and for so long.
_LEARNED, _LEAST_S, _MOST_S = 8, 1.0, 5.0
_AFTER_S = 0.5
_LOOK_S, _COUNT_S = 0.2, 1.0
# A task that has ended no workload for so long may hang: then it is waited for.
_SUSPECT_S = 3.0
_HANG_S = 90.0


class WorkloadHangs(CheckFailed):
    """A workload hangs: nothing more can be asked of the livepatch."""


class ExercisedLife:
    """One life of a livepatch with workloads that run all through it.

    Args:
        workloads: what runs; where there are none, it lives without.
        functions: those that workloads call.
        watch: sees what it leaves changed; None where it is not to be unloaded.
    """

    def __init__(
        self, stage: Stage, exerciser: Exerciser, workloads: tuple[GuestWorkload, ...],
        functions: tuple[ProbedFunction, ...], watch: LifeWatch | None,
    ) -> None:  # fmt: skip
        self._stage = stage
        self._exerciser = exerciser
        self._workloads = workloads
        self._functions = functions
        self._watch = watch
        self._loaded = False
        self._before: list[Mapping[int, Alone]] = []
        self._calls: list[tuple[str, dict[str, int]]] = []

    def live(self) -> None:
        """Load it, have it enabled, disable and unload it, the workloads running.

        Raises:
            WorkloadHangs: a workload does not end.
            CheckFailed, TransitionStuck: a step could not be taken.
        """
        try:
            growing = self._prepare()
        except WorkloadHangs as hangs:
            raise NotApplicable(f"{COULD_NOT_BE_TRIED}with nothing of it loaded, {hangs.message}") from None
        self._loaded = True
        if self._workloads:
            self._busy()
        else:
            self._quiet()
        if growing:
            growing.judge(self._control)
        if self._watch:
            self._compare(self._watch)

    def _prepare(self) -> Growing | None:
        """Learn what there is without it; return what is to judge how memory grows with it."""
        self._stage.tell("learning what there is without it")
        if self._workloads:
            self._exerciser.use(self._workloads)
            self._exerciser.phase(BEFORE)
            # Before the inventory: what a workload leaves behind the first time it runs, such as a module
            # that was loaded for it, is in there by then.
            self._learn()
        counts = self._watch and self._workloads and not self._stage.case.debug
        growing = Growing(self._stage, self._runs) if counts else None
        if self._watch:
            self._watch.begin(self._control)
            if self._workloads:
                self._alone()  # beside what a control life changes, what workloads print may vary
        if growing:
            growing.learn()
        return growing

    def _runs(self) -> int:
        return sum(each.runs for each in self._exerciser.ran)

    def _control(self, stage: Stage) -> None:
        """Live a control life: all is as in the livepatch's own, but for the livepatch."""
        if self._workloads:
            self._exerciser.begin(_TASKS, AFTER if self._loaded else BEFORE)
        control_life(stage)
        if self._workloads:
            self._rest()

    def _busy(self) -> None:
        stage = self._stage
        stage.tell("loading it among calls")
        self._exerciser.begin(_TASKS, LOADING)
        self._count(BEFORE)
        stage.load(wait=False)
        self._await_transition()
        self._in_phase(LOADING, ENABLED)
        stage.tell("calling what it changes")
        self._call()
        stage.observe(Moment.ENABLED)
        self._in_phase(ENABLED, DISABLING)
        stage.tell("disabling it among calls")
        stage.livepatch.disable(wait=False)
        self._await_transition()
        stage.livepatch.wait_gone()
        self._in_phase(DISABLING, AFTER)
        self._go_on(_AFTER_S, _AFTER_S, runs=0)
        self._rest()
        self._count(AFTER)
        stage.observe(Moment.AFTER)
        stage.unload()
        self._judge()

    def _quiet(self) -> None:
        stage = self._stage
        stage.load()
        begun = self._exerciser.count() if self._functions else {}
        if begun:
            _wait(lambda: self._often(begun, self._exerciser.count()), _CALLS_S)
        stage.observe(Moment.ENABLED)
        stage.livepatch.disable()
        stage.observe(Moment.AFTER)
        stage.unload()

    def _compare(self, watch: LifeWatch) -> None:
        """Say what is not as it was before it was loaded, and was not put back."""
        stage = self._stage
        stage.tell("comparing what it left")
        for words in in_words(watch.end(self._control)):
            stage.fault(words)
        if watch.unread:
            stage.note(watch.unread)

    def _learn(self) -> None:
        """See how each workload ends and what it prints: twice alone, beside others, and alone again."""
        self._alone()
        self._alone()
        self._exerciser.begin(_TASKS, BEFORE)
        self._go_on(_LEAST_S, _MOST_S, runs=_LEARNED)
        self._rest()
        self._alone()

    def _alone(self) -> None:
        self._before.append(self._exerciser.alone())
        self._demand_progress()

    def _go_on(self, least_s: float, most_s: float, runs: int) -> None:
        """Have the tasks go on, until each workload has run so often in this phase, for so long at most."""
        enough = _Elapsed(least_s)

        def look() -> bool:
            self._look()
            counts = [sum(each.runs for each in self._exerciser.ran if each.index == index)
                      for index in range(len(self._workloads))]  # fmt: skip
            return enough.over and min(counts) >= runs

        _wait(look, most_s)

    def _call(self) -> None:
        """Have each function called often, or for long; then see that no task hangs in it."""
        begun = dict(self._exerciser.hits)

        def look() -> bool:
            self._look()
            return self._often(begun, self._exerciser.hits)

        def enough() -> bool:
            self._look()
            # By the new functions' own counts: they call each other without a detour by the kernel's.
            counts = self._stage.counter.read()
            ran = {(each.object, each.old): each.calls for each in counts if not each.uncounted}
            return all(
                ran.get((each.object, each.name), CALLS_TO_JUDGE) >= CALLS_TO_JUDGE
                for each in self._functions
            )

        _wait(look, _CALLS_S)
        _wait(enough, _JUDGED_S, every_s=_COUNT_S)
        self._await_progress()

    def _often(self, begun: Mapping[str, int], now: Mapping[str, int]) -> bool:
        """Whether each function was called often since."""
        return all(now.get(each.probe, 0) - begun.get(each.probe, 0) >= _CALLS for each in self._functions)

    def _await_progress(self) -> None:
        """Wait while a task has ended no workload for long: until it does, or is known to hang."""

        def look() -> bool:
            self._look()
            return max(self._exerciser.idle_s, default=0.0) < _SUSPECT_S

        _wait(look, _HANG_S)

    def _await_transition(self) -> None:
        """Wait for the transition's end; give up as soon as a workload hangs.

        Raises:
            TransitionStuck: it outlasted its deadline.
        """
        stage, begun = self._stage, _Elapsed(self._stage.case.deadline_s)
        while not begun.over:
            self._look()
            try:
                wait_until(
                    lambda: not stage.livepatch.in_transition, what="end", timeout_s=1.0, every_s=_LOOK_S
                )
                break
            except DeadlineMissed:
                continue
        stage.livepatch.wait(deadline_s=1.0)
        stage.livepatch.look()

    def _rest(self) -> None:
        self._exerciser.rest()
        self._demand_progress()

    def _look(self) -> None:
        self._exerciser.look()
        self._demand_progress()

    def _demand_progress(self) -> None:
        if self._exerciser.hanging:
            first = self._exerciser.hanging[0]
            raise WorkloadHangs(hanging_words(first, self._workloads[first.hangs]))

    def _in_phase(self, ended: str, begins: str) -> None:
        self._count(ended)
        self._exerciser.phase(begins)

    def _count(self, ended: str) -> None:
        self._calls.append((ended, dict(self._exerciser.count())))

    def _judge(self) -> None:
        stage = self._stage
        # Now: how workloads end in a control life that comes later is no measure for this one.
        failed = tuple(failures(self._workloads, self._exerciser.ran, self._before))
        if self._replaced():
            # With them what they had changed is gone, and does not come back.
            stage.note("what workloads print was not compared, for it replaced a livepatch below it")
            after = []
        else:
            after = [self._exerciser.alone()]
        if after and changes(self._workloads, self._before, after[0]):
            # Once more, with as much going on in between as there was before: what moves, moves by itself.
            self._control(stage)
            after.append(self._exerciser.alone())
        self._demand_progress()
        changed = lasting_changes(self._workloads, self._before, after) if after else ()
        for words in (*failed, *changed):
            stage.fault(words)
        self._tell()

    def _replaced(self) -> bool:
        """Whether a livepatch below it, which was there before it was loaded, is not any more."""
        below_it = (each for each in self._stage.loaded if isinstance(each, LivepatchSubject))
        return any(each.state is None for each in below_it)

    def _tell(self) -> None:
        stage = self._stage
        for each in self._functions:
            counts = [(phase, hits.get(each.probe, 0)) for phase, hits in self._calls]
            since = [(phase, now - before) for (phase, now), (_, before) in
                     zip(counts, [("", 0), *counts], strict=False)]  # fmt: skip
            calls = ", ".join(f"{count:,} {_IN[phase]}" for phase, count in since)
            stage.note(f"{each.name} was called {calls}")
        runs = self._runs()
        words = ", ".join(each.words for each in self._workloads)
        stage.note(f"{_TASKS} tasks ran workloads {runs:,} times: {words}")


_IN = {
    BEFORE: "times before loading",
    LOADING: "while it was being enabled",
    ENABLED: "while enabled",
    DISABLING: "while it was being disabled",
    AFTER: "after",
}


class _Elapsed:
    """Whether so many seconds have gone."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        """Whether they have."""
        return time.monotonic() >= self._until


def _wait(look: Callable[[], bool], most_s: float, every_s: float = _LOOK_S) -> None:
    """Look again and again until there is enough, or so many seconds have gone."""
    with suppress(DeadlineMissed):
        wait_until(look, what="enough", timeout_s=most_s, every_s=every_s)
