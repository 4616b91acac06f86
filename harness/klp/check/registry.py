# SPDX-License-Identifier: Apache-2.0
"""All scenarios of `klp check`, in the order in which they are run and shown."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from klp.check.scenario import Scenario
from klp.check.scenarios import (
    bpf_users,
    busy,
    callees,
    cpus,
    exercise,
    ftrace_off,
    ftrace_users,
    life,
    others,
    out_of_memory,
    reversal,
    targets,
)
from klp.check.static import BUILD, STATIC, STATIC_READ, StaticScenario
from klp.errors import UnknownName, UsageError

# What tells most comes first; within a module, scenarios have the order in which they stand there.
_ROOMS: tuple[ModuleType, ...] = (
    life, exercise, reversal, targets, others, busy, cpus, ftrace_users, bpf_users, callees,
    ftrace_off, out_of_memory,
)  # fmt: skip


def _gathered() -> dict[str, Scenario]:
    return {
        each.name: each for room in _ROOMS for each in vars(room).values() if isinstance(each, Scenario)
    }


SCENARIOS: dict[str, Scenario] = _gathered()
# The plain life: it decides whether the others can be tried, and in it sysfs tells what is changed.
OPENER: str = life.life.name
NAMES: tuple[str, ...] = (*STATIC, *SCENARIOS)
# What scenarios were called, and are called now.
_RENAMED = {"modinfo": STATIC_READ}


def chosen(names: Sequence[str], *, quick: bool) -> tuple[str, ...]:
    """Return the names of the scenarios to run, in order: those named, else all, or the quick ones.

    Whatever is named, it has to be built first, so `build` is always among them.

    Raises:
        UnknownName: there is no such scenario.
        UsageError: it has another name now.
    """
    for name in names:
        if name in _RENAMED:
            raise UsageError(
                f"--scenario {name}: it is called {_RENAMED[name]} now",
                hint=f"klp check --scenario {_RENAMED[name]} …",
            )
        if name not in NAMES:
            raise UnknownName(
                f"--scenario {name}: no such scenario", name, NAMES, hint="klp check --list shows them"
            )
    if names:
        return tuple(each for each in NAMES if each in (BUILD, *names))
    return tuple(each for each in NAMES if not quick or each in STATIC or SCENARIOS[each].quick)


def listed() -> tuple[StaticScenario | Scenario, ...]:
    """Return every scenario, in order."""
    return (*STATIC.values(), *SCENARIOS.values())
