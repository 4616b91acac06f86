# SPDX-License-Identifier: Apache-2.0
"""The values of a comparison, as `klp compare --json` writes them."""

from __future__ import annotations

from enum import StrEnum

import msgspec

COMPARISON_SCHEMA = 1


class Kind(StrEnum):
    """What a finding is about; counts stand before times."""

    ENDED_EARLY = "ended early"
    VERDICT = "verdict"
    TRANSITIONS = "transitions"
    OUTCOME = "outcome"
    STRAGGLER = "straggler"
    PASSES = "passes"
    CALLBACKS = "callbacks"
    LEAK = "leak"
    CALLS = "calls"
    MESSAGE = "kernel message"
    PHASE = "phase"


class Grade(StrEnum):
    """Whether a difference is held against the new set."""

    REGRESSION = "regression"
    TOLD = "told"
    BETTER = "better"


class CompareLimits(msgspec.Struct, frozen=True, kw_only=True):
    """From where on a difference is a regression; the settings ``compare_…`` have the same names.

    Attributes:
        alpha: the p value, adjusted for the number of tests, up to which a difference counts.
        effect: Cliff's delta from which on it does: 0 no difference, 1 all new values above all base ones.
        repetitions: repetitions that each set must have for a test to count.
        passes: passes more than the base's most that count without a test, in two repetitions and more.
        longer_ms: milliseconds by which the median of a phase must have grown.
        longer_by: and the factor.
        ignore: regular expression, found in kernel messages that never count; empty for none.
    """

    alpha: float = 0.05
    effect: float = 0.5
    repetitions: int = 5
    passes: int = 2
    longer_ms: float = 100.0
    longer_by: float = 1.5
    ignore: str = ""


class Place(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What was repeated: a plan of a run, or a scenario of a check, on a kernel.

    `livepatch` and `scenario` are empty for a plan of `klp run`, `plan` for a scenario, and where the whole
    trace is meant.
    """

    kernel: str
    livepatch: str = ""
    scenario: str = ""
    plan: str = ""

    def told(self) -> str:
        """Return it in words."""
        named = (self.livepatch, self.scenario, self.plan)
        return " ".join(
            each for each in (self.kernel, *(named if any(named) else ("the whole trace",))) if each
        )


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One difference.

    Attributes:
        what: what differs, in words.
        base, new: how it was in each set, in words.
        why: why it is graded so.
        p: of the test, before adjustment; null where none was made.
        p_adjusted: for all tests of the comparison, those of counts and those of times apart.
        effect: Cliff's delta of numbers and times, or the difference of two shares; null without a test.
        runs: the runs of the new set that show it.
    """

    kind: Kind
    grade: Grade
    place: Place
    what: str
    base: str
    new: str
    why: str
    p: float | None = None
    p_adjusted: float | None = None
    effect: float | None = None
    runs: tuple[str, ...] = ()


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A place that both sets have, with the repetitions of it in each."""

    place: Place
    base: int
    new: int


class SetSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two sets: its runs, its kernels by release and kind, and its accelerators."""

    runs: tuple[str, ...]
    kernels: tuple[str, ...]
    accelerators: tuple[str, ...]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """All differences, what is held against the new set first.

    Attributes:
        compared: what both sets have; never empty.
        tests: how many tests could have become significant.
        notes: what could not be compared, or told, in words.
    """

    schema: int
    base: SetSummary
    new: SetSummary
    limits: CompareLimits
    compared: tuple[Compared, ...]
    tests: int
    findings: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def regressions(self) -> tuple[Difference, ...]:
        """What became worse."""
        return tuple(each for each in self.findings if each.grade is Grade.REGRESSION)
