# SPDX-License-Identifier: Apache-2.0
"""Memory that grows with every cycle of loading and unloading, or with every call, told from chance.

What leaks adds an object or more a cycle. Beside it the same cache gives and takes an object now and then
(a file of /proc being read, what is freed after a grace period), and may grow at once by a slab's worth. So
the growth of a cycle is taken as the Theil-Sen estimate, the median of the slopes between all pairs of
samples, which neither disturbs; its confidence interval tells growth from a step, and from chance. From
P. K. Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau", Journal of the American
Statistical Association 63, 1968.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

# Objects a cycle, by the estimate, at least; and how much of the estimate the lower end of its confidence
# interval must be. Of six samples, a leak of one a cycle beside which one object was freed for good gives
# 0.8 and 0.5; a step gives 0 as the lower end.
_RATE = 0.75
_SURELY = 0.5
_CONFIDENCE = 0.9
# What caches keep by chance is less than this; so a function has to be called more often to be judged so.
_LEAST_BY_CALLS = 60


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
    """Return what grew by about an object a cycle or more, and did so all along, in words."""
    return tuple(_grown(samples))


def _grown(samples: Sequence[Sample]) -> Iterator[str]:
    if len(samples) < 2:
        return
    cycles = [each.cycles for each in samples]
    for name, meter in samples[-1].meters.items():
        counts = [each.meters[name].count for each in samples if name in each.meters]
        if len(counts) < len(samples) or len(set(counts)) == 1:
            continue
        rate, surely = _slope(cycles, counts)
        if rate >= _RATE and surely >= _SURELY * rate:
            yield (
                f"memory grows: {counts[-1] - counts[0]} more objects of {meter.size} bytes in {name} "
                f"after {cycles[-1] - cycles[0]} cycles, {rate:.1f} a cycle"
            )


def growth_by_calls(
    before: Mapping[str, Meter], after: Mapping[str, Meter], calls: int, usual: Mapping[str, float]
) -> tuple[str, ...]:
    """Return what grew by about an object a call, in words.

    Args:
        calls: of the function that was called least, of those called often.
        usual: objects by which each meter grows while as much is done without the livepatch.
    """
    return tuple(_grown_by_calls(before, after, calls, usual))


def _grown_by_calls(
    before: Mapping[str, Meter], after: Mapping[str, Meter], calls: int, usual: Mapping[str, float]
) -> Iterator[str]:
    for name, meter in after.items():
        more = meter.count - before[name].count if name in before else 0
        if more >= max(_LEAST_BY_CALLS, calls * _SURELY) and more >= 2 * usual.get(name, 0.0):
            yield (
                f"memory grows: {more} more objects of {meter.size} bytes in {name} after {calls} calls of "
                "its functions"
            )


def _slope(cycles: Sequence[int], counts: Sequence[int]) -> tuple[float, float]:
    """Return the objects a cycle, and the lower end of the confidence interval."""
    from scipy import stats  # takes a second to import, and few commands need it

    found = stats.theilslopes(counts, cycles, alpha=_CONFIDENCE)
    return float(found.slope), float(found.low_slope)
