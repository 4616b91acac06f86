# SPDX-License-Identifier: Apache-2.0
"""Which shadow variables stand in the hash, are being made, or have left it, as far as a trace tells.

An allocation is told with the time it began and how long it took: the variable came into the hash at
some moment between. A free is told at its moment, under klp_shadow_lock, just before the variable leaves
the hash: a look-up without the lock may find it a little longer. It is gone for certain once the lock was
taken for the next free, or the task that freed it does something else.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

import msgspec

from klp.trace import events as ev

ShadowKey = tuple[str, int]


class InHash(msgspec.Struct, gc=False):
    """A variable in the hash. There may be a million, which the garbage collector need not go through.

    `owner` is the module that made it or found it last, None where that is not known. One that is not
    `made` is older than the trace: it was found. `beside` tells of a variable of the same object and id
    that left the hash while this one should have stood: words, events, and whether a get_or_alloc made
    one of them. It is proven once this one is freed. One is `doubted` when another was made in its place:
    its free may be what the probe did not see. One is `unsure` if it was freed before its call returned,
    unless that was an older variable of the same address. `seen_begun_ns` and `seen_ended_ns` are of the
    last call that made or found it.
    """

    variable: str
    number: int
    begun_ns: int
    ended_ns: int
    size: int
    call: str
    caller: str
    stack: int | None
    owner: str | None
    seen_begun_ns: int
    seen_ended_ns: int
    made: bool = True
    doubted: bool = False
    unsure: bool = False
    beside: tuple[str, tuple[int, ...], bool] | None = None


class Gone(msgspec.Struct, gc=False):
    """A variable that was freed; from `gone_ns` on no look-up can find it (None: not known yet)."""

    variable: str
    number: int
    gone_ns: int | None = None
    before: tuple[
        Gone, ...
    ] = ()  # of the same object and id, as far as a call under way may have found them


class Variables:
    """The shadow variables of a trace: those in the hash, those on the way into it, and those that left."""

    def __init__(self) -> None:
        self._alive: dict[int, dict[str, tuple[InHash, ...]]] = {}
        self._gone: dict[int, dict[str, Gone]] = {}
        # Allocations that have not ended yet, by the time of their end.
        self._due: list[tuple[int, int, ev.ShadowAlloc]] = []
        # The allocations of those whose variable was freed before they had returned.
        self._early: set[int] = set()
        # Those of them that may have been taken for an older variable of the same address.
        self._unsure: set[int] = set()
        # What was freed last, and by whom: it alone can still be in the hash.
        self._leaving: tuple[Gone, int | None] | None = None

    # --- on the way in ----------------------------------------------------------------------------

    def begin(self, number: int, event: ev.ShadowAlloc) -> None:
        """Note an allocation that has begun."""
        heapq.heappush(self._due, (event.ts_ns + event.duration_ns, number, event))

    def ended_before(self, now_ns: int | None) -> Iterable[tuple[int, ev.ShadowAlloc]]:
        """Return each allocation that ended before a moment (None: all), in the order of their ends."""
        if self._due and (now_ns is None or self._due[0][0] < now_ns):
            return self._ended(now_ns)
        return ()

    def _ended(self, now_ns: int | None) -> Iterator[tuple[int, ev.ShadowAlloc]]:
        while self._due and (now_ns is None or self._due[0][0] < now_ns):
            _, number, event = heapq.heappop(self._due)
            yield number, event

    def add(self, event: ev.ShadowAlloc, one: InHash) -> bool:
        """Put a variable in that a call made or found; return False if its own address stands there.

        Two at once cannot have one address, so the free of the one that stands was not seen.
        """
        here = self._alive.setdefault(event.id, {})
        standing = here.get(event.obj, ())
        if not standing and one.number not in self._early:
            here[event.obj] = (one,)
            return True
        before = tuple(each for each in standing if not each.unsure)
        if one.number in self._early:
            self._early.remove(one.number)
            if before or one.number not in self._unsure:
                return True
            one.doubted = one.unsure = True
        self._unsure.discard(one.number)
        others = tuple(each for each in before if each.variable != one.variable)
        for each in others:
            each.doubted = True
        here[event.obj] = (*others, one)
        return len(others) == len(before)

    # --- on the way out ---------------------------------------------------------------------------

    def take_out(self, number: int, event: ev.ShadowFreed) -> InHash | ev.ShadowAlloc | None:
        """Take a freed variable out; return it, or its allocation that has not returned, or None."""
        found = self._taken(event)
        self._leaves(event.ts_ns)
        gone = Gone(event.variable, number, before=self._left_late(event))
        self._gone.setdefault(event.id, {})[event.obj] = gone
        self._leaving = (gone, None)
        return found

    def _left_late(self, event: ev.ShadowFreed) -> tuple[Gone, ...]:
        """Return what left before, and which a call that is under way may still have found."""
        earlier = self._gone_from(event.obj, event.id)
        if not earlier:
            return ()
        oldest = min((each.ts_ns for _, _, each in self._due), default=event.ts_ns)
        late = tuple(each for each in earlier if each.gone_ns is None or each.gone_ns > oldest)
        for each in late:
            each.before = ()
        return late

    def _taken(self, event: ev.ShadowFreed) -> InHash | ev.ShadowAlloc | None:
        obj, id_ = event.obj, event.id
        standing = self.of(obj, id_)
        found = next((each for each in standing if each.variable == event.variable), None)
        if found:
            self.remove(obj, id_, found)
            if not found.unsure:
                return found
        due = [
            (ended_ns, number, each)
            for ended_ns, number, each in self._due
            if _makes(each, obj, id_, event.variable)
            and (number not in self._early or number in self._unsure)
        ]
        if not due:
            return found
        _, number, first = min(due)
        if number in self._early:
            self._unsure.remove(number)  # so the free before was that of an older one
        elif found or not self.known(obj, id_):
            self._unsure.add(number)
        self._early.add(number)
        return first

    def remove(self, obj: str, id_: int, one: InHash) -> None:
        """Take a variable out that stood, or may have stood, and does no longer."""
        here = self._alive[id_]
        standing = here[obj]
        rest = () if len(standing) == 1 else tuple(each for each in standing if each is not one)
        if rest:
            here[obj] = rest
        else:
            del here[obj]

    def freed_by(self, pid: int | None) -> None:
        """Note which task freed the last variable; idle tasks, which are all of number 0, tell nothing."""
        if self._leaving and pid:
            self._leaving = (self._leaving[0], pid)

    def goes_on(self, pid: int, now_ns: int) -> None:
        """Note that a task began another call: what it freed before has left the hash."""
        if self._leaving and self._leaving[1] == pid:
            self._leaves(now_ns)

    def _leaves(self, now_ns: int) -> None:
        if self._leaving:
            self._leaving[0].gone_ns = now_ns
            self._leaving = None

    # --- what is there ----------------------------------------------------------------------------

    def of(self, obj: str, id_: int) -> tuple[InHash, ...]:
        """Return what stands at an object and id: several where a free was not seen, or it is a fault."""
        here = self._alive.get(id_)
        return here.get(obj, ()) if here else ()

    def certain(self, id_: int | None = None) -> Iterator[tuple[str, int, InHash]]:
        """Yield object and id, of one id or of all, with what stands there; nothing that is doubted."""
        return (each for each in self._each(id_) if not each[2].doubted)

    def doubted(self, id_: int | None = None) -> Iterator[tuple[str, int, InHash]]:
        """Yield object and id, of one id or of all, with what should have left, and was not seen to."""
        return (each for each in self._each(id_) if each[2].doubted and not each[2].unsure)

    def unsure(self, id_: int | None = None) -> Iterator[tuple[str, int, InHash]]:
        """Yield object and id, of one id or of all, with what was freed early, or still stands there."""
        return (each for each in self._each(id_) if each[2].unsure)

    def _each(self, id_: int | None) -> Iterator[tuple[str, int, InHash]]:
        for number in self._alive if id_ is None else (id_,):
            for obj, standing in self._alive.get(number, {}).items():
                for each in standing:
                    yield obj, number, each

    def left_last(self, obj: str, id_: int) -> Gone | None:
        """Return what was freed last of an object and id."""
        gone = self._gone.get(id_)
        return gone.get(obj) if gone else None

    def _gone_from(self, obj: str, id_: int) -> tuple[Gone, ...]:
        last = self.left_last(obj, id_)
        return (last, *last.before) if last else ()

    def known(self, obj: str, id_: int) -> bool:
        """Whether the trace has told what stood at an object and id, so that nothing older can be there."""
        return self.left_last(obj, id_) is not None or bool(self.of(obj, id_))

    def being_made(self, event: ev.ShadowAlloc) -> bool:
        """Whether what a call found is a variable that another call makes, which has not returned."""
        return any(_makes(each, event.obj, event.id, event.variable) for *_, each in self._due)

    def may_have_stood(self, event: ev.ShadowAlloc, variable: str | None) -> bool:
        """Whether a variable (None: any) can have been in the hash at some moment of a call."""
        obj, id_ = event.obj, event.id
        if any(variable in (None, each.variable) for each in self.of(obj, id_)):
            return True
        if any(_makes(each, obj, id_, variable or each.variable) for *_, each in self._due):
            return True
        return any(
            variable in (None, each.variable) and (each.gone_ns is None or each.gone_ns > event.ts_ns)
            for each in self._gone_from(obj, id_)
        )


def _makes(event: ev.ShadowAlloc, obj: str, id_: int, variable: str | None) -> bool:
    return event.result == "made" and (event.obj, event.id, event.variable) == (obj, id_, variable)
