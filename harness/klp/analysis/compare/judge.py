# SPDX-License-Identifier: Apache-2.0
"""The facts of one place in two sets, compared with each other: drafts of findings, not yet graded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from klp.analysis.compare import ranks
from klp.analysis.compare.drafts import Draft, Sides
from klp.analysis.compare.ranks import Test
from klp.analysis.compare.repetition import WHOLE_TRANSITION, Repetition, There
from klp.analysis.compare.times import longer
from klp.analysis.compare.values import Kind
from klp.analysis.compare.verdicts import VerdictComparison

_LOST = "events were lost"


class PlaceComparison(Sides):
    """Compares the samples of one place."""

    def drafts(self) -> Iterator[Draft]:
        """Yield every difference, and every test that was made."""
        yield from VerdictComparison(self._place, self._base, self._new, self._limits).drafts()
        yield from self._there()
        yield from self._transitions()
        yield from self._passes()
        yield from self._callbacks()
        yield from self._leaks()
        yield from self._calls()
        yield from self._times()

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
                continue  # the event that tells of the free may be one of those that were lost
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
