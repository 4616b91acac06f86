# SPDX-License-Identifier: Apache-2.0
"""What scenarios hold a transition up with: tasks in whichever functions the livepatch changes.

patches/hold-anywhere has the kernel's side of it: kthreads which the unwinder finds asleep in functions
that they never run, so that klp_check_stack() (kernel/livepatch/transition.c) refuses to switch them. A
real sleeper would take a function that sleeps, and a way to have it called: few livepatches offer both.
"""

from __future__ import annotations

import errno
from typing import Literal

from klp.analysis.diagnosis import Misbehaviour
from klp.analysis.legs import Leg, TaskSwitch
from klp.analysis.legs import LegOutcome as Outcome
from klp.check.stage import NotApplicable, Stage
from klp.drive.steps import Moment
from klp.drive.subject import Misbehaved
from klp.errors import CheckFailed
from klp.waiting import DeadlineMissed, wait_until

_THREADS = "klp_hold/"
_SLEEPING = "sleeping in "
# Passes come each second; but on a busy emulated host 6.12 took 3.6 s from the start to the first pass,
# and more than a minute beside a CPU that spins (docs/facts.md). The signal after 15 s does not free the
# tasks: klp_send_signals (kernel/livepatch/transition.c) only wakes a kthread, and these go back to sleep.
_HELD_S = 90.0
# Each look has the probes write out what they have, which takes the guest's CPU from what is waited for.
_LOOK_S = 0.3
# So many functions are named in a note.
_SHOWN = 5


class Holder:
    """Kthreads that sleep in a livepatch's functions, one in each.

    Args:
        stage: its livepatch is the one that is held up.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._module = stage.case.module("hold-anywhere")

    def catch(self, which: Literal["old", "new"]) -> None:
        """Have a task asleep in each function of the livepatch, which must be enabled.

        Args:
            which: ``new``: in the livepatch's own functions, so that it cannot be disabled; ``old``: in
                what they take the place of, so that it cannot be enabled the next time.

        Raises:
            NotApplicable: it changes no function of an object that is loaded.
        """
        parameters = f"patch={self._stage.livepatch.name} which={which}"
        # ENOENT is what patches/hold-anywhere answers when it finds no such function.
        if self._module.load(parameters, expect=None) == errno.ENOENT:
            raise NotApplicable("it changes no function of an object that is loaded: none can be slept in")
        if not self._module.loaded:
            raise CheckFailed(f"{self._module.name}: could not be loaded")
        wanted = self._module.parameter("count")
        try:
            wait_until(
                lambda: self._module.parameter("inside") == wanted,
                what=f"{wanted} tasks asleep", timeout_s=_HELD_S, every_s=_LOOK_S,
            )  # fmt: skip
        except DeadlineMissed as missed:
            raise CheckFailed(f"{self._module.name}: {missed}") from None

    def await_held(self, attempts: int = 1) -> tuple[str, ...]:
        """Wait until passes were held up by the tasks; return the functions in which.

        Args:
            attempts: how many passes must have tried in vain to switch one task.

        Raises:
            CheckFailed: the transition ended all the same: nobody looked at their stacks.
        """
        try:
            leg = wait_until(lambda: self._look(attempts), what="task", timeout_s=_HELD_S, every_s=_LOOK_S)
        except DeadlineMissed as missed:
            raise CheckFailed(
                f"no pass was held up by a task asleep in a function for {missed.waited_s:.0f} s"
            ) from None
        functions = tuple(dict.fromkeys(why for each in _sleepers(leg) for why in _places(each)))
        shown = ", ".join(functions[:_SHOWN])
        # patches/hold-anywhere has room for 64; nor is anybody held in what is not loaded.
        total = sum(len(each.functions) for each in self._stage.known_objects)
        more = f", … ({len(functions)} of its {total} functions)" if len(functions) > _SHOWN else ""
        self._stage.note(f"{leg.direction} held up by tasks asleep in {shown}{more}")
        return functions

    def _look(self, attempts: int) -> Leg | None:
        name = self._stage.livepatch.name
        legs = [each for each in self._stage.trace.history().legs if each.patch == name]
        # The legs before it are those by which the holder was prepared, with nobody asleep.
        last = legs[-1] if legs else None
        if last is None:
            return None
        # First, for a leg that has ended by now may have been held up before.
        if any(each.attempts >= attempts and _places(each) for each in _sleepers(last)):
            return last
        if last.outcome is not Outcome.UNFINISHED:
            who = f"{self._module.parameter('inside')} tasks slept in the functions concerned"
            raise CheckFailed(
                f"{name}: {last.direction} went through although {who}: they now run what they must not",
                hint="the kernel did not find them by their stacks (klp_check_stack)",
            )
        return None

    def observe(self, settled: Literal[Moment.BEFORE, Moment.AFTER]) -> None:
        """Run the author's commands while the transition is held up; what they print then may be a fault.

        It must be what is expected on one side of the transition or on the other, or what `pending` says.

        Args:
            settled: on the other side than enabled: ``before`` while it is being enabled, else ``after``.
        """
        plan = self._stage.candidate.plan
        for each in plan.observe:
            patterns = each.in_between(getattr(each, settled))
            if not patterns:
                continue
            first, *other = patterns
            try:
                self._stage.livepatch.observe(
                    each.command, first, other=other, moment=Moment.PENDING, rules=plan.rules
                )
            except Misbehaved as wrong:
                self._stage.misbehaved.append(
                    Misbehaviour(
                        Moment.PENDING, each.command, first, wrong.output, None, other=tuple(other)
                    )
                )

    def let_go(self) -> None:
        """Wake the tasks up, and end them.

        Raises:
            CheckFailed: the module does not go.
        """
        self._module.unload()


def _sleepers(leg: Leg) -> tuple[TaskSwitch, ...]:
    return tuple(each for each in leg.tasks if each.comm.startswith(_THREADS))


def _places(task: TaskSwitch) -> tuple[str, ...]:
    return tuple(why.removeprefix(_SLEEPING) for why in task.reasons if why.startswith(_SLEEPING))
