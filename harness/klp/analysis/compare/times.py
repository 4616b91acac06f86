# SPDX-License-Identifier: Apache-2.0
"""Which phases of a place's transitions take longer: all of them tested at once, by permutation.

The runs of both sets are shuffled, whole, and of each shuffle only the phase that stands out most is kept.
So a phase counts by how seldom *any* phase of the place stands out as far: that there are many costs
little, and that they depend on each other nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb, log
from statistics import fmean, median, stdev
from typing import Any

from klp.analysis.compare.ranks import ALIKE, Chance, Test, cliffs_delta

# All ways to choose the new set are tried where there are no more; else so many, drawn at random.
_SHUFFLES = 1_999
_SEED = 1
# A guest's phases vary at least so much (as a logarithm, 5 %): less than that makes none stand out further.
_QUIET = 0.05
# Milliseconds below which the clock and the probes say more than the kernel.
_SHORTEST = 0.001

# Milliseconds by phase; None for a repetition of which a phase's time is not known.
Times = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class _Column:
    """Logarithms of one phase's times in all repetitions, the new ones first."""

    phase: str
    values: tuple[float, ...]


def longer(base: Times, new: Times, wholes: Mapping[str, str], least_ms: float) -> dict[str, Test]:
    """Test which phases are longer in `new`.

    The mark of a test is by how much the mean logarithm grew, in standard deviations. Each phase is taken
    twice: as it is, and as a multiple of the rest of its transition, from which falls out what slows all
    phases of it, such as the host's other work. The larger counts.

    Args:
        base, new: the same phases in both; at least two repetitions each.
        wholes: of a phase, the name of the whole that it is a part of.
        least_ms: rests that are never as long measure nothing.
    """
    from scipy import stats  # takes a second to import, and few commands need it

    sizes = _size(new), _size(base)
    columns = [one for phase in new for one in _columns(phase, base, new, wholes, least_ms)]
    if not columns:
        return {}
    quiet = max(_QUIET, median(stdev(each.values) for each in columns))
    rows = list(zip(*(each.values for each in columns), strict=True))
    exact = comb(sum(sizes), sizes[0]) <= _SHUFFLES
    found: Any = stats.permutation_test(
        (rows[: sizes[0]], rows[sizes[0] :]), lambda one, other, axis: _grown(one, other, axis, quiet),
        permutation_type="independent", vectorized=True, alternative="greater",
        n_resamples=comb(sum(sizes), sizes[0]) if exact else _SHUFFLES, axis=0, rng=_SEED,
    )  # fmt: skip
    marks, shuffled = [float(each) for each in found.statistic], found.null_distribution
    # Of shuffles drawn at random, the true order is one more.
    more = 0 if exact else 1
    chance = _chance(shuffled.max(axis=1).tolist(), more)
    tests = {}
    for phase in dict.fromkeys(each.phase for each in columns):
        own = [number for number, each in enumerate(columns) if each.phase == phase]
        mark = max(marks[number] for number in own)
        as_far = int((shuffled[:, own].max(axis=1) >= mark - ALIKE).sum())
        effect = cliffs_delta(*([each for each in side[phase] if each is not None] for side in (base, new)))
        tests[phase] = Test((as_far + more) / (len(shuffled) + more), effect, mark, chance)
    return tests


def _size(times: Times) -> int:
    return max((len(each) for each in times.values()), default=0)


def _columns(
    phase: str, base: Times, new: Times, wholes: Mapping[str, str], least_ms: float
) -> list[_Column]:
    own = [*new[phase], *base[phase]]
    found = [_Column(phase, _logarithms(own))]
    if phase in wholes:
        whole = [*new[wholes[phase]], *base[wholes[phase]]]
        rest = [
            None if one is None or all_ is None else all_ - one
            for one, all_ in zip(own, whole, strict=True)
        ]
        known = [each for each in rest if each is not None]
        if known and median(known) >= least_ms:
            shares = [
                None if one is None or other is None else max(one, _SHORTEST) / max(other, _SHORTEST)
                for one, other in zip(own, rest, strict=True)
            ]
            found.append(_Column(phase, _logarithms(shares)))
    return found


def _logarithms(values: Sequence[float | None]) -> tuple[float, ...]:
    """Return the logarithms; for what is not known the mean of both sets, which speaks for neither."""
    known = [log(max(each, _SHORTEST)) for each in values if each is not None]
    mean = fmean(known)
    return tuple(mean if each is None else log(max(each, _SHORTEST)) for each in values)


def _grown(
    new: Any, base: Any, axis: int, quiet: float
) -> Any:  # arrays of numpy, which only scipy imports
    spread = ((new.var(axis=axis, ddof=1) + base.var(axis=axis, ddof=1)) / 2) ** 0.5
    return (new.mean(axis=axis) - base.mean(axis=axis)) / spread.clip(min=quiet)


def _chance(marks: list[float], more: int) -> Chance:
    """Return the chances of marks that shuffles gave, where so many more than these were as far."""
    marks.sort()
    whole = len(marks) + more
    tails = tuple((each + more) / whole for each in range(len(marks), 0, -1))
    return Chance(tuple(marks), tails, more / whole)
