# SPDX-License-Identifier: Apache-2.0
"""The verdicts of one place in two sets, compared: what is violated now, and what is not observed now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from klp.analysis.compare.drafts import Draft, Sides
from klp.analysis.compare.repetition import Repetition, Weight
from klp.analysis.compare.values import Difference, Kind
from klp.analysis.evidence import Verdict
from klp.analysis.rule_checks import RULE

_Verdicts = Counter[Verdict | None]


class VerdictComparison(Sides):
    """Compares the verdicts of one place."""

    def drafts(self) -> Iterator[Draft]:
        """Yield every difference, and every test that was made."""
        names = list(dict.fromkeys(name for each in (*self._base, *self._new) for name in each.verdicts))
        unseen = []
        for name in names:
            if draft := self._violated(name):
                yield draft
            elif draft := self._no_longer_held(name):
                if name.startswith(RULE) and draft.test is None:
                    unseen += [draft.finding] if draft.worth else []
                else:
                    yield draft
        if unseen:
            yield self._together(unseen)

    def _violated(self, name: str) -> Draft | None:
        """Draft a finding on a verdict that is violated more or less often; None where it is neither."""
        base, new = _counts(self._base, name), _counts(self._new, name)
        broken = [each for each in self._new if _verdict_of(each, name) is Verdict.VIOLATED]
        was, now = (_share(side, Verdict.VIOLATED) for side in (base, new))
        if now == was:
            return None
        finding = self._about(name, base, new, broken)
        if now > was:
            return self._oftener(finding, base[Verdict.VIOLATED], new[Verdict.VIOLATED], Weight.FAULT)
        if _share(new, Verdict.NOT_OBSERVED) > _share(base, Verdict.NOT_OBSERVED):
            return Draft(finding, why_not="violated in the base, and not observed now")
        return Draft(finding, better=True, certain="violated less often")

    def _no_longer_held(self, name: str) -> Draft | None:
        """Draft a finding on a verdict that is held less often; None where it is not."""
        # One that was cut short has a verdict that says so.
        old, now = ([each for each in side if not each.cut] for side in (self._base, self._new))
        lacking = [each for each in now if _verdict_of(each, name) is not Verdict.HELD]
        base, new = _counts(old, name), _counts(now, name)
        not_held = base.total() - base[Verdict.HELD]
        if not old or not lacking or not_held * len(now) >= len(lacking) * len(old):
            return None
        finding = self._about(name, base, new, lacking)
        gone = len(lacking) == len(now)
        if name.startswith(RULE):  # whether a trace shows one may be chance, as stragglers are
            return self._oftener(finding, not_held, len(lacking), Weight.RATE, worth=gone)
        if not not_held and new[Verdict.NOT_OBSERVED] == len(now):
            return Draft(finding, certain="always held in the base, and not observed any more")
        return Draft(finding, worth=gone, why_not="not made any more" if new[None] else "held less often")

    def _about(
        self, name: str, base: _Verdicts, new: _Verdicts, having: Sequence[Repetition]
    ) -> Difference:
        words = having[0].verdicts.get(name, (None, ""))[1] if having else ""
        now = f"{_counted(new)}: {words}" if words else _counted(new)
        return self._finding(Kind.VERDICT, name, _counted(base), now, [each.run for each in having])

    def _together(self, unseen: Sequence[Difference]) -> Draft:
        """Draft one finding on the rules that few runs do not show any more: each may be chance."""
        names = ", ".join(each.what.removeprefix(RULE) for each in unseen)
        runs = [run for each in unseen for run in each.runs]
        what = f"rule{'s' * (len(unseen) > 1)} {names}"
        finding = self._finding(Kind.VERDICT, what, unseen[0].base, unseen[0].new, runs)
        return Draft(finding, why_not=self._why_not)


def _counts(side: Sequence[Repetition], name: str) -> _Verdicts:
    return Counter(_verdict_of(each, name) for each in side)


def _share(counts: _Verdicts, verdict: Verdict) -> float:
    return counts[verdict] / counts.total()


def _verdict_of(repetition: Repetition, name: str) -> Verdict | None:
    """Return a verdict; a rule that has none was not observed, a check that has none was not made."""
    found = repetition.verdicts.get(name)
    if found:
        return found[0]
    return Verdict.NOT_OBSERVED if name.startswith(RULE) else None


def _counted(verdicts: _Verdicts) -> str:
    whole = verdicts.total()
    parts = [f"{count} of {whole} {each.value}" for each in Verdict if (count := verdicts[each])]
    return ", ".join(parts) or "not there"
