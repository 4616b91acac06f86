# SPDX-License-Identifier: Apache-2.0
"""T12: which version of a function tasks run, by their patch state, while two functions change together."""

from __future__ import annotations

import pytest

from klp import events as ev
from klp import wait_until

_HELD_S = 60.0
_PARAMETERS = "/sys/module/klp_pair/parameters"


@pytest.fixture
def pair(module):
    """The module whose kthreads run both functions without end."""
    return module("patches/consistency", "klp_pair")


@pytest.fixture
def fix(livepatch, trace):
    """The livepatch of both, its functions watched."""
    fix = livepatch("patches/consistency", "klp_pair_fix")
    trace.consistency(fix)
    return fix


@pytest.fixture
def ran(trace):
    """Return which versions ran by patch state, in transitions to one target."""

    def look(target: int) -> set[tuple[str, str, int]]:
        rows = (each for each in trace.events() if isinstance(each, ev.Ran) and each.target == target)
        return {(each.function, each.version, each.patch_state) for each in rows}

    return look


def both(version: str, state: int) -> set[tuple[str, str, int]]:
    """Return that both functions ran in one version and patch state."""
    return {("klp_pair_seal", version, state), ("klp_pair_open", version, state)}


def until(condition, what: str) -> None:
    """Wait for what the guest is about to do."""
    wait_until(condition, what=what, timeout_s=_HELD_S, every_s=0.3)


@pytest.mark.everywhere
@pytest.mark.klp_rules("T12")
def test_each_task_runs_what_its_patch_state_says(guest, pair, fix, ran, held_in):
    pair.load("threads=2")
    with held_in("function=klp_pair:klp_pair_seal"):
        fix.load(wait=False)
        until(lambda: both("new", 1) <= ran(1), "new version of both")
    fix.wait()
    with held_in(f"patch={fix.name} which=new"):
        fix.disable(wait=False)
        until(lambda: both("old", 0) <= ran(0), "old version of both")
    fix.wait_gone()
    assert not both("old", 1) & (ran(1) | ran(0))
    assert not both("new", 0) & (ran(1) | ran(0))
    assert guest.read("/proc/klp_pair").endswith("mixed 0")


@pytest.mark.everywhere
@pytest.mark.klp_rules("T12")
def test_a_function_of_the_kernel_itself(guest, livepatch, trace, ran, held_in):
    fix = livepatch("samples", "livepatch_sample")
    trace.consistency(fix)
    # It sleeps between calls: beside a CPU that is always busy a transition takes minutes (docs/facts.md).
    reader = guest.run(
        "setsid sh -c 'while sleep 0.05; do read line </proc/cmdline; done' >/dev/null 2>&1 & echo $!"
    )
    with held_in("function=cmdline_proc_show"):
        fix.load(wait=False)
        until(lambda: ("cmdline_proc_show", "new", 1) in ran(1), "new version")
    fix.wait()
    guest.run(["kill", reader.stdout.strip()]).must("ending the reader")
    assert ("cmdline_proc_show", "old", 1) not in ran(1)


# 7.2 shows every livepatch's place in the stack, in which klp_misbehave is not: it hides (L1).
@pytest.mark.klp_kernels(max="6.12", reason="a livepatch that hides has no place in 7.2's stack order")
@pytest.mark.klp_breaks("T12", reason="klp_misbehave makes the handler choose without looking at the task")
def test_a_task_that_runs_the_new_version_before_its_switch(guest, livepatch, pair, fix, ran):
    livepatch("tests/faults", "klp_misbehave").load("how=transition_forgotten")
    pair.load("threads=2 pause_ms=300")
    fix.load()
    until(lambda: ("klp_pair_open", "new", 0) in ran(1), "wrong version")
    guest.run(f"echo 1 >{_PARAMETERS}/pause_ms").must("letting the kthreads switch")
    fix.wait()
    assert " mixed 0" not in guest.read("/proc/klp_pair")
