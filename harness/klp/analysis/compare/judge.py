# SPDX-License-Identifier: Apache-2.0
"""The facts of one place in two sets, compared with each other: drafts of findings, not yet graded.

They are graded when all tests of the comparison are made: p values are adjusted for the number of tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from msgspec.structs import replace

from klp.analysis.compare import ranks
from klp.analysis.compare.ranks import Test
from klp.analysis.compare.repetition import WHOLE_TRANSITION, Repetition, There, Weight
from klp.analysis.compare.times import longer
from klp.analysis.compare.values import CompareLimits, Difference, Grade, Kind, Place
from klp.analysis.evidence import Verdict
from klp.analysis.rule_checks import RULE

_FEW = "too few repetitions for a test"
_ONE = "one against one cannot tell a change from chance"
_LOST = "events were lost"


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


class PlaceComparison:
    """Compares the samples of one place.

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

    def drafts(self) -> Iterator[Draft]:
        """Yield every difference, and every test that was made."""
        yield from self._verdicts()
        yield from self._there()
        yield from self._transitions()
        yield from self._passes()
        yield from self._callbacks()
        yield from self._leaks()
        yield from self._calls()
        yield from self._times()

    def _finding(self, kind: Kind, what: str, base: str, new: str, runs: Sequence[str]) -> Difference:
        return Difference(
            kind=kind, grade=Grade.TOLD, place=self._place, what=what, base=base, new=new, why="",
            runs=tuple(dict.fromkeys(runs)),
        )  # fmt: skip

    # --- verdicts ---------------------------------------------------------------------------------

    def _verdicts(self) -> Iterator[Draft]:
        names = dict.fromkeys(name for each in (*self._base, *self._new) for name in each.verdicts)
        for name in names:
            yield from self._verdict(name)

    def _verdict(self, name: str) -> Iterator[Draft]:
        base = Counter(_verdict_of(each, name) for each in self._base)
        new = Counter(_verdict_of(each, name) for each in self._new)
        was, now = (side[Verdict.VIOLATED] / side.total() for side in (base, new))
        broken = [each for each in self._new if _verdict_of(each, name) is Verdict.VIOLATED]
        words = broken[0].verdicts[name][1] if broken else ""
        now_so = f"{_counted(new)}: {words}" if words else _counted(new)
        finding = self._finding(Kind.VERDICT, name, _counted(base), now_so, [each.run for each in broken])
        if now > was:
            yield self._oftener(finding, base[Verdict.VIOLATED], new[Verdict.VIOLATED], Weight.FAULT)
        elif now < was:
            yield Draft(finding, better=True, certain="violated less often")
        else:
            yield from self._no_longer_held(name)

    def _no_longer_held(self, name: str) -> Iterator[Draft]:
        """Yield a finding on a verdict that is held less often, though not violated more often."""
        # One that was cut short has a verdict that says so.
        whole = [each for each in self._new if not each.cut]
        lacking = [each for each in whole if _verdict_of(each, name) is not Verdict.HELD]
        base = Counter(_verdict_of(each, name) for each in self._base)
        not_held = base.total() - base[Verdict.HELD]
        if not lacking or not_held * len(whole) >= len(lacking) * base.total():
            return
        new = Counter(_verdict_of(each, name) for each in whole)
        runs = [each.run for each in lacking]
        finding = self._finding(Kind.VERDICT, name, _counted(base), _counted(new), runs)
        gone = len(lacking) == len(whole)
        if name.startswith(RULE):  # whether a trace shows one may be chance, as stragglers are
            yield self._oftener(finding, not_held, len(lacking), Weight.RATE, worth=gone)
        elif not not_held and new[Verdict.NOT_OBSERVED] == len(whole):
            yield Draft(finding, certain="always held in the base, and not observed any more")
        else:
            yield Draft(
                finding, worth=gone, why_not="not made any more" if new[None] else "less often held"
            )

    # --- what is there, or is not -----------------------------------------------------------------

    def _there(self) -> Iterator[Draft]:
        found: dict[tuple[Kind, str], There] = {}
        for each in (*self._base, *self._new):
            found.update(each.there)
        for key, one in found.items():
            having = [each for each in self._new if key in each.there]
            base = sum(key in each.there for each in self._base)
            words = f"{len(having)} of {len(self._new)}: {one.words}"
            finding = self._finding(
                one.kind, one.what, f"{base} of {len(self._base)}", words, [each.run for each in having]
            )
            if having or base:
                yield self._oftener(finding, base, len(having), one.weight)

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

    # --- how many ---------------------------------------------------------------------------------

    def _transitions(self) -> Iterator[Draft]:
        """Yield the transitions that are not seen any more, or in another number."""
        for key in self._keys(Kind.TRANSITIONS):
            base, new = (
                [float(each.counts.get(key, 0)) for each in side if not each.cut]
                for side in (self._base, self._new)
            )
            if base and new and sorted({*base}) != sorted({*new}):
                yield self._other_number(key, base, new)

    def _other_number(self, key: tuple[Kind, str], base: list[float], new: list[float]) -> Draft:
        runs = [each.run for each in self._new if each.counts.get(key, 0) not in base]
        finding = self._finding(*key, _spread(base), _spread(new), runs)
        if min(base) and not max(new):
            return Draft(finding, certain="always in the base, and not seen any more")
        least = min(base)
        if least and min(new) < least and self._enough:
            # Some have fewer than ever: each of these tells less than it did.
            lacking = sum(each < least for each in new)
            return Draft(finding, ranks.oftener((0, len(base)), (lacking, len(new))))
        apart = min(new) > max(base) or max(new) < least
        return Draft(finding, worth=apart or min(new) < least, why_not="another number of transitions")

    def _passes(self) -> Iterator[Draft]:
        for key in self._keys(Kind.PASSES):
            base, new = self._values(self._base, key), self._values(self._new, key)
            if base and new:
                more = min(new) - max(base)
                # In one run of each, chance gives two passes more often enough.
                sure = more >= self._limits.passes and min(len(base), len(new)) > 1
                certain = f"at least {more:g} more" if sure else ""
                yield self._numbers(key, base, new, certain, worth=median(new) > median(base))

    def _leaks(self) -> Iterator[Draft]:
        for key in self._keys(Kind.LEAK):
            base, new = (
                [float(each.counts.get(key, 0)) for each in side if not each.holes]
                for side in (self._base, self._new)
            )
            if not (base and new):
                continue  # the notes tell that events were lost
            certain = ""
            if max(new) and not max(base):
                certain = "never in the base"
            elif min(new) > max(base):
                certain = "always more than in the base"
            yield self._numbers(key, base, new, certain, worth=median(new) > median(base))

    def _calls(self) -> Iterator[Draft]:
        """Yield the functions that ran in one set and never in the other; how often is not compared."""
        for key in self._keys(Kind.CALLS):
            base, new = self._values(self._base, key), self._values(self._new, key)
            if base and new and bool(max(base)) is not bool(max(new)):
                better = bool(max(new))
                finding = self._finding(
                    Kind.CALLS, f"calls of {key[1]}", _spread(base), _spread(new),
                    [] if better else [each.run for each in self._new],
                )  # fmt: skip
                why = "never ran in the base" if better else "ran in the base, and does not any more"
                yield Draft(finding, better=better, certain=why)

    def _keys(self, kind: Kind) -> list[tuple[Kind, str]]:
        keys = dict.fromkeys(key for each in (*self._base, *self._new) for key in each.counts)
        return [key for key in keys if key[0] is kind]

    @staticmethod
    def _values(samples: Sequence[Repetition], key: tuple[Kind, str]) -> list[float]:
        return [float(each.counts[key]) for each in samples if key in each.counts]

    def _numbers(
        self, key: tuple[Kind, str], base: list[float], new: list[float], certain: str, *, worth: bool
    ) -> Draft:
        kind, what = key
        runs = [each.run for each in self._new if each.counts.get(key, 0) > max(base)]
        finding = self._finding(kind, what, _spread(base), _spread(new), runs)
        if certain or not self._enough or len({*base, *new}) < 2:
            return Draft(finding, certain=certain, worth=worth, why_not=self._why_not)
        return Draft(finding, ranks.greater(base, new), worth=worth, rank=True)

    # --- in which order ---------------------------------------------------------------------------

    def _callbacks(self) -> Iterator[Draft]:
        known = Counter(each.callbacks for each in self._base)
        usual = known.most_common(1)[0][0]
        # A lost guest ran fewer callbacks. That it was lost is a finding of its own, so this is none.
        whole = [each for each in self._new if not each.cut]
        strange = Counter(each.callbacks for each in whole if each.callbacks not in known)
        for order, count in strange.items():
            runs = [each.run for each in self._new if each.callbacks == order]
            first = _first_difference(usual, order)
            finding = self._finding(
                Kind.CALLBACKS, f"callbacks differ from number {first + 1} on", _from(usual, first),
                f"{count} of {len(self._new)}: {_from(order, first)}", runs,
            )  # fmt: skip
            if _within(usual, order):
                yield Draft(finding, why_not="further callbacks, and none missing or in another order")
            elif all(each.holes for each in whole if each.callbacks == order):
                yield Draft(finding, why_not=_LOST)
            else:
                yield Draft(finding, certain="never in the base")

    # --- how long ---------------------------------------------------------------------------------

    def _times(self) -> Iterator[Draft]:
        names = dict.fromkeys(name for each in (*self._base, *self._new) for name in each.times_ns)
        known = {name: (self._lasted(self._base, name), self._lasted(self._new, name)) for name in names}
        # Both sets' values together decide whether there is a test. If one set's alone did, which tests
        # are made would depend on the outcome, and their p values would say less than they seem to.
        shown = {
            name: (was, now)
            for name, (was, now) in known.items()
            if _any(was) and _any(now) and max(*_any(was), *_any(now)) >= self._limits.longer_ms
        }
        # Half of each set, so that the means stand for it.
        tests = self._longer(
            {
                name: sides
                for name, sides in shown.items()
                if all(2 * len(_any(one)) >= len(one) for one in sides)
            }
        )
        for name, (was, now) in shown.items():
            yield self._phase(name, _any(was), _any(now), tests.get(name))

    def _longer(self, sides: dict[str, tuple[list[float | None], list[float | None]]]) -> dict[str, Test]:
        if not self._enough or min(len(self._base), len(self._new)) < 2:
            return {}
        wholes = {name: f"{name.partition(',')[0]}, {WHOLE_TRANSITION}" for name in sides}
        return longer(
            {name: was for name, (was, _) in sides.items()},
            {name: now for name, (_, now) in sides.items()},
            {name: whole for name, whole in wholes.items() if whole != name and whole in sides},
            self._limits.longer_ms,
        )

    @staticmethod
    def _lasted(samples: Sequence[Repetition], what: str) -> list[float | None]:
        """Return milliseconds; None for a repetition of which it is not known."""
        return [each.times_ns[what] / 1e6 if what in each.times_ns else None for each in samples]

    def _phase(self, what: str, base: list[float], new: list[float], test: Test | None) -> Draft:
        limits, was, now = self._limits, median(base), median(new)
        big = now - was >= limits.longer_ms and now >= was * limits.longer_by
        finding = self._finding(Kind.PHASE, what, _milliseconds(base), _milliseconds(new), ())
        return Draft(finding, test, worth=big, why_not=self._why_not, rank=True, big=big)


def _any(values: Sequence[float | None]) -> list[float]:
    return [each for each in values if each is not None]


def _verdict_of(repetition: Repetition, name: str) -> Verdict | None:
    found = repetition.verdicts.get(name)
    return found[0] if found else None


def _counted(verdicts: Counter[Verdict | None]) -> str:
    whole = sum(verdicts.values())
    parts = [f"{count} of {whole} {each.value}" for each in Verdict if (count := verdicts[each])]
    return ", ".join(parts) or "not there"


def _spread(values: Sequence[float]) -> str:
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:g}" if low == high else f"{middle:g} ({low:g} to {high:g})"


def _milliseconds(values: Sequence[float]) -> str:
    low, middle, high = min(values), median(values), max(values)
    if len(values) == 1:
        return f"{middle:.0f} ms"
    return f"{middle:.0f} ms ({low:.0f} to {high:.0f})"


def _first_difference(one: Sequence[str], other: Sequence[str]) -> int:
    pairs = zip(one, other, strict=False)
    return next((n for n, (was, now) in enumerate(pairs) if was != now), min(len(one), len(other)))


def _from(order: Sequence[str], first: int) -> str:
    if not order:
        return "none"
    begun = max(0, first - 1)
    shown = ", ".join(order[begun : begun + 4]) or "no more"
    return f"{'…, ' if begun else ''}{shown}{', …' if len(order) > begun + 4 else ''}"


def _within(part: Sequence[str], whole: Sequence[str]) -> bool:
    """Whether all of `part` are in `whole` in the same order."""
    rest = iter(whole)
    return all(each in rest for each in part)
