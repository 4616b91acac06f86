# SPDX-License-Identifier: Apache-2.0
"""What the report page shows of runs: which plans and transitions, and their timelines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from klp.analysis.costs import Cost
from klp.analysis.evidence import Verdict, overall
from klp.analysis.recording import RecordedRun, TracedLeg
from klp.analysis.result import PlanResult
from klp.analysis.rule_checks import OTHER_RULES, rule_name
from klp.analysis.transitions import Transition
from klp.report.html_timeline import Timeline, lifetimes_timeline, transition_timeline
from klp.report.html_words import span
from klp.trace.events import PATCHED

# As many transitions of a plan are drawn, the longest ones: a scenario may have a hundred.
MOST_DRAWN = 12
# The legs by livepatch and time, of each guest by its number.
_Traced = dict[tuple[str, int], dict[int, TracedLeg]]


@dataclass(frozen=True, slots=True)
class TransitionView:
    """A transition of run.json, with its timeline where the trace has it; or why there is none."""

    key: str
    transition: Transition
    timeline: Timeline | None
    costs: tuple[Cost, ...] = ()
    why_not: str = "The trace does not hold this transition."


@dataclass(frozen=True, slots=True)
class PlanView:
    """A plan of run.json with its transitions; `key` is its anchor in the page."""

    key: str
    plan: PlanResult
    transitions: tuple[TransitionView, ...]

    @property
    def took(self) -> str:
        """How long it took to patch and to unpatch, in words; what it is, where it does neither."""
        if not self.plan.livepatch:
            return "a plain module, for others to act on"
        found = self.plan.transitions
        patch = [each.duration_ns for each in found if each.target == PATCHED]
        unpatch = [each.duration_ns for each in found if each.target != PATCHED]
        parts = [f"patched: {', '.join(span(each) for each in patch)}"] if patch else []
        return "; ".join(
            [*parts, f"unpatched: {', '.join(span(each) for each in unpatch)}"] if unpatch else parts
        )


@dataclass(frozen=True, slots=True)
class RunView:
    """A run with its plans.

    Attributes:
        key: its anchor in the page.
        others: transitions of livepatches that are not a plan's own, but what it needs.
        lifetimes: its guests' shadow variables.
    """

    key: str
    run: RecordedRun
    plans: tuple[PlanView, ...]
    others: tuple[TransitionView, ...]
    lifetimes: tuple[tuple[str, Timeline], ...]

    @property
    def transitions(self) -> tuple[TransitionView, ...]:
        """Every transition in it."""
        return (*(each for plan in self.plans for each in plan.transitions), *self.others)

    def of(self, plan: str) -> tuple[PlanView, ...]:
        """Return the repetitions of a plan, those with the plan's verdict over all of them first."""
        own = [each for each in self.plans if each.plan.name == plan]
        verdict = overall(each.plan.verdict for each in own)
        return tuple(sorted(own, key=lambda each: each.plan.verdict is not verdict))

    def checks_of(self, plan: PlanResult) -> tuple[tuple[Verdict, str, str], ...]:
        """Return a plan's checks, broken ones first: verdict, what was checked, and what was seen.

        A rule's check is told by the rule's words; those that the trace does not show are in the table of
        all rules.
        """
        texts = {rule_name(each.rule.id): each.rule.text for each in self.run.whole().rules}
        checks = [
            (each.verdict, texts.get(each.name, each.name), each.evidence)
            for each in plan.checks
            if each.name != OTHER_RULES
        ]
        return tuple(sorted(checks, key=lambda each: each[0] is not Verdict.VIOLATED))


def run_view(key: str, run: RecordedRun) -> RunView:
    """Return what the page shows of a run, with `key` before every anchor in it."""
    traced = _traced(run)
    plans = tuple(
        PlanView(f"{key}-plan{index}", plan, tuple(_transitions(f"{key}-plan{index}", plan, traced)))
        for index, plan in enumerate(run.whole().plans, 1)
    )
    lifetimes = tuple(
        (f"{key}-lifetimes{index}", found)
        for index, guest in enumerate(run.guests, 1)
        if (found := lifetimes_timeline(guest))
    )
    return RunView(key, run, plans, tuple(_others(key, run)), lifetimes)


def _others(key: str, run: RecordedRun) -> Iterator[TransitionView]:
    own = {(each.patch, each.begun_ns) for plan in run.whole().plans for each in plan.transitions}
    every = (each for guest in run.guests for each in guest.legs)
    for number, each in enumerate(every, 1):
        if (each.leg.patch, each.leg.begun_ns) not in own:
            yield _drawn(f"{key}-other{number}", each.transition, each)


def _traced(run: RecordedRun) -> _Traced:
    found: _Traced = {}
    for number, guest in enumerate(run.guests, 1):
        for each in guest.legs:
            found.setdefault((each.leg.patch, each.leg.begun_ns), {})[number] = each
    return found


def _transitions(key: str, plan: PlanResult, traced: _Traced) -> Iterator[TransitionView]:
    longest = sorted(plan.transitions, key=lambda each: -(each.duration_ns or 0))[:MOST_DRAWN]
    drawn = {id(each) for each in longest}
    why = f"Drawn are the {MOST_DRAWN} of {len(plan.transitions)} transitions that took longest."
    for number, each in enumerate(plan.transitions, 1):
        name = f"{key}-transition{number}"
        if id(each) in drawn:
            # Guests restored from one state share its clock: so transitions of equal name and time.
            guests = traced.get((each.patch, each.begun_ns), {})
            yield _drawn(name, each, guests.get(plan.guest) or next(reversed(guests.values()), None))
        else:
            yield TransitionView(name, each, None, why_not=why)


def _drawn(key: str, transition: Transition, traced: TracedLeg | None) -> TransitionView:
    if traced is None:
        return TransitionView(key, transition, None)
    # Where a pass finds a task switched, it attempts nothing.
    costs = tuple(each for each in traced.costs if each.result != "already")
    return TransitionView(key, transition, transition_timeline(traced), costs)
