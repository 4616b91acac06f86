# SPDX-License-Identifier: Apache-2.0
"""All rules, and the verdicts of a trace on them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import ModuleType

from klp.analysis.evidence import Evidence, overall
from klp.analysis.history import History
from klp.analysis.rules import (
    callback_order,
    callbacks,
    lifecycle,
    passes,
    shadow,
    states,
    switching,
    transition,
)
from klp.analysis.rules.rule import Judged, Needs, Rule, RuleVerdict, verdict_of

__all__ = ["RULES", "Needs", "Rule", "RuleVerdict", "judge_all", "merged"]

_ROOMS: tuple[ModuleType, ...] = (
    transition,
    switching,
    passes,
    shadow,
    callback_order,
    callbacks,
    states,
    lifecycle,
)


def _gathered() -> dict[str, Judged]:
    """Return the rules in the order of their numbers, letter by letter as the rooms have them."""
    found = [each for room in _ROOMS for each in vars(room).values() if isinstance(each, Judged)]
    letters = list(dict.fromkeys(each.rule.id[0] for each in found))
    found.sort(key=lambda each: (letters.index(each.rule.id[0]), int(each.rule.id[1:])))
    return {each.rule.id: each for each in found}


_JUDGED = _gathered()
RULES: dict[str, Rule] = {name: each.rule for name, each in _JUDGED.items()}


def judge_all(history: History, only: Collection[str] = ()) -> tuple[RuleVerdict, ...]:
    """Return the verdict of a trace on every rule, or on those whose ids are in `only`."""
    return tuple(verdict_of(each, history) for name, each in _JUDGED.items() if not only or name in only)


def merged(parts: Sequence[tuple[str, tuple[RuleVerdict, ...]]]) -> tuple[RuleVerdict, ...]:
    """Return what the traces of several guests of one run say together, each named before its words.

    A rule that any of them violates is violated, else one that any of them holds is held: each guest is a
    machine of its own, and its trace stands for itself.
    """
    if len(parts) == 1:
        return parts[0][1]
    return tuple(
        _together([(name, one) for (name, _), one in zip(parts, same, strict=True)])
        for same in zip(*(verdicts for _, verdicts in parts), strict=True)
    )


def _together(same: list[tuple[str, RuleVerdict]]) -> RuleVerdict:
    kind = overall(one.verdict for _, one in same)
    chosen = [(name, one) for name, one in same if one.verdict is kind]
    return RuleVerdict(
        rule=chosen[0][1].rule,
        verdict=kind,
        observations=sum(one.observations for _, one in chosen),
        evidence=tuple(
            Evidence(events=each.events, words=f"{name}: {each.words}")
            for name, one in chosen
            for each in one.evidence
        ),
        why="; ".join(dict.fromkeys(f"{name}: {one.why}" for name, one in chosen)),
    )
