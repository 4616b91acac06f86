# SPDX-License-Identifier: Apache-2.0
"""The suite's edge values are what they promise, and plans of patches/ are handed the same."""

from __future__ import annotations

from itertools import combinations

from klp import paths
from klp.modules.plan import read_plan
from tests.suite import edges

_HALF = (1 << 32) - 1


def test_some_ids_are_equal_in_half_of_their_bits_and_none_in_all() -> None:
    pairs = list(combinations(edges.IDS, 2))
    assert any(one & _HALF == other & _HALF for one, other in pairs)
    assert any(one >> 32 == other >> 32 and one >> 32 for one, other in pairs)
    assert any(one + 1 == other for one, other in pairs)
    assert any(one ^ other == 1 << 63 for one, other in pairs)
    assert {0, (1 << 64) - 1} < set(edges.IDS)
    assert len(set(edges.IDS)) == len(edges.IDS)


def test_each_version_is_above_the_one_before_it() -> None:
    assert list(edges.VERSIONS) == sorted(set(edges.VERSIONS))
    assert edges.VERSIONS[-1] == (1 << 32) - 1


def test_an_order_has_all_values() -> None:
    found = edges.orders(edges.IDS)
    assert len(set(found)) == 3
    assert all(sorted(each) == sorted(edges.IDS) for each in found)


def test_the_plan_of_shadow_cases_has_all_of_them() -> None:
    [load] = read_plan(paths.PATCHES / "shadow-cases/patch.toml").load
    wanted = (edges.parameter("ids", edges.IDS), edges.parameter("sizes", edges.SIZES))
    assert set(wanted) < set(load.parameters.split())
