# SPDX-License-Identifier: Apache-2.0
"""The tests that a comparison makes: exact with equal values, adjusted for their number, good for times."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from math import comb

import msgspec
import pytest

from klp.analysis.compare import ranks
from klp.analysis.compare.repetition import repetitions
from klp.analysis.compare.times import longer
from klp.analysis.compare.values import Grade, Kind
from klp.analysis.recording import RecordedRun
from klp.analysis.result import PlanResult
from tests.unit.comparisons import HELD, compared, life, often, only, regressions, run_of, with_plans
from tests.unit.traces import MS

# --- counts -------------------------------------------------------------------------------------------


def pairs_above(base: Sequence[float], new: Sequence[float]) -> int:
    return sum((now > was) - (now < was) for was in base for now in new)


def by_all_choices(base: Sequence[float], new: Sequence[float]) -> float:
    """The permutation test as it is defined: each choice of the new set's values, one after another."""
    whole, found = [*new, *base], pairs_above(base, new)
    choices = [set(each) for each in combinations(range(len(whole)), len(new))]
    as_far = 0
    for chosen in choices:
        sides = ([one for number, one in enumerate(whole) if (number in chosen) is in_new]
                 for in_new in (False, True))  # fmt: skip
        as_far += pairs_above(*sides) >= found
    return as_far / len(choices)


@pytest.mark.parametrize(
    ("base", "new"),
    [
        ([1, 1, 1, 1, 1], [1, 1, 2, 2, 2]),
        ([1, 1, 1, 1, 1], [1, 2, 2, 2, 2]),
        ([1, 1, 1, 1, 2], [1, 2, 2, 2, 2]),
        ([1, 1, 1, 1, 1], [2, 2, 2, 2, 2]),
        ([2, 2, 2, 2, 3], [3, 3, 3, 2, 3]),
        ([1, 2, 3, 9], [2, 2, 3, 0, 7, 8]),
        ([5, 5], [1, 1, 1]),
    ],
)
def test_the_rank_test_is_that_of_all_choices_though_values_are_equal(
    base: list[int], new: list[int]
) -> None:
    found = ranks.greater(base, new)
    assert found.p == pytest.approx(by_all_choices(base, new))
    assert found.effect == pytest.approx(pairs_above(base, new) / (len(base) * len(new)))
    assert found.chance.of(found.mark) == pytest.approx(found.p)


def test_ties_at_small_n_are_no_regression() -> None:
    """The normal approximation gives 0.033 for these; exact is 0.083."""
    assert ranks.greater([1] * 5, [1, 1, 2, 2, 2]).p == pytest.approx(1 / 12)


def test_the_rank_test_goes_over_to_many_values_without_a_step() -> None:
    base, new = [n % 7 for n in range(50)], [n % 7 + (n % 3 == 0) for n in range(50)]
    exact, near = ranks.greater(base, new).p, ranks.greater([*base, 3], new).p
    assert near == pytest.approx(exact, rel=0.15)


def test_what_is_oftener_is_fishers_test() -> None:
    assert ranks.oftener((0, 5), (4, 5)).p == pytest.approx(comb(5, 4) / comb(10, 4))
    assert ranks.oftener((1, 5), (0, 5)).p == 1
    assert ranks.oftener((0, 5), (0, 5)) == ranks.oftener((5, 5), (5, 5))
    assert ranks.oftener((0, 5), (0, 5)).p == 1


def test_without_ties_adjusted_p_values_are_those_of_benjamini_and_hochberg() -> None:
    made = [ranks.Test(p, 1.0, -p) for p in (0.04, 0.01, 0.5)]
    assert ranks.adjusted(made) == [pytest.approx(0.06), pytest.approx(0.03), pytest.approx(0.5)]
    assert ranks.adjusted([]) == []


def test_a_test_that_cannot_come_out_does_not_weigh_on_others() -> None:
    sure, once = ranks.oftener((0, 5), (5, 5)), ranks.oftener((0, 5), (1, 5))
    assert ranks.adjusted([sure])[0] == ranks.adjusted([sure, *[once] * 30])[0] == pytest.approx(1 / 252)
    nothing = [ranks.oftener((5, 5), (5, 5)), ranks.greater([1, 1], [1, 1])]
    assert ranks.adjusted([sure, *nothing])[0] == ranks.adjusted([*nothing, sure])[-1] == sure.p
    assert ranks.adjusted(nothing) == [1, 1]
    mild = ranks.oftener((2, 5), (3, 5))
    for beside in ([], nothing):
        assert ranks.adjusted([sure, mild, *beside])[0] == pytest.approx(2 / 252)
    again = ranks.oftener((0, 5), (5, 5))
    # Two are expected to come out as far in one of 252 comparisons each, and two did.
    assert ranks.adjusted([sure, again, once])[:2] == [pytest.approx(1 / 252)] * 2


# --- times --------------------------------------------------------------------------------------------


def slower(count: int, ms: float) -> list[RecordedRun]:
    return [run_of(life(patching_ms=ms + number)) for number in range(count)]


def phase(found: object, what: str = "patching, patching") -> object:
    return {each.what: each for each in found.findings if each.kind is Kind.PHASE}[what]


def test_a_longer_phase_with_p_and_effect() -> None:
    found = phase(compared(slower(5, 200), slower(5, 900)))
    assert found.grade is Grade.REGRESSION
    assert (found.base, found.new) == ("202 ms (200 to 204)", "902 ms (900 to 904)")
    assert (found.p, found.effect) == (pytest.approx(1 / 252), 1)


def test_with_too_few_repetitions_a_time_is_told_and_no_regression() -> None:
    found = compared(slower(4, 200), slower(5, 9_000))
    assert phase(found).why == "too few repetitions for a test"
    assert (found.tests, found.regressions) == (0, ())
    assert phase(compared(slower(4, 200), slower(5, 9_000), repetitions=4)).p


def test_a_phase_that_is_hardly_longer_or_shorter_is_nothing_to_tell() -> None:
    assert compared(slower(6, 900), slower(6, 200)).findings == ()
    assert compared(slower(6, 200), slower(6, 260)).findings == ()  # by 60 ms
    assert compared(slower(6, 900), slower(6, 1_100)).findings == ()  # by less than half as much again
    assert phase(compared(slower(6, 200), slower(6, 260), longer_ms=50, longer_by=1.1)).p


def test_the_waits_between_passes_are_no_times() -> None:
    """They are the core's timer; what makes more of them is told by the passes."""
    found = often(run_of(life()), run_of(life(HELD, HELD)))
    assert [each for each in found.findings if each.kind is Kind.PHASE] == []
    assert regressions(found, Kind.PASSES)
    # Nor has the whole of such a transition one, which would be too short without them.
    for trace, known in ((life(), True), (life(HELD), False)):
        times = next(each.times_ns for each in repetitions(run_of(trace)) if each.times_ns)
        assert ("patching, the whole" in times) is ("patching, first pass" in times) is known
        assert {"patching, completion", "unpatching, the whole"} <= set(times)


def drawn(chance: random.Random, plan: PlanResult, name: str, slow: float = 1.0) -> PlanResult:
    """A plan whose phases take other times, as on a host that does other things besides."""
    legs = []
    for leg in plan.transitions:
        host = chance.lognormvariate(0, 0.3)
        own = []
        for each in leg.phases:
            lasted = 300 * MS * host * chance.lognormvariate(0, 0.3)
            if leg.target == 1 and each.name == "first pass":
                lasted *= slow
            own.append(msgspec.structs.replace(each, duration_ns=int(lasted)))
        legs.append(msgspec.structs.replace(leg, phases=tuple(own)))
    return msgspec.structs.replace(plan, name=name, transitions=tuple(legs))


def drawn_set(chance: random.Random, plans: int, slow: float = 1.0) -> list[RecordedRun]:
    whole = run_of(life())
    [plan] = whole.result.plans
    return [
        with_plans(whole, *(drawn(chance, plan, f"plan{n}", 1.0 if n else slow) for n in range(plans)))
        for _ in range(5)
    ]


def test_equal_sets_of_noise_hold_hardly_a_regression_though_many_tests_are_made() -> None:
    chance = random.Random(6)
    found = [compared(drawn_set(chance, 7), drawn_set(chance, 7)) for _ in range(40)]
    # One in twenty is what is promised: of forty, more than five came less than once in fifty times.
    assert sum(bool(each.regressions) for each in found) <= 5
    assert all(each.tests > 50 for each in found)
    # Many would have counted without the adjustment.
    assert sum(any(one.p and one.p <= 0.05 for one in each.findings) for each in found) > 20


def test_a_phase_that_takes_longer_in_one_plan_of_seven_is_found_often() -> None:
    chance = random.Random(6)
    found = [compared(drawn_set(chance, 7), drawn_set(chance, 7, slow=2.0)) for _ in range(40)]
    hits = [each for each in found if regressions(each, Kind.PHASE)]
    assert len(hits) >= 10
    named = [one for each in hits for one in each.regressions]
    right = [one for one in named if one.place.plan == "plan0" and one.what.startswith("patching, ")]
    assert len(right) > 0.75 * len(named)


def test_a_load_on_the_host_falls_out_where_one_phase_is_longer() -> None:
    """All phases vary by a factor of four together, and one of them takes twice its share."""
    base: dict[str, list[float | None]] = {"a": [], "b": [], "the whole": []}
    new: dict[str, list[float | None]] = {"a": [], "b": [], "the whole": []}
    for side, factor in ((base, 1.0), (new, 2.0)):
        for number, host in enumerate((1, 3, 4, 2, 1.5)):
            one, other = 300 * host * factor + number, 300 * host
            for name, lasted in (("a", one), ("b", other), ("the whole", one + other)):
                side[name].append(lasted)
    wholes = {"a": "the whole", "b": "the whole"}
    assert longer(base, new, wholes, 100)["a"].p <= 0.05 < longer(base, new, {}, 100)["a"].p


def test_a_time_that_is_not_known_speaks_for_neither_set() -> None:
    base, new = [100.0, 110.0, 105.0, 102.0, 108.0], [205.0, 190.0, 210.0, 202.0]
    known = longer({"a": base}, {"a": [*new, 207.0]}, {}, 100)["a"]
    missing = longer({"a": base}, {"a": [*new, None]}, {}, 100)["a"]
    assert missing.p <= 0.05
    assert 0 < missing.mark < known.mark


def test_counts_and_times_share_the_false_alarms_that_are_allowed() -> None:
    """Neither pays for the number of the other's tests, and each for that there are two kinds."""

    def runs(ms: float, *log: str) -> list[RecordedRun]:
        return [run_of(life(patching_ms=ms + number), log=log) for number in range(5)]

    alone = phase(compared(runs(200), runs(900)))
    both = compared(runs(200), runs(900, "[ 1.0] a line that is new"))
    beside, line = phase(both), only(both, Kind.MESSAGE)
    assert alone.p_adjusted == alone.p == pytest.approx(1 / 252)
    assert (beside.p, beside.p_adjusted) == (pytest.approx(1 / 252), pytest.approx(2 / 252))
    assert (line.p, line.p_adjusted) == (pytest.approx(1 / 252), pytest.approx(2 / 252))
