# SPDX-License-Identifier: Apache-2.0
"""Differences that are not yet graded, and how they are drafted.

They are graded when all tests of the comparison are made: p values are adjusted for the number of tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from klp.analysis.compare import ranks
from klp.analysis.compare.ranks import Test
from klp.analysis.compare.repetition import Repetition, Weight
from klp.analysis.compare.values import CompareLimits, Difference, Grade, Kind, Place

_FEW = "too few repetitions for a test"
_ONE = "one against one cannot tell a change from chance"


@dataclass(frozen=True, slots=True)
class Draft:
    """A difference before it is graded.

    Attributes:
        test: the test that decides whether it is a regression; None where no test was made.
        certain: why it is a regression whatever a test says; empty where only a test can tell.
        worth: whether it is worth telling if it is no regression.
        better: whether it is an improvement.
        why_not: why no test was made, where none was.
        rank: whether the test's effect is Cliff's delta, which has a limit of its own.
        big: whether the difference is large enough to count at all.
    """

    finding: Difference
    test: Test | None = None
    certain: str = ""
    worth: bool = True
    better: bool = False
    why_not: str = ""
    rank: bool = False
    big: bool = True

    def graded(self, p_adjusted: float | None, limits: CompareLimits) -> Difference | None:
        """Return the finding, now that the adjusted p value is known; None where it is nothing to tell."""
        grade, why = self._grade(p_adjusted, limits)
        if grade is Grade.TOLD and not self.worth:
            return None
        return replace(
            self.finding, grade=grade, why=why, p=self.test.p if self.test else None,
            p_adjusted=p_adjusted, effect=self.test.effect if self.test else None,
        )  # fmt: skip

    def _grade(self, p: float | None, limits: CompareLimits) -> tuple[Grade, str]:
        if self.better:
            return Grade.BETTER, self.certain
        if self.certain:
            return Grade.REGRESSION, self.certain
        if p is None or self.test is None:
            return Grade.TOLD, self.why_not
        if p > limits.alpha:
            return Grade.TOLD, "may be chance"
        if not self.big or (self.rank and self.test.effect < limits.effect):
            return Grade.TOLD, "too small an effect"
        return Grade.REGRESSION, "significant"


class Sides:
    """The samples of one place in both sets, and what every comparison of them needs.

    Args:
        base, new: at least one each.
    """

    def __init__(
        self, place: Place, base: Sequence[Repetition], new: Sequence[Repetition], limits: CompareLimits
    ) -> None:
        self._place = place
        self._base = base
        self._new = new
        self._limits = limits
        self._enough = min(len(base), len(new)) >= limits.repetitions
        self._why_not = _ONE if len(base) == len(new) == 1 else _FEW

    def _finding(self, kind: Kind, what: str, base: str, new: str, runs: Sequence[str]) -> Difference:
        return Difference(
            kind=kind, grade=Grade.TOLD, place=self._place, what=what, base=base, new=new, why="",
            runs=tuple(dict.fromkeys(runs)),
        )  # fmt: skip

    def _oftener(
        self, finding: Difference, base: int, new: int, weight: Weight, *, worth: bool = False
    ) -> Draft:
        """Draft a finding on something that was in `base` and `new` repetitions."""
        first = not base and new > 0
        if first and weight is Weight.FAULT:
            return Draft(finding, certain="never in the base")
        if self._enough:
            test = ranks.oftener((base, len(self._base)), (new, len(self._new)))
            return Draft(finding, test, worth=worth or first)
        return Draft(finding, worth=worth or first, why_not=self._why_not)
