# SPDX-License-Identifier: Apache-2.0
"""Shadow variables and tasks in great numbers: told, or counted, to the last one."""

from __future__ import annotations

import re

import pytest

from klp import events as ev
from klp import wait_until

_FEW, _MANY = 5_000, 1_000_000
_EVENTS_A_PAIR = 3  # shadow_alloc, shadow_freed, shadow_free
_TOLD = (ev.ShadowAlloc, ev.ShadowFreed, ev.ShadowFree)


@pytest.fixture
def count(request):
    """How many variables: what `make test` has the time for, or a million."""
    return _MANY if request.config.option.everywhere else _FEW


@pytest.mark.timeout(900)
@pytest.mark.klp_rules("L6")
def test_every_variable_is_in_the_totals_and_told_or_lost(module, kernel_log, trace, count):
    load = module("tests/faults", "klp_shadow_load")
    load.load(f"count={count}")
    said = kernel_log.wait(r"klp_shadow_load: made=")
    made, freed = (int(re.search(rf" {name}=(\d+)", said)[1]) for name in ("made", "freed"))
    assert (made, freed) == (count, count)
    seen = trace.events()
    totals = [each for each in seen if isinstance(each, ev.ShadowTotals)][-1]
    assert (totals.made, totals.freed) == (made, freed)
    told = sum(isinstance(each, _TOLD) for each in seen)
    assert told + trace.lost() == _EVENTS_A_PAIR * count
    assert told == len({each.seq for each in seen if isinstance(each, _TOLD)})


# A process of many threads that sleep. Each has a kernel stack of 16 KiB, and takes 40 KiB in all.
_SLEEPERS = """\
import sys, threading
threading.stack_size(32768)
held = threading.Lock()
held.acquire()
for _ in range(int(sys.argv[1])):
    threading.Thread(target=held.acquire, daemon=True).start()
print("started", flush=True)
held.acquire()
"""
_LIMITS = "kernel.threads-max=60000 kernel.pid_max=100000 vm.max_map_count=200000"


@pytest.fixture
def threads(guest, request):
    """Have so many threads sleep in the guest: for 20,000 it takes KLP_MEMORY_MIB=2560."""
    count = 20_000 if request.config.option.everywhere else 2_000
    guest.run(f"sysctl -q -w {_LIMITS}").must("raising limits")
    guest.run(f"setsid python3 -c '{_SLEEPERS}' {count} >/run/sleepers 2>&1 </dev/null &").must("starting")
    wait_until(
        lambda: guest.run("cat /run/sleepers").stdout.strip() == "started",
        what=f"{count} threads", timeout_s=900, every_s=1,
    )  # fmt: skip
    return count


@pytest.mark.timeout(1800)
@pytest.mark.klp_rules("T5", "L6")  # a census of 20,000 is cut short
def test_passes_tell_of_a_thread_once_and_count_it_from_then_on(
    threads, holder, fix, passes, let_go, trace
):
    holder("sleepers=1", inside=1)
    fix.load(wait=False)
    passes(fix, 3)
    let_go()
    fix.wait()
    seen = trace.events()
    made = [each for each in seen if isinstance(each, ev.Pass)]
    told = [each for each in seen if isinstance(each, ev.Attempt)]
    assert trace.lost() == 0
    # Every attempt is told or counted, and none both.
    assert sum(each.attempts for each in made) == len(told) + sum(each.already for each in made)
    assert made[0].attempts > threads
    assert len(told) < threads + threads // 2  # a pass over all of them, and what is left of the others
    assert all(each.already > threads - 100 for each in made[1:])
