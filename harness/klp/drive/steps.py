# SPDX-License-Identifier: Apache-2.0
"""What is done to a livepatch from load to unload, as a list of values. Pure: other modules do it.

The order is that of the kernel's own selftests (tools/testing/selftests/livepatch/functions.sh):
load_lp, check, disable_lp, unload_lp, with what the livepatch needs loaded before and removed after.

The steps are taken in a guest under probes (`probed`), in one without (`control`), by the scenario `life`
of `klp check` (`klp.check.stage`), or printed (`preview`). Each of the four matches on `LifeStep` or `Act`
and ends in `assert_never`, so that mypy tells if one forgets a kind of step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from klp.analysis.diagnosis import PENDING, REFUSED
from klp.modules.plan import LogPhase, PatchPlan, module_name


class Moment(StrEnum):
    """A moment at which patch.toml says what must be seen.

    `REFUSED` is after a load that was refused: then it must be what it was before. `PENDING` is while a
    transition is held up. No plan has these steps.
    """

    BEFORE = "before"
    ENABLED = "enabled"
    AFTER = "after"
    REFUSED = REFUSED
    PENDING = PENDING


@dataclass(frozen=True, slots=True)
class Load:
    """Load a module; if it is a livepatch, wait until its transition is over.

    Attributes:
        module: its name, as lsmod shows it; likewise in the other steps.
        parameters: as insmod takes them.
    """

    module: str
    parameters: str = ""


@dataclass(frozen=True, slots=True)
class LookAtSysfs:
    """Read what sysfs shows of a livepatch, which must be enabled."""

    module: str


@dataclass(frozen=True, slots=True)
class Observe:
    """Run the author's commands, which must print what patch.toml says of a moment."""

    moment: Moment


@dataclass(frozen=True, slots=True)
class AwaitLog:
    """Wait for the lines that the kernel log must have gained in a phase, as patch.toml says."""

    phase: LogPhase


@dataclass(frozen=True, slots=True)
class Disable:
    """Disable a livepatch, wait until its transition is over and sysfs shows it no more.

    Attributes:
        if_there: only if it is a livepatch, and sysfs shows it: it may have been replaced meanwhile.
    """

    module: str
    if_there: bool = False


@dataclass(frozen=True, slots=True)
class Unload:
    """Remove a module."""

    module: str


# What changes something in the guest, and what only looks.
Act = Load | Disable | Unload
LifeStep = Act | LookAtSysfs | Observe | AwaitLog


def life_of(plan: PatchPlan) -> tuple[LifeStep, ...]:
    """Return all that a plan says is done, in order.

    Of a livepatch that stays nothing is unloaded, what was loaded before it neither: it may hold that.
    """
    if plan.stays:
        return (*set_up_of(plan), *_own_life(plan))
    return (
        *set_up_of(plan),
        *(_own_life(plan) if plan.livepatch else ()),
        *(step for entry in reversed(plan.load) for step in removal_of(module_name(entry.module))),
        *_log(plan, LogPhase.UNLOADED),
    )


def set_up_of(plan: PatchPlan) -> tuple[LifeStep, ...]:
    """Return what is done before the livepatch itself is loaded."""
    loads = (Load(module_name(entry.module), entry.parameters) for entry in plan.load)
    return (*loads, *_observation(plan, Moment.BEFORE))


def removal_of(module: str) -> tuple[Act, ...]:
    """Return how a module is removed that may or may not be a livepatch."""
    return (Disable(module, if_there=True), Unload(module))


def acts(steps: Iterable[LifeStep]) -> tuple[Act, ...]:
    """Return the steps that change something."""
    return tuple(each for each in steps if isinstance(each, Act))


def _own_life(plan: PatchPlan) -> Iterator[LifeStep]:
    name = module_name(plan.livepatch)
    yield Load(name, plan.parameters)
    yield LookAtSysfs(name)
    yield from _observation(plan, Moment.ENABLED)
    yield from _log(plan, LogPhase.ENABLED)
    yield Disable(name)
    yield from _observation(plan, Moment.AFTER)
    yield from _log(plan, LogPhase.DISABLED)
    if not plan.stays:
        yield Unload(name)


def _observation(plan: PatchPlan, moment: Moment) -> tuple[LifeStep, ...]:
    """Return the observation of a moment, if the plan has something to see in it."""
    return (Observe(moment),) if any(getattr(each, moment) for each in plan.observe) else ()


def _log(plan: PatchPlan, phase: LogPhase) -> tuple[LifeStep, ...]:
    return (AwaitLog(phase),) if any(each.when is phase for each in plan.log) else ()
