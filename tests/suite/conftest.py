# SPDX-License-Identifier: Apache-2.0
"""The suite: what the kernel promises about livepatches, each promise on a real kernel.

On the default kernel all of it runs; on the others what is marked `everywhere`, or all with --everywhere.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from klp import settings, transitions, wait_until

_HELD_S = 60.0


def pytest_configure(config):
    config.addinivalue_line("markers", "everywhere: also run on kernels that are not the default one")


def pytest_collection_modifyitems(config, items):
    if config.option.everywhere:
        return
    left_out = [each for each in items if _elsewhere(each) and not each.get_closest_marker("everywhere")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [each for each in items if each not in left_out]


def _elsewhere(item) -> bool:
    params = getattr(getattr(item, "callspec", None), "params", {})
    default = settings.load().kernel
    return params.get("klp_kernel", default) != default


@pytest.fixture
def held_in(module):
    """Hold a transition up meanwhile, by tasks that seem to sleep in functions that are patched."""
    hold = module("patches/hold-anywhere", "klp_hold")

    @contextmanager
    def holding(parameters: str):
        hold.load(parameters)
        wait_until(
            lambda: hold.parameter("inside") == hold.parameter("count"),
            what="tasks held", timeout_s=_HELD_S, every_s=0.3,
        )  # fmt: skip
        yield
        hold.unload()

    return holding


@pytest.fixture
def wait_inside(guest):
    """Wait until so many tasks are held in the holder's functions."""

    def wait(count: int):
        wait_until(
            lambda: guest.read("/proc/klp_holder").endswith(f"inside {count}"),
            what=f"{count} tasks held", timeout_s=_HELD_S, every_s=0.1,
        )  # fmt: skip

    return wait


@pytest.fixture
def holder(wait_inside, module):
    """Load the module that holds up transitions, and wait until `inside` tasks are held in it, if told."""

    def load(parameters: str, *, inside: int | None = None):
        target = module("patches/holdups", "klp_holder")
        target.load(parameters)
        if inside is not None:
            wait_inside(inside)
        return target

    return load


@pytest.fixture
def hold_again(guest, wait_inside):
    """Have the only sleeper held again, which ran through the functions of holder and fix so far."""

    def hold():
        for name in ("klp_holder_fix", "klp_holder"):
            guest.run(f"echo 1 >/sys/module/{name}/parameters/hold").must("holding again")
        wait_inside(1)  # it comes by every 20 ms; a disabling could be over by then

    return hold


@pytest.fixture
def one_cpu(guest):
    """Leave the guest one CPU.

    Beside a busy one each interrupt to it takes QEMU milliseconds, and 6.12 needs thousands to begin and
    to end a transition (docs/facts.md).
    """
    guest.run("echo 0 >/sys/devices/system/cpu/cpu1/online").must("taking a CPU offline")


@pytest.fixture
def let_go(guest):
    """Let every task that the holder holds go on."""
    return lambda: guest.run("echo 0 >/sys/module/klp_holder/parameters/hold").must("letting go")


@pytest.fixture
def fix(livepatch):
    """The livepatch of the functions in which the holder holds its tasks."""
    return livepatch("patches/holdups", "klp_holder_fix")


@pytest.fixture
def passes(trace):
    """Wait until the transition that runs has had so many passes, and return it as far as it went."""

    def wait(patch, count: int):
        def look():
            found = [each for each in transitions(trace.arrived()) if each.patch == patch.name]
            return found[-1] if found and found[-1].passes >= count else None

        return wait_until(look, what=f"pass {count}", timeout_s=_HELD_S, every_s=0.1)

    return wait


@pytest.fixture
def switched(trace):
    """Return every task's account in the last transition, by thread id."""
    return lambda: {each.pid: each for each in trace.history().legs[-1].tasks if each.pid}


@pytest.fixture
def accounts(guest, switched):
    """Hold every task's account in the transition that runs against /proc; return the accounts."""

    def compare(target: int):
        sampled = guest.livepatches.patch_states()
        tasks = switched()
        for tid, state in sampled.items():
            account = tasks.get(int(tid))
            if account is not None:
                assert state == (1 - target if account.path is None else target), account
        assert {pid for pid, each in tasks.items() if each.path is None} <= set(map(int, sampled))
        return tasks

    return compare


@pytest.fixture
def with_states(livepatch):
    """Four livepatches that carry states, and look states up, to lie upon each other."""
    names = ("one", "two", "three", "four")
    return [livepatch("patches/many-states", f"klp_states_{each}") for each in names]


@dataclass(frozen=True, slots=True)
class ShadowCounts:
    """What klp_shadow_cases counted as it made and freed variables."""

    made: int
    freed: int
    found: int
    refused: int
    ctors: int
    dtors: int
    broken: str


@pytest.fixture
def shadow_cases(guest, module):
    """Load klp_shadow_cases, play cases of it, and return what it counted.

    A promise that it finds broken fails the write, which is its caller's to judge by `broken`.
    """

    def play(*names: str, parameters: str = "") -> ShadowCounts:
        cases = module("patches/shadow-cases")
        cases.load(parameters)
        for name in names:
            guest.run(f"echo {name} >/sys/module/klp_shadow_cases/parameters/play")
        counted = "paste made freed found refused ctors dtors broken"
        values = guest.run(f"cd /sys/module/klp_shadow_cases/parameters && {counted}").stdout.split("\t")
        return ShadowCounts(*map(int, values[:6]), values[6].strip())

    return play
