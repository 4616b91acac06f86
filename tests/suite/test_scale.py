# SPDX-License-Identifier: Apache-2.0
"""Shadow variables in great numbers: told, or counted as lost, to the last one."""

from __future__ import annotations

import re

import pytest

from klp import events as ev

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
