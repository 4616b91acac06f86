# SPDX-License-Identifier: Apache-2.0
"""What a verdict is made of: observations that were counted, and those that broke a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

import msgspec

_T = TypeVar("_T")
# How many broken observations are kept in words, and how many others; all of them are counted.
KEPT = 20
_SHOWN = 3


class Verdict(StrEnum):
    """The outcome of a rule, of a check, and of what these make up."""

    HELD = "held"
    VIOLATED = "violated"
    NOT_OBSERVED = "not observed"


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen: the numbers of the events (lines of events.jsonl), and words."""

    events: tuple[int, ...]
    words: str


# How many numbers of events are told of one evidence.
_MOST_EVENTS = 6


def evidence_line(evidence: Evidence) -> str:
    """Return the words, with the numbers of the events they are from."""
    numbers = " ".join(f"#{number}" for number in evidence.events[:_MOST_EVENTS])
    more = " …" if len(evidence.events) > _MOST_EVENTS else ""
    return f"{evidence.words} ({numbers}{more})" if numbers else evidence.words


@dataclass(frozen=True, slots=True)
class Finding:
    """What a trace has to say on one rule, before it is weighed against the trace's holes.

    Attributes:
        observations: how often the trace could have shown the rule broken.
        broken: observations that broke it by what was seen, the first `KEPT` of them.
        lacking: observations that broke it by what was not seen, which proves nothing if events were lost.
        gap: what this trace cannot show: it keeps the rule from being held, and excuses what is lacking.
        undecided: what the trace leaves open: it keeps the rule from being held, and excuses nothing.
        shown: a few observations that broke nothing, for the reader.
        why: what was missing, where there is no observation.
    """

    observations: int
    broken: tuple[Evidence, ...] = ()
    shown: tuple[Evidence, ...] = ()
    why: str = ""
    lacking: tuple[Evidence, ...] = ()
    gap: str = ""
    undecided: str = ""


@dataclass(slots=True)
class Tally:
    """Counts observations as they pass, and keeps the broken ones and a few of the others."""

    seen: int = 0
    broken: list[Evidence] = field(default_factory=list)
    lacked: list[Evidence] = field(default_factory=list)
    gap: str = ""
    shown: list[Evidence] = field(default_factory=list)

    def judge(self, good: bool, words: str, *events: int, sure: bool = True) -> None:
        """Count one observation; `words` say what it was.

        If it is not `sure`, something that would excuse it may have been lost: then it breaks the rule only
        in a trace without holes (see `Finding.lacking`).
        """
        if not good and not sure:
            self.lacking(words, *events)
            return
        self.seen += 1
        kept, room = (self.shown, _SHOWN) if good else (self.broken, KEPT)
        if len(kept) < room:
            kept.append(Evidence(events=events, words=words))

    def held(self, number: int, words: Callable[[_T], str], of: _T) -> None:
        """Count one observation that broke nothing; its words are made only if they are kept.

        For what comes by the million.
        """
        self.seen += 1
        if len(self.shown) < _SHOWN:
            self.shown.append(Evidence(events=(number,), words=words(of)))

    def good(self, count: int = 1) -> None:
        """Count observations that broke nothing and need no words."""
        self.seen += count

    def breach(self, words: str, *events: int) -> None:
        """Count one observation that broke the rule."""
        self.judge(False, words, *events)

    def lacking(self, words: str, *events: int) -> None:
        """Count one observation that broke the rule by what was not seen before or after it."""
        self.seen += 1
        if len(self.lacked) < KEPT:
            self.lacked.append(Evidence(events=events, words=words))

    def finding(self, why: str = "") -> Finding:
        """Return what was counted; `why` says what was missing where nothing was."""
        return Finding(self.seen, tuple(self.broken), tuple(self.shown), why, tuple(self.lacked), self.gap)


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Return violated if any is, else held if any is: what could not be observed counts for neither."""
    seen = set(verdicts)
    if Verdict.VIOLATED in seen:
        return Verdict.VIOLATED
    return Verdict.HELD if Verdict.HELD in seen else Verdict.NOT_OBSERVED
