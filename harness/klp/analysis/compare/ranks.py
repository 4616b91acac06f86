# SPDX-License-Identifier: Apache-2.0
"""The statistics of a comparison, by scipy.

Every test is one-sided: is the new set worse? Which tests are made depends on both sets' values together,
never on which set has them, so that leaving hopeless ones out does not favour an outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Test:
    """A test's outcome: p, and the effect's size from -1 to 1: 0 none, 1 all of new above all of base."""

    __test__ = False  # pytest: no class of tests

    p: float
    effect: float


def greater(base: Sequence[float], new: Sequence[float]) -> Test:
    """Test whether values of `new` tend to be above those of `base`: Mann and Whitney's U.

    The p value is exact for small samples without ties, and else from the normal approximation with ties
    and continuity corrected. The effect is Cliff's delta, which for two samples is the rank-biserial
    correlation: how much more often a new value is above a base value than below.
    """
    from scipy import stats

    if len({*base, *new}) < 2:
        return Test(p=1.0, effect=0.0)
    found = stats.mannwhitneyu(new, base, alternative="greater", method="auto")
    return Test(p=float(found.pvalue), effect=2 * float(found.statistic) / (len(base) * len(new)) - 1)


def oftener(base: tuple[int, int], new: tuple[int, int]) -> Test:
    """Test whether something was there oftener in `new` than in `base`: Fisher's exact test.

    Args:
        base, new: in how many repetitions it was, of how many.
    """
    from scipy import stats

    table = [[new[0], new[1] - new[0]], [base[0], base[1] - base[0]]]
    found = stats.fisher_exact(table, alternative="greater")
    return Test(p=float(found.pvalue), effect=new[0] / new[1] - base[0] / base[1])


def could_matter(there: int, base: int, new: int, alpha: float) -> bool:
    """Whether `there` occurrences among so many repetitions could be significant at all (Tarone).

    A test that could not, even if all occurrences were in the new set, is left out: with each test that is
    made, every other one's adjusted p value grows.
    """
    most = min(there, new)
    return oftener((there - most, base), (most, new)).p <= alpha


def adjusted(ps: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number, by Benjamini and Hochberg, in the same order."""
    from scipy import stats

    return [float(each) for each in stats.false_discovery_control(ps)] if ps else []
