# SPDX-License-Identifier: Apache-2.0
"""What is changed is called, often and by several tasks, all through the livepatch's life.

How to call it is found out before: `klp.check.exercise.finding`. What the system is like before that life
and after it is compared: `klp.check.control`.
"""

from __future__ import annotations

from collections.abc import Iterable

from klp.check.control import LifeWatch, below
from klp.check.exercise.finding import (
    Search,
    WhoCalls,
    functions_of,
    load_objects,
    put_probes,
    together,
)
from klp.check.exercise.life import ExercisedLife, WorkloadHangs
from klp.check.exercise.remote import Exerciser
from klp.check.exercise.workloads import GuestWorkload, of_author
from klp.check.scenario import scenario
from klp.check.scenarios.cpus import one_cpu
from klp.check.stage import NotApplicable, Stage


@scenario("exercise", "finds what calls the functions that it changes, has four tasks call them all its "
          "life, and looks what is left changed", quick=True, informed=True)  # fmt: skip
def exercise(stage: Stage) -> None:
    """Calls come before it is loaded, in mid-transition, while it is enabled, and after it is gone."""
    watch = None if stage.stays else LifeWatch(stage)
    if watch and below(stage):
        watch.look_first()
    stage.set_up()
    # Beside a busy second CPU each interrupt takes an emulated guest milliseconds, and to patch code takes
    # thousands of them.
    one_cpu(stage)
    exerciser = Exerciser(stage.guest)
    exerciser.start()
    callers = _callers(stage, exerciser)
    workloads = together(_own(stage), callers.reached)
    reached = (*(each for each in callers.reached if callers.reached[each]), *callers.busy)
    _tell_unreached(stage, callers)
    life = ExercisedLife(stage, exerciser, workloads, reached, watch)
    try:
        life.live()
    except WorkloadHangs as hangs:
        stage.fault(hangs.message)
        return
    exerciser.end()
    stage.tear_down()
    if not reached and (callers.tried or callers.refused):
        raise NotApplicable(_nothing(callers))


def _own(stage: Stage) -> tuple[GuestWorkload, ...]:
    """Return what the author names for this; what only shows the livepatch is tried as all else is."""
    return of_author(stage.candidate.plan, observing=False)


def _callers(stage: Stage, exerciser: Exerciser) -> WhoCalls:
    functions = functions_of(stage)
    if not functions:
        return WhoCalls()
    refused = load_objects(stage, functions)
    refused |= put_probes(stage, exerciser, [each for each in functions if each not in refused])
    found = Search(stage, exerciser, [each for each in functions if each not in refused]).run()
    found.refused = refused
    return found


def _tell_unreached(stage: Stage, found: WhoCalls) -> None:
    for function, why in found.refused.items():
        stage.note(f"{function.name} is not called: {why}")
    for function in found.busy:
        stage.note(
            f"{function.name} is called by the system itself, {found.idle[function]:.0f} times a second"
        )
    if found.busy or any(found.reached.values()):
        for words in _unreached(found):
            stage.note(words)


def _nothing(found: WhoCalls) -> str:
    words = [*_unreached(found), *(f"{each.name}: {why}" for each, why in found.refused.items())]
    return "; ".join(words)


def _unreached(found: WhoCalls) -> Iterable[str]:
    for function in found.unreached:
        yield (
            f"nothing reaches {function.name}: none of {found.tried[function]} calls it; name a command by "
            "[[workload]] in patch.toml"
        )
