# SPDX-License-Identifier: Apache-2.0
"""When the count of what a guest's kernel allocated is taken for one that would not change by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from klp.analysis.growth import Meter
from klp.check import memory
from klp.check.damage import count_all
from klp.check.memory import settled


class Guest:
    """A guest that counts so many objects of kmalloc-64, and then of kmalloc-1k if there are any."""

    def __init__(self, *counts: tuple[int, ...]) -> None:
        self.counts = list(counts)

    def run(self, command: str) -> Any:
        if command == memory._LARGE:
            return self.answer("nr_slab_unreclaimable:40")
        now = self.counts.pop(0)
        names = ("kmalloc-64 {} 64", "kmalloc-1k {} 1024")
        return self.answer("\n".join(name.format(count) for name, count in zip(names, now, strict=False)))

    def answer(self, text: str) -> Any:
        return SimpleNamespace(must=lambda doing: SimpleNamespace(stdout=text))


@pytest.mark.parametrize(
    ("counts", "taken"),
    [
        (((7,), (7,)), 7),
        (((7,), (6,)), 6),
        (((5,), (6,), (7,), (7,)), 7),
        # What was not there before says nothing; what grew does, whatever else shrank.
        (((7,), (7, 1)), 7),
        (((7, 1), (6, 2), (6, 2)), 6),
        # It gives up after five looks that showed more.
        (((1,), (2,), (3,), (4,), (5,), (6,)), 6),
    ],
)
def test_a_reading_after_which_another_shows_no_more(
    counts: tuple[tuple[int, ...], ...], taken: int
) -> None:
    guest = Guest(*counts)
    found = settled(cast("Any", guest))
    assert found["kmalloc-64"] == Meter(taken, 64)
    assert found["large kmalloc"] == Meter(10, 16384)
    assert guest.counts == []


@pytest.mark.parametrize(("status", "told"), [(0, "KFENCE was stopped: "), (1, "")])
def test_what_counting_everything_costs_is_told(status: int, told: str) -> None:
    guest = SimpleNamespace(run=lambda command: SimpleNamespace(status=status))
    assert count_all(cast("Any", guest)).startswith(told)
    assert bool(count_all(cast("Any", guest))) is bool(told)
