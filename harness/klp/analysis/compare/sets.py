# SPDX-License-Identifier: Apache-2.0
"""Two sets of runs to one comparison."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from klp.analysis.compare import ranks
from klp.analysis.compare.drafts import Draft
from klp.analysis.compare.judge import PlaceComparison
from klp.analysis.compare.repetition import (
    THE_CHECK,
    Repetition,
    repetitions,
    scenarios,
)
from klp.analysis.compare.values import (
    COMPARISON_SCHEMA,
    Compared,
    CompareLimits,
    Comparison,
    Difference,
    Grade,
    Kind,
    Place,
    SetSummary,
)
from klp.analysis.recording import Recorded, RecordedCheck, RecordedRun

_GRADES = tuple(Grade)
_KINDS = tuple(Kind)
Repetitions = Mapping[Place, Sequence[Repetition]]


@dataclass(frozen=True, slots=True)
class RunSet:
    """A set of runs and checks, as they were read."""

    runs: tuple[RecordedRun, ...] = ()
    checks: tuple[RecordedCheck, ...] = ()

    @classmethod
    def of(cls, recorded: Sequence[Recorded]) -> RunSet:
        """Return the set of what was read."""
        return cls(
            tuple(each for each in recorded if isinstance(each, RecordedRun)),
            tuple(each for each in recorded if isinstance(each, RecordedCheck)),
        )

    def repetitions(self) -> Iterator[Repetition]:
        """Yield every repetition in it."""
        for run in self.runs:
            yield from repetitions(run)
        for check in self.checks:
            yield from scenarios(check)


def compare_sets(base: RunSet, new: RunSet, limits: CompareLimits) -> Comparison:
    """Return what differs between two sets, what became worse first.

    Where each set has one kernel, or one plan, these are compared whatever they are called; else those of
    one name are. `Comparison.compared` is empty where nothing is in both.
    """
    ignored = re.compile(limits.ignore) if limits.ignore else None
    old = _by_place(base, ignored)
    now = _by_place(new, ignored)
    old = _renamed(old, now)
    both = _in_both(old, now)
    drafts = [
        draft for place in both for draft in PlaceComparison(place, old[place], now[place], limits).drafts()
    ]
    findings, tests = _graded(drafts, limits)
    return Comparison(
        schema=COMPARISON_SCHEMA,
        base=_summary(base),
        new=_summary(new),
        limits=limits,
        compared=tuple(Compared(place=each, base=len(old[each]), new=len(now[each])) for each in both),
        tests=tests,
        findings=findings,
        notes=(*_chance_notes(old, now, both), *_notes(old, now, base, new)),
    )


def _by_place(runs: RunSet, ignored: re.Pattern[str] | None) -> dict[Place, list[Repetition]]:
    found: dict[Place, list[Repetition]] = defaultdict(list)
    for each in runs.repetitions():
        found[each.place].append(_without(each, ignored))
    return dict(found)


def _without(repetition: Repetition, ignored: re.Pattern[str] | None) -> Repetition:
    """Return a repetition without the kernel messages that never count."""
    if ignored is None:
        return repetition
    kept = {
        key: one
        for key, one in repetition.there.items()
        if one.kind is not Kind.MESSAGE or not ignored.search(one.words)
    }
    return replace(repetition, there=kept)


def _renamed(old: Repetitions, now: Repetitions) -> dict[Place, list[Repetition]]:
    """Return the base under the new set's names, where both sets have but one kernel, livepatch or plan."""
    names = {
        field: _pair((getattr(each, field) for each in old), (getattr(each, field) for each in now))
        for field in ("kernel", "livepatch", "plan")
    }
    found: dict[Place, list[Repetition]] = defaultdict(list)
    for place, own in old.items():
        changes = {field: names[field].get(getattr(place, field)) for field in names}
        known = {field: name for field, name in changes.items() if name}
        found[msgspec.structs.replace(place, **known)] += own
    return dict(found)


def _in_both(old: Repetitions, now: Repetitions) -> list[Place]:
    """Return the places that both sets have; a trace as a whole only if a plan of it is among them."""
    both = [place for place in now if place in old]
    with_plans = {(each.kernel, each.scenario) for each in (*old, *now) if each.plan}
    shared = {(each.kernel, each.scenario) for each in both if each.plan}
    alone = with_plans - shared
    found = [each for each in both if (each.kernel, each.scenario) not in alone]
    return found if found != [THE_CHECK] else []


def _pair(old: Iterable[str], now: Iterable[str]) -> dict[str, str]:
    one, other = ({each for each in names if each not in ("", THE_CHECK.plan)} for names in (old, now))
    return {one.pop(): other.pop()} if len(one) == len(other) == 1 else {}


def _graded(drafts: Sequence[Draft], limits: CompareLimits) -> tuple[tuple[Difference, ...], int]:
    """Return the findings in order, and how many tests there were that could become significant.

    Counts and times are adjusted for apart, that counts are not paid for with the number of phases; each
    then has half of the false alarms that the limit allows, or all where the other has no test.
    """
    tested = [(each, each.test) for each in drafts if each.test is not None]
    families = [
        [(each, test) for each, test in tested if (each.finding.kind is Kind.PHASE) is of_times]
        for of_times in (False, True)
    ]
    able = [sum(test.chance.least_p <= limits.alpha for _, test in family) for family in families]
    share = max(1, sum(each > 0 for each in able))
    adjusted = {
        id(each): min(1.0, share * p)
        for family in families
        for (each, _), p in zip(family, ranks.adjusted([test for _, test in family]), strict=True)
    }
    found = [each.graded(adjusted.get(id(each)), limits) for each in drafts]
    kept = [each for each in found if each]
    kept.sort(key=lambda each: (_GRADES.index(each.grade), _KINDS.index(each.kind)))
    return tuple(kept), sum(able)


def _summary(runs: RunSet) -> SetSummary:
    where = [each.whole().provenance for each in runs.runs]
    kernels = [each for check in runs.checks for each in check.whole().kernels]
    names = (*(each.name for each in runs.runs), *(each.name for each in runs.checks))
    releases = (*(each.title for each in where), *(each.title for each in kernels))
    accelerators = (*(each.accelerator for each in where), *(each.accelerator for each in kernels))
    return SetSummary(
        runs=tuple(dict.fromkeys(names)),
        kernels=tuple(dict.fromkeys(releases)),
        accelerators=tuple(dict.fromkeys(accelerators)),
    )


def _chance_notes(old: Repetitions, now: Repetitions, both: Sequence[Place]) -> Iterator[str]:
    if any(len(old[place]) == len(now[place]) == 1 for place in both if place != THE_CHECK):
        yield (
            "one run against one cannot tell a change from chance: only faults count; "
            "repeat both (--repeat 5) to compare how often and how long"
        )


def _notes(old: Repetitions, now: Repetitions, base: RunSet, new: RunSet) -> Iterator[str]:
    for place in old:
        if place not in now:
            yield f"only in the base: {place.told()}"
    for place in now:
        if place not in old:
            yield f"not in the base: {place.told()}"
    for name, runs in (("base", base), ("new", new)):
        recorded = (*runs.runs, *(run for one in runs.checks for run in one.runs.values()))
        lost = sum(each.whole().lost_events for each in recorded)
        if lost:
            yield (
                f"the probes lost {lost} events in the {name} set: what its traces lack was perhaps there, "
                "and no leak is judged"
            )
