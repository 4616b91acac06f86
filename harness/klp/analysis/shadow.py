# SPDX-License-Identifier: Apache-2.0
"""Events to a ledger of shadow variables (kernel/livepatch/shadow.c).

An allocation is told with the time it began and how long it took; the variable came into the hash at some
moment before its end. So allocations are booked at their end, and one that another CPU freed before that is
recognised by the variable's address. A free is told at its moment, under klp_shadow_lock.

The ledger holds the variables that are alive, and counts the rest: a trace of a million allocations
takes no more memory than what is alive at once.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from dataclasses import dataclass

import msgspec

from klp.analysis.evidence import Finding, Tally
from klp.analysis.shadow_counts import KernelCounts
from klp.trace import events as ev

_MODULE = re.compile(r"\[(\w+)\]\s*$")
_Key = tuple[str, int]


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
    """

    ledger: ShadowLedger
    findings: dict[str, Finding]
    totals: ev.ShadowTotals | None
    stacks: dict[int, tuple[str, ...]]

    @property
    def missing(self) -> int:
        """How many variables the kernel counted as made or freed that no event tells of."""
        if self.totals is None:
            return 0
        seen = self.ledger.allocated + self.ledger.freed
        return max(0, self.totals.made + self.totals.freed - seen)


def module_of(caller: str) -> str | None:
    """Return the module a caller ``function+0xOFFSET [module]`` lies in; None for the kernel itself."""
    found = _MODULE.search(caller)
    return found[1] if found else None


class _Alive(msgspec.Struct, gc=False):
    """A variable in the hash. There may be a million, which the garbage collector need not go through."""

    variable: str
    number: int
    begun_ns: int
    ended_ns: int
    size: int
    caller: str
    stack: int | None


@dataclass(slots=True)
class _FreeAll:
    """A klp_shadow_free_all that has not returned."""

    number: int
    event: ev.ShadowFreeAll
    freed: int = 0
    shared: bool = False  # another free of the same id overlaps: its frees cannot be told apart

    @property
    def until_ns(self) -> int:
        return self.event.ts_ns + self.event.duration_ns


class LedgerBuilder:
    """Folds numbered events, in the order of time, to a ledger and findings."""

    def __init__(self) -> None:
        self._alive: dict[int, dict[str, _Alive]] = {}
        # Allocations that have not ended yet, by the time of their end.
        self._due: list[tuple[int, int, ev.ShadowAlloc]] = []
        # Second variables of one <obj, id>, by the first one's address: proven once the first is freed.
        self._doubles: dict[tuple[str, int, str], tuple[str, tuple[int, ...]]] = {}
        # Variables that were freed before their allocation had returned.
        self._early: dict[tuple[str, int, str], int] = {}
        self._calls: dict[_Key, list[bool]] = {}  # the frees under way: whether with a destructor
        # Variables that a klp_shadow_free left though they stood: wrong if they stand at the end.
        self._spared: dict[_Key, tuple[str, int]] = {}
        self._free_alls: list[_FreeAll] = []
        self._counts: Counter[str] = Counter()
        self._tallies = {f"S{number}": Tally() for number in range(1, 10)}
        self._counted = KernelCounts()
        self._stacks: dict[int, tuple[str, ...]] = {}
        self._since_ns = 0  # of a span of a trace: when what came before it ended
        self._livepatches: tuple[str, ...] = ()

    def take_before(self, event: ev.AnyEvent) -> None:
        """Add an event of before the span that is to be judged."""
        self._since_ns = max(self._since_ns, event.ts_ns)
        self._counted.take_before(event)
        if isinstance(event, ev.Callers):
            self._stacks[event.stack] = event.frames
        elif isinstance(event, ev.PatchStack):
            self._livepatches = event.patches

    def take(self, number: int, event: ev.AnyEvent) -> None:
        """Add one event."""
        self._pass_time(event.ts_ns)
        if isinstance(event, ev.ShadowAlloc):
            heapq.heappush(self._due, (event.ts_ns + event.duration_ns, number, event))
        elif isinstance(event, ev.ShadowFreed):
            self._freed(number, event)
        elif isinstance(event, ev.ShadowFree):
            self._free(number, event)
        elif isinstance(event, ev.ShadowFreeAll):
            self._free_all(number, event)
        else:
            self._take_other(number, event)

    def _take_other(self, number: int, event: ev.AnyEvent) -> None:
        if isinstance(event, ev.ShadowGets | ev.ShadowTotals):
            self._counted.take(number, event)
        elif isinstance(event, ev.ShadowGetWrong):
            got, wanted = event.returned or "NULL", event.expected or "NULL"
            words = f"klp_shadow_get({event.obj}, {event.id}) returned {got}, not {wanted}"
            self._tallies["S2"].breach(f"{words}, to {event.caller}", number)
        elif isinstance(event, ev.Callers):
            self._stacks[event.stack] = event.frames
        elif isinstance(event, ev.PatchStack):
            self._livepatches = event.patches
        elif isinstance(event, ev.ModuleNotice) and event.action == "going":
            self._going(number, event)

    # --- allocations ------------------------------------------------------------------------------

    def _pass_time(self, now_ns: int) -> None:
        """Book what ended before `now_ns`."""
        while self._due and self._due[0][0] < now_ns:
            _, number, event = heapq.heappop(self._due)
            self._allocated(number, event)
        while self._free_alls and self._free_alls[0].until_ns < now_ns:
            self._free_all_done(self._free_alls.pop(0))

    def _allocated(self, number: int, event: ev.ShadowAlloc) -> None:
        self._counts[event.result] += 1
        before = self._alive.get(event.id, {}).get(event.obj)
        # Alive from before this call to beyond its end, so this call had to find it.
        stood = before if before and before.ended_ns < event.ts_ns else None
        self._judge_uniqueness(number, event, stood)
        self._judge_construction(number, event)
        if event.result == "made":
            self._made(number, event)

    def _judge_uniqueness(self, number: int, event: ev.ShadowAlloc, stood: _Alive | None) -> None:
        what = f"{event.call} of <{event.obj}, {event.id}>: {event.result} {event.variable or ''}".rstrip()
        numbers = (stood.number, number) if stood else (number,)
        twice = event.result == "made" and stood is not None
        if twice and stood:
            # The first stood if its free is told later on. Without that, its free may be what was lost.
            words = f"{what}, while {stood.variable} stood"
            self._doubles[event.obj, event.id, stood.variable] = (words, numbers)
        elif event.call == "alloc":
            wrong = event.result == "found" or (event.result == "exists" and event.variable is not None)
            self._tallies["S1"].judge(not wrong, what, *numbers)
        if event.call == "get_or_alloc" and event.result in ("made", "found"):
            other = event.result == "found" and stood is not None and stood.variable != event.variable
            good = not twice and not other and event.variable is not None
            self._tallies["S3"].judge(good, what, *numbers, sure=False)
        elif event.call == "get_or_alloc" and event.result == "exists":
            self._tallies["S3"].breach(what, *numbers)

    def _judge_construction(self, number: int, event: ev.ShadowAlloc) -> None:
        what = f"<{event.obj}, {event.id}>: {event.result}, constructor ran {event.ctor_calls} times"
        what += f" and returned {event.ctor_result}" if event.ctor_result is not None else ""
        if event.ctor:
            if event.result == "made":
                good = event.ctor_calls == 1 and not event.ctor_result
            elif event.result == "failed":  # without a call, there was no memory
                good = event.variable is None and event.ctor_calls <= 1
                good = good and (event.ctor_calls == 0 or bool(event.ctor_result))
            else:
                # It runs under klp_shadow_lock, only after a second look-up there has found no variable.
                good = event.ctor_calls == 0
            self._tallies["S4"].judge(good, what, number)
        elif event.result == "made" and event.zeroed is not None:
            zero = "all zero" if event.zeroed else "not all zero"
            words = f"<{event.obj}, {event.id}> made without constructor, {zero}"
            self._tallies["S8"].judge(event.zeroed, words, number)

    def _made(self, number: int, event: ev.ShadowAlloc) -> None:
        if self._early.pop((event.obj, event.id, event.variable or ""), None) is not None:
            return  # another CPU freed it before this call had returned
        self._alive.setdefault(event.id, {})[event.obj] = _Alive(
            event.variable or "", number, event.ts_ns, event.ts_ns + event.duration_ns, event.size,
            event.caller, event.stack,
        )  # fmt: skip

    # --- frees ------------------------------------------------------------------------------------

    def _freed(self, number: int, event: ev.ShadowFreed) -> None:
        self._counts["freed"] += 1
        what = f"<{event.obj}, {event.id}> freed, destructor ran {event.dtor_calls} times"
        wanted = self._book(number, event)
        if event.dtor or event.dtor_calls or wanted:
            due = event.dtor if wanted is None else wanted
            sure = wanted is None  # which call it belongs to is known only if none was lost
            self._tallies["S5"].judge(event.dtor_calls == int(due), what, number, sure=sure)
        if double := self._doubles.pop((event.obj, event.id, event.variable), None):
            self._tallies["S1"].lacking(double[0], *double[1], number)
        here = self._alive.get(event.id, {})
        alive = here.get(event.obj)
        if alive and alive.variable == event.variable:
            del here[event.obj]
            self._tallies["S7"].good()
        elif self._is_due(event):
            self._early[event.obj, event.id, event.variable] = number
            self._tallies["S7"].good()
        else:
            self._counts["strays"] += 1
            # An age means that the probe had seen it made. It is not there any more, so it was freed
            # before; unless it is older than this span, whose ledger began without it.
            if event.age_ns is not None and event.ts_ns - event.age_ns > self._since_ns:
                self._tallies["S7"].lacking(f"{what}, and was not there any more", number)

    def _is_due(self, event: ev.ShadowFreed) -> bool:
        return any(
            each.variable == event.variable and each.obj == event.obj and each.id == event.id
            for _, _, each in self._due
        )

    def _free(self, number: int, event: ev.ShadowFree) -> None:
        """Note a klp_shadow_free: what it frees is told next; if nothing, nothing may have stood."""
        key = (event.obj, event.id)
        if event.freed:
            self._calls.setdefault(key, []).append(event.dtor)
            return
        stood = self._alive.get(event.id, {}).get(event.obj)
        if stood and stood.ended_ns < event.ts_ns:
            self._spared[key] = (stood.variable, number)

    def _book(self, number: int, event: ev.ShadowFreed) -> bool | None:
        """Book a free to its klp_shadow_free, or to a free_all under way; return whether that had a dtor.

        None if it cannot be told which call it was.
        """
        if calls := self._calls.pop((event.obj, event.id), []):
            # Several calls for one variable wait for klp_shadow_lock: which of them freed it is not told.
            # Where all have a destructor, or none, it does not matter.
            same = len(set(calls)) == 1
            wanted = calls.pop()
            if calls:
                self._calls[event.obj, event.id] = calls
            for each in self._free_alls:
                each.shared = each.shared or each.event.id == event.id
            return wanted if same else None
        own = [each for each in self._free_alls if each.event.id == event.id]
        if own:
            own[0].freed += 1
            return None if own[0].shared else own[0].event.dtor
        if self._free_alls:
            other = self._free_alls[0]
            words = f"klp_shadow_free_all({other.event.id}) freed <{event.obj}, {event.id}>"
            self._tallies["S6"].lacking(words, other.number, number)
        return None

    def _free_all(self, number: int, event: ev.ShadowFreeAll) -> None:
        opened = _FreeAll(number, event)
        for each in self._free_alls:
            if each.event.id == event.id:
                each.shared = opened.shared = True
        self._free_alls.append(opened)
        self._free_alls.sort(key=lambda each: each.until_ns)

    def _free_all_done(self, done: _FreeAll) -> None:
        event = done.event
        kept = [
            (obj, each)
            for obj, each in self._alive.get(event.id, {}).items()
            if each.ended_ns < event.ts_ns
        ]
        words = f"klp_shadow_free_all({event.id}): {event.count} freed"
        if kept:
            numbers = (done.number, *(each.number for _, each in kept[:3]))
            self._tallies["S6"].lacking(f"{words}, {len(kept)} left: {kept[0][0]}", *numbers)
        elif done.freed != event.count and not done.shared:
            self._tallies["S6"].lacking(f"{words}, {done.freed} told", done.number)
        else:
            self._tallies["S6"].judge(True, words, done.number)

    def _going(self, number: int, event: ev.ModuleNotice) -> None:
        """Report what a module leaves behind, unless another livepatch is there to take it over.

        One that replaces it may go on using its shadow variables, and free them when it goes itself.
        """
        if any(each != event.module for each in self._livepatches):
            return
        for id_, here in self._alive.items():
            for obj, each in here.items():
                if module_of(each.caller) == event.module:
                    age = (event.ts_ns - each.begun_ns) / 1e9
                    words = f"left behind by {event.module}: <{obj}, {id_}>, {age:.3f} s old, {each.caller}"
                    frames = self._stacks.get(each.stack or -1, ())
                    under = f", under {' < '.join(frames[:4])}" if frames else ""
                    self._tallies["S7"].lacking(words + under, each.number, number)

    # --- the end ----------------------------------------------------------------------------------

    def built(self) -> ShadowHistory:
        """Return the ledger and the findings; nothing may be added afterwards."""
        while self._due:
            _, number, event = heapq.heappop(self._due)
            self._allocated(number, event)
        for each in self._free_alls:
            self._free_all_done(each)
        self._counted.judge(self._tallies["S2"], self._tallies["S9"])
        self._judge_spared()
        if self._doubles:
            words, _ = next(iter(self._doubles.values()))
            self._tallies["S1"].gap = f"klpshadow saw no free of the first: {words}"
        return ShadowHistory(
            ledger=self._ledger(),
            findings={rule: tally.finding() for rule, tally in self._tallies.items()},
            totals=self._counted.totals,
            stacks=self._stacks,
        )

    def _judge_spared(self) -> None:
        """Judge what a klp_shadow_free left where it was: right only if another call had just freed it.

        That free is told a moment later, so what counts is whether the variable stands at the end.
        """
        for (obj, id_), (variable, number) in self._spared.items():
            alive = self._alive.get(id_, {}).get(obj)
            words = f"klp_shadow_free of <{obj}, {id_}> left {variable} where it was"
            if alive and alive.variable == variable:
                self._tallies["S7"].lacking(words, alive.number, number)

    def _ledger(self) -> ShadowLedger:
        left = tuple(
            ShadowVariable(
                obj=obj, id=id_, size=each.size, made_ns=each.begun_ns, caller=each.caller,
                event=each.number, stack=each.stack,
            )
            for id_, here in self._alive.items() for obj, each in here.items()
        )  # fmt: skip
        return ShadowLedger(
            allocated=self._counts["made"],
            found=self._counts["found"],
            refused=self._counts["exists"] + self._counts["failed"],
            freed=self._counts["freed"],
            strays=self._counts["strays"],
            left=tuple(sorted(left, key=lambda each: each.made_ns)),
        )
