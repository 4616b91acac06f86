# SPDX-License-Identifier: Apache-2.0
"""Events to a ledger of shadow variables (kernel/livepatch/shadow.c).

An allocation is told with the time it began and how long it took; the variable came into the hash at some
moment before its end. So allocations are booked at their end, and one that another CPU freed before that is
recognised by the variable's address. A free is told at its moment, under klp_shadow_lock.

The ledger holds the variables that are alive, and of each object and id what left last; it counts the rest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import msgspec

from klp.analysis.evidence import Evidence, Finding, Tally
from klp.analysis.shadow_counts import KernelCounts
from klp.analysis.shadow_frees import FreeCalls
from klp.analysis.shadow_leaks import Leaks
from klp.analysis.shadow_standing import InHash, Variables
from klp.trace import events as ev


class ShadowVariable(msgspec.Struct, frozen=True, kw_only=True):
    """A variable that is still there: object and id it hangs on, bytes, when and by whom it was made.

    `event` is the number of its allocation, `stack` the number of its `Callers` event, if any.
    """

    obj: str
    id: int
    size: int
    made_ns: int
    caller: str
    event: int = 0
    stack: int | None = None


class ShadowLedger(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the shadow variables in a span of events.

    Attributes:
        allocated: variables made.
        found: get_or_alloc calls that found one.
        refused: allocations that gave none: it existed, or there was no memory, or no construction.
        freed: variables freed.
        strays: variables freed that were not seen being made.
        left: made in this span and not freed in it.
    """

    allocated: int
    found: int
    refused: int
    freed: int
    strays: int
    left: tuple[ShadowVariable, ...]


@dataclass(frozen=True, slots=True)
class ShadowHistory:
    """The ledger of a trace, and what it says on each rule of shadow variables.

    Attributes:
        ledger: what became of the variables.
        findings: by rule id, ``S1`` to ``S9``.
        totals: what the kernel side counted, where it was told.
        stacks: kernel stacks by their numbers.
        leaks: variables that a livepatch left behind; they break S7 where it is known what came and went.
        unsettled: why it is not known of a variable that is left whether it is a leak; empty where it is.
    """

    ledger: ShadowLedger
    findings: dict[str, Finding]
    totals: ev.ShadowTotals | None
    stacks: dict[int, tuple[str, ...]]
    leaks: tuple[Evidence, ...]
    unsettled: str

    @property
    def missing(self) -> int:
        """How many variables the kernel counted as made or freed that no event tells of."""
        if self.totals is None:
            return 0
        seen = self.ledger.allocated + self.ledger.freed
        return max(0, self.totals.made + self.totals.freed - seen)


class LedgerBuilder:
    """Folds numbered events, in the order of time, to a ledger and findings."""

    def __init__(self) -> None:
        self._tallies = {f"S{number}": Tally() for number in range(1, 10)}
        self._variables = Variables()
        self._calls = FreeCalls(self._variables, self._tallies["S6"], self._tallies["S7"])
        self._leaks = Leaks(self._variables)
        self._counts: Counter[str] = Counter()
        self._counted = KernelCounts()
        self._since_ns = 0  # of a span of a trace: when what came before it ended

    def take_before(self, event: ev.AnyEvent) -> None:
        """Add an event of before the span that is to be judged."""
        self._since_ns = max(self._since_ns, event.ts_ns)
        self._counted.take_before(event)
        self._leaks.take_before(event)

    def take(self, number: int, event: ev.AnyEvent) -> None:
        """Add one event."""
        for ended in self._variables.ended_before(event.ts_ns):
            self._allocated(*ended)
        self._calls.pass_time(event.ts_ns)
        if isinstance(event, ev.ShadowFreed):
            self._freed(number, event)
        elif isinstance(event, ev.ShadowAlloc):
            self._begins(event)
            self._variables.begin(number, event)
        elif isinstance(event, ev.ShadowFree):
            self._begins(event)
            self._calls.free(number, event)
        elif isinstance(event, ev.ShadowFreeAll):
            self._begins(event)
            self._calls.free_all(number, event)
        else:
            self._take_other(number, event)

    def _begins(self, call: ev.ShadowAlloc | ev.ShadowFree | ev.ShadowFreeAll) -> None:
        """Note that a task begins a call, so that the one before has ended."""
        self._calls.goes_on(call.task.pid)
        self._variables.goes_on(call.task.pid, call.ts_ns)

    def _take_other(self, number: int, event: ev.AnyEvent) -> None:
        if isinstance(event, ev.ShadowGets | ev.ShadowTotals):
            self._counted.take(number, event)
        elif isinstance(event, ev.ShadowGetWrong):
            self._wrong(number, event)
        else:
            self._leaks.take(number, event)

    def _wrong(self, number: int, event: ev.ShadowGetWrong) -> None:
        words = f"klp_shadow_get({event.obj}, {event.id}) returned {event.returned or 'NULL'}"
        if event.raced:
            words += f", neither NULL nor {event.expected or 'a variable'}, beside a change"
        else:
            words += f", not {event.expected or 'NULL'}"
        self._tallies["S9" if event.raced else "S2"].breach(f"{words}, to {event.caller}", number)

    # --- allocations ------------------------------------------------------------------------------

    def _allocated(self, number: int, event: ev.ShadowAlloc) -> None:
        self._counts[event.result] += 1
        self._judge_uniqueness(number, event)
        self._judge_construction(number, event)
        if event.result == "made":
            self._put_in(number, event)
        elif event.result == "found":
            self._judge_found(number, event)

    def _judge_uniqueness(self, number: int, event: ev.ShadowAlloc) -> None:
        """Judge what one call says. That two made one is proven only when they are freed or found."""
        if event.call == "alloc" and event.result != "failed":
            wrong = event.result == "found" or (event.result == "exists" and event.variable is not None)
            if wrong:
                self._tallies["S1"].breach(_call_words(event), number)
            else:
                self._tallies["S1"].held(number, _call_words, event)
            if event.result == "exists" and not self._may_have_stood(event, None):
                words = f"{_call_words(event)}, though none was there any more"
                self._tallies["S1"].lacking(words, number)
        elif (
            event.call == "get_or_alloc"
            and event.result in ("made", "found")
            and event.variable is not None
        ):
            self._tallies["S3"].held(number, _call_words, event)
        elif event.call == "get_or_alloc" and event.result != "failed":
            self._tallies["S3"].breach(_call_words(event), number)

    def _may_have_stood(self, event: ev.ShadowAlloc, variable: str | None) -> bool:
        known = self._variables.known(event.obj, event.id)
        return not known or self._variables.may_have_stood(event, variable)

    def _judge_found(self, number: int, event: ev.ShadowAlloc) -> None:
        standing = self._variables.of(event.obj, event.id)
        for each in standing:
            if each.variable == event.variable:
                each.owner = self._leaks.owner(event) or each.owner  # it goes on using it
                if len(standing) > 1:
                    self._judge_seen_beside(number, event, each)
                each.seen_begun_ns, each.seen_ended_ns = event.ts_ns, event.ts_ns + event.duration_ns
                return
        if not self._may_have_stood(event, event.variable):
            what = _call_words(event)
            words = (
                f"{what}, where {standing[-1].variable} stood" if standing else f"{what}, which was freed"
            )
            self._tallies["S3"].lacking(words, *(each.number for each in standing), number)
        elif not self._variables.known(event.obj, event.id) and not self._variables.being_made(event):
            self._put_in(number, event)

    def _judge_seen_beside(self, number: int, event: ev.ShadowAlloc, one: InHash) -> None:
        """Judge whether another was made or found while one stood that is found again now.

        It stood from the end of the call that put it in until now: a call that lies wholly between and
        returned another pointer shows that both were there, whenever in its call each was looked for.
        """
        for other in self._variables.of(event.obj, event.id):
            between = one.ended_ns < other.seen_begun_ns and other.seen_ended_ns < event.ts_ns
            if other is not one and between and not (one.unsure or other.unsure):
                one.doubted = False  # so it did not leave when the other came
                words = f"<{event.obj}, {event.id}>: {one.variable} stood beside {other.variable}"
                self._double(words, (one.number, other.number), True, number)

    def _judge_construction(self, number: int, event: ev.ShadowAlloc) -> None:
        if event.ctor:
            if event.result == "made":
                good = event.ctor_calls == 1 and not event.ctor_result
            elif event.result == "failed":  # without a call, there was no memory
                good = event.variable is None and event.ctor_calls <= 1
                good = good and (event.ctor_calls == 0 or bool(event.ctor_result))
            else:
                # It runs under klp_shadow_lock, only after a second look-up there has found no variable.
                good = event.ctor_calls == 0
            if good:
                self._tallies["S4"].held(number, _construction_words, event)
            else:
                self._tallies["S4"].breach(_construction_words(event), number)
        elif event.result == "made" and event.zeroed is not None:
            if event.zeroed:
                self._tallies["S8"].held(number, _zero_words, event)
            else:
                self._tallies["S8"].breach(_zero_words(event), number)

    def _put_in(self, number: int, event: ev.ShadowAlloc) -> None:
        """Add a variable that was made, or one older than the trace that was found."""
        made = event.result == "made"
        one = InHash(
            event.variable or "", number, event.ts_ns, event.ts_ns + event.duration_ns, event.size,
            event.call, event.caller, event.stack, self._leaks.owner(event) if made else None,
            event.ts_ns, event.ts_ns + event.duration_ns, made,
        )  # fmt: skip
        if not self._variables.add(event, one):
            words = f"klpshadow saw no free of {event.variable}, which was made again"
            self._open(words, event.call == "get_or_alloc")

    def _open(self, words: str, racing: bool) -> None:
        """Hold none of the rules that depend on a free that was not seen."""
        for rule in ("S1", "S3", "S7") if racing else ("S1", "S7"):
            self._tallies[rule].gap = words

    # --- frees ------------------------------------------------------------------------------------

    def _freed(self, number: int, event: ev.ShadowFreed) -> None:
        self._counts["freed"] += 1
        last = self._variables.left_last(event.obj, event.id)
        found = self._variables.take_out(number, event)
        by = self._calls.book(number, event)
        self._variables.freed_by(by.pid)
        if event.dtor or event.dtor_calls or by.dtor:
            due = event.dtor if by.dtor is None else by.dtor
            sure = by.dtor is None  # which call it belongs to is known only if none was lost
            if event.dtor_calls == int(due):
                self._tallies["S5"].held(number, _free_words, event)
            else:
                self._tallies["S5"].judge(False, _free_words(event), number, sure=sure)
        if found is None or (isinstance(found, InHash) and not found.made):
            self._counts["strays"] += 1
        if found is not None:
            self._tallies["S7"].good()
            self._judge_beside(number, event, found)
        elif last is not None and last.variable == event.variable:
            self._tallies["S7"].lacking(
                f"{_free_words(event)}, and had been freed before", last.number, number
            )
        elif event.age_ns is not None and event.ts_ns - event.age_ns > self._since_ns:
            # An age means that the probe had seen it made. It is not there any more, so it was freed
            # before; unless it is older than this span, whose ledger began without it.
            self._tallies["S7"].lacking(f"{_free_words(event)}, and was not there any more", number)
        else:
            self._judge_beside(number, event, None)

    def _judge_beside(
        self, number: int, event: ev.ShadowFreed, freed: InHash | ev.ShadowAlloc | None
    ) -> None:
        """Judge whether what was freed stood beside another one of its object and id.

        It did if that was made after it and before this free. If their calls overlapped, or it was not seen
        being made, the other one's free is awaited: that may have been lost.
        """
        begun = freed.number if isinstance(freed, InHash) else number
        if isinstance(freed, InHash) and freed.beside:
            self._double(*freed.beside, number)
        for other in self._variables.of(event.obj, event.id):
            words = f"<{event.obj}, {event.id}>: {event.variable} stood beside {other.variable}"
            calls = {other.call, freed.call if freed else ""}
            if isinstance(freed, InHash) and freed.ended_ns < other.begun_ns:
                self._double(words, (begun, other.number), "get_or_alloc" in calls, number)
            elif other.ended_ns < event.ts_ns:
                other.beside = (words, (begun, other.number), "get_or_alloc" in calls)

    def _double(self, words: str, events: tuple[int, ...], racing: bool, number: int) -> None:
        for rule in ("S1", "S3") if racing else ("S1",):
            self._tallies[rule].lacking(words, *events, number)

    # --- the end ----------------------------------------------------------------------------------

    def built(self) -> ShadowHistory:
        """Return the ledger and the findings; nothing may be added afterwards."""
        for ended in self._variables.ended_before(None):
            self._allocated(*ended)
        self._calls.end()
        self._counted.judge(self._tallies["S2"], self._tallies["S9"])
        for obj, id_, each in self._variables.doubted():
            words = f"klpshadow saw no free of {each.variable} of <{obj}, {id_}>, where another was made"
            self._open(words, each.call == "get_or_alloc")
        return ShadowHistory(
            ledger=self._ledger(),
            findings={rule: tally.finding() for rule, tally in self._tallies.items()},
            totals=self._counted.totals,
            stacks=self._leaks.stacks,
            leaks=tuple(self._leaks.found),
            unsettled=self._leaks.gap(),
        )

    def _ledger(self) -> ShadowLedger:
        left = [
            ShadowVariable(
                obj=obj, id=id_, size=each.size, made_ns=each.begun_ns, caller=each.caller,
                event=each.number, stack=each.stack,
            )
            for obj, id_, each in self._variables.certain() if each.made
        ]  # fmt: skip
        return ShadowLedger(
            allocated=self._counts["made"],
            found=self._counts["found"],
            refused=self._counts["exists"] + self._counts["failed"],
            freed=self._counts["freed"],
            strays=self._counts["strays"],
            left=tuple(sorted(left, key=lambda each: each.made_ns)),
        )


def _call_words(event: ev.ShadowAlloc) -> str:
    return f"{event.call} of <{event.obj}, {event.id}>: {event.result} {event.variable or ''}".rstrip()


def _construction_words(event: ev.ShadowAlloc) -> str:
    what = f"<{event.obj}, {event.id}>: {event.result}, constructor ran {event.ctor_calls} times"
    return what + (f" and returned {event.ctor_result}" if event.ctor_result is not None else "")


def _zero_words(event: ev.ShadowAlloc) -> str:
    zero = "all zero" if event.zeroed else "not all zero"
    return f"<{event.obj}, {event.id}> made without constructor, {zero}"


def _free_words(event: ev.ShadowFreed) -> str:
    return f"<{event.obj}, {event.id}> freed, destructor ran {event.dtor_calls} times"
