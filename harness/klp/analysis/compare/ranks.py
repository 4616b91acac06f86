# SPDX-License-Identifier: Apache-2.0
"""The statistics of counts in a comparison, exact however many values are equal, and of many tests at once.

Every test is one-sided: is the new set worse? Which tests are made depends on both sets' values together,
never on which set has them, so that what is left out does not favour an outcome.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb

# Repetitions of both sets together up to which the rank test is exact; it takes a tenth of a second there.
_EXACT_UP_TO = 100
# Marks come from sums of floats: equal ones may differ in the last digits.
ALIKE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Chance:
    """How likely each mark of a test is where the sets do not differ.

    A higher mark speaks more against the new set. Marks of different tests can be held against each other.

    Attributes:
        marks: all that can come out, ascending; empty where a mark is the negative p value, and any can.
        tails: of each mark, the chance of it or a higher one.
        least: the chance of a mark above all of these.
    """

    marks: tuple[float, ...] = ()
    tails: tuple[float, ...] = ()
    least: float = 0.0

    def of(self, mark: float) -> float:
        """Return the chance of a mark or a higher one."""
        if not self.marks:
            return min(1.0, -mark)
        place = bisect_left(self.marks, mark - ALIKE)
        return self.tails[place] if place < len(self.tails) else self.least

    @classmethod
    def of_p_values(cls, p_values: Sequence[float]) -> Chance:
        """Return the chances of a test that can have only these p values; its mark is the negative one."""
        once = sorted(set(p_values), reverse=True)
        return cls(tuple(-each for each in once), tuple(once))

    @property
    def least_p(self) -> float:
        """The least p value that can come out: a limit below it is never met."""
        return self.tails[-1] if self.tails else 0.0


@dataclass(frozen=True, slots=True)
class Test:
    """A test's outcome.

    Attributes:
        p: how likely this or worse is where the sets do not differ.
        effect: its size from -1 to 1: 0 none, 1 all of new above all of base.
        mark: by which it is held against the other tests of a comparison.
        chance: of its marks; tests that share one count as one among all tests.
    """

    __test__ = False  # pytest: no class of tests

    p: float
    effect: float
    mark: float = field(compare=False)
    chance: Chance = field(default_factory=Chance, compare=False)


# A test of which only one thing can come out.
_ALIKE_IN_BOTH = Test(p=1.0, effect=0.0, mark=-1.0, chance=Chance.of_p_values([1.0]))


def greater(base: Sequence[float], new: Sequence[float]) -> Test:
    """Test whether values of `new` tend to be above those of `base`: by the sum of their ranks.

    The p value is that of the permutation test: of all ways to choose the new set's values from both sets',
    the share whose ranks sum up to as much or more. Equal values share a rank. Only from a hundred values
    on it is the normal approximation, corrected for ties and continuity.
    """
    if len({*base, *new}) < 2:
        return _ALIKE_IN_BOTH
    delta = cliffs_delta(base, new)
    if len(base) + len(new) > _EXACT_UP_TO:
        from scipy import stats  # takes a second to import, and few commands need it

        p = float(stats.mannwhitneyu(new, base, alternative="greater", method="asymptotic").pvalue)
        return Test(p, delta, -p)
    ranks = _ranks([*new, *base])
    tails = _tails(ranks, len(new))
    p = tails[sum(ranks[: len(new)])]
    return Test(p, delta, -p, Chance.of_p_values(list(tails.values())))


def cliffs_delta(base: Sequence[float], new: Sequence[float]) -> float:
    """Return how much oftener a new value is above a base value than below it, among all pairs."""
    pairs = [(now > was) - (now < was) for was in base for now in new]
    return sum(pairs) / len(pairs)


def _ranks(values: Sequence[float]) -> list[int]:
    """Return the rank of each value twice over, that of equal ones being the mean: so all are whole."""
    in_order = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(in_order)))}
    last = {value: place for place, value in enumerate(in_order)}
    return [first[each] + last[each] for each in values]


def _tails(ranks: Sequence[int], chosen: int) -> dict[int, float]:
    """Return the chance of each sum of that many ranks or a higher one (Streitberg and Roehmel's shifts).

    How many ways lead to each sum are counted in the digits of one number for each number of ranks taken:
    to add a rank to each of these sums is to shift the number.
    """
    width = (len(ranks) // 8 + 1) * 8  # bits: no count has more
    ways = [1, *([0] * chosen)]
    for rank in ranks:
        for taken in range(chosen, 0, -1):
            ways[taken] += ways[taken - 1] << (rank * width)
    size = width // 8
    digits = ways[chosen].to_bytes((sum(ranks) + 1) * size, "little")
    tails: dict[int, float] = {}
    above, whole = 0, comb(len(ranks), chosen)
    for total in range(sum(ranks), -1, -1):
        count = int.from_bytes(digits[total * size : (total + 1) * size], "little")
        above += count
        if count:
            tails[total] = above / whole
    return tails


def oftener(base: tuple[int, int], new: tuple[int, int]) -> Test:
    """Test whether something was there oftener in `new` than in `base`: Fisher's exact test.

    Args:
        base, new: in how many repetitions it was, of how many.
    """
    there, effect = base[0] + new[0], new[0] / new[1] - base[0] / base[1]
    if there in (0, base[1] + new[1]):
        return _ALIKE_IN_BOTH
    # What was there has rank 1, all else rank 0: the sum of the new set's is how often it was there.
    tails = _tails([*([1] * there), *([0] * (base[1] + new[1] - there))], new[1])
    return Test(tails[new[0]], effect, -tails[new[0]], Chance.of_p_values(list(tails.values())))


def adjusted(tests: Sequence[Test]) -> list[float]:
    """Return the p values adjusted for the number of tests, in the same order.

    Benjamini and Hochberg's method as Heyse has it for tests of which not every p value can come out: what
    counts is how many tests are expected to come out as far as this one where nothing differs, to how many
    did. So a test that could not come out as far whatever it was given does not weigh on others.
    """
    tops: dict[Chance, float] = {}
    for each in tests:
        tops[each.chance] = max(each.mark, tops.get(each.chance, each.mark))
    ascending = sorted(range(len(tests)), key=lambda number: tests[number].mark)
    found, least = [1.0] * len(tests), 1.0
    for number in ascending:
        mark = tests[number].mark
        expected = sum(chance.of(mark) for chance in tops)
        came = sum(top >= mark - ALIKE for top in tops.values())
        least = min(least, expected / came)
        found[number] = max(least, tests[number].p)
    return found
