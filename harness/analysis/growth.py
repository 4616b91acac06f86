# SPDX-License-Identifier: Apache-2.0
"""Memory that grows with every cycle of loading and unloading, told from memory that comes and goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

# One object a cycle leaks; of what a cycle frees late (kfree_rcu, deferred work) some is still there at a
# sample, but not more at each.
_RATE = 0.9
_STEADY = 0.5


@dataclass(frozen=True, slots=True)
class Meter:
    """Something of the kernel's memory that is counted: how many, and of how many bytes each."""

    count: int
    size: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The meters after a number of cycles, by name: a kmalloc cache, or a line of /proc/meminfo."""

    cycles: int
    meters: Mapping[str, Meter]


def growth(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return what grew by at least one object a cycle, and between any two samples, in words."""
    return tuple(_grown(samples))


def _grown(samples: Sequence[Sample]) -> Iterator[str]:
    if len(samples) < 2:
        return
    first, last = samples[0], samples[-1]
    for name, meter in last.meters.items():
        counts = [(each.cycles, each.meters[name].count) for each in samples if name in each.meters]
        if len(counts) < len(samples):
            continue
        rates = [(after - before) / (late - early) for (early, before), (late, after) in pairwise(counts)]
        more, cycles = counts[-1][1] - counts[0][1], last.cycles - first.cycles
        if more / cycles >= _RATE and min(rates) >= _STEADY:
            yield (
                f"memory grows: {more} more objects of {meter.size} bytes in {name} after {cycles} cycles, "
                f"{more / cycles:.1f} a cycle"
            )
