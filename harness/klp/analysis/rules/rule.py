# SPDX-License-Identifier: Apache-2.0
"""What a rule is, and how a finding becomes its verdict."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from klp.analysis.evidence import Evidence, Finding, Verdict
from klp.analysis.history import History
from klp.analysis.holes import bare

Judge = Callable[[History], Finding]

# klp itself: no probe that may be absent. Where it wrote nothing, there is nothing to observe.
_HARNESS = "klp"


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule depends on: the probes, and the kernel functions they must have a probe point for."""

    probes: tuple[str, ...]
    symbols: tuple[str, ...]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One statement of the livepatch documentation or source that a trace can satisfy or violate.

    Attributes:
        id: such as ``T4``.
        text: the statement.
        source: the kernel function it is from, and the document.
        needs: what must have been seen for a verdict.
    """

    id: str
    text: str
    source: str
    needs: Needs


class RuleVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """A rule's outcome in one trace.

    Attributes:
        rule: the rule.
        verdict: never held on no observation, nor on a trace with a hole in what the rule needs.
        observations: how often the trace could have shown it broken.
        evidence: of a violated rule what broke it, of any other a few of the observations.
        why: what it rests on, or why there is no verdict.
    """

    rule: Rule
    verdict: Verdict
    observations: int
    evidence: tuple[Evidence, ...]
    why: str


class Judged(msgspec.Struct, frozen=True):
    """A rule and the function that judges it."""

    rule: Rule
    judge: Judge


def rule(id_: str, text: str, source: str, probes: str, symbols: str = "") -> Callable[[Judge], Judged]:
    """Make a rule of a function; `probes` and `symbols` are names with blanks between them."""

    def made(judge: Judge) -> Judged:
        needs = Needs(probes=tuple(probes.split()), symbols=tuple(symbols.split()))
        return Judged(Rule(id=id_, text=text, source=source, needs=needs), judge)

    return made


def holes_for(wanted: Rule, history: History) -> list[str]:
    """Return in words what a trace lacks of what a rule needs."""
    needs = wanted.needs
    symbols = {bare(each) for each in needs.symbols}
    absent = [
        f"{probe} was not running"
        for probe in needs.probes
        if probe != _HARNESS and probe not in history.headers
    ]
    lacking = (
        hole.words
        for hole in history.holes
        if hole.probe in needs.probes and (not hole.symbol or hole.symbol in symbols)
    )
    return absent + list(dict.fromkeys(lacking))


def verdict_of(judged: Judged, history: History) -> RuleVerdict:
    """Weigh what a trace says on a rule against what it cannot show."""
    found, holes = judged.judge(history), holes_for(judged.rule, history)
    if found.gap:
        holes.append(found.gap)
    # What was not seen breaks no rule in a trace with holes: the missing event may have been lost.
    broken = found.broken if holes else (*found.broken, *found.lacking)
    if broken:
        kind, why, evidence = Verdict.VIOLATED, broken[0].words, broken
    elif not holes and not found.undecided and found.observations:
        kind, why, evidence = Verdict.HELD, f"{found.observations} observations", found.shown
    else:
        why = (
            "; ".join([*holes, *filter(None, [found.undecided])])
            or found.why
            or "nothing in this trace could have shown it"
        )
        kind, evidence = Verdict.NOT_OBSERVED, found.lacking or found.shown
    return RuleVerdict(
        rule=judged.rule, verdict=kind, observations=found.observations, evidence=evidence, why=why
    )
