# SPDX-License-Identifier: Apache-2.0
"""A small model of kernel/livepatch/shadow.c: tasks call it, and klpshadow's events of that come out.

Calls of several tasks go on step by step, in any order. What happens under klp_shadow_lock is done by one
task at a time; a look-up without the lock can find a variable that is just leaving. A model may have one
`Fault`, which happens once, at a moment that is drawn. It is one that a trace can show: where a call that
overlaps would excuse the kernel, the fault waits for another occasion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from klp.trace import events as ev
from tests.unit.traces import Trace, task

# Equal in their low bits, neighbours, none and all ones: what a comparison of a part takes for one another.
IDS = (1, 1 + 2**16, 1 + 2**32, 1 + 2**63, 0, 2**64 - 1)
OBJECTS = (0xFFFF888000001000, 0xFFFF888000001010, 0xFFFF888100001000)
LIVEPATCHES = ("p", "q", "r")

Variable = tuple[int, int]
Steps = Generator[None, None, None]


class Fault(Enum):
    """What a kernel, or a livepatch, does wrong once: the rule that it breaks, and words."""

    MADE_BESIDE = "S1", "klp_shadow_alloc makes a second variable of an object and id"
    EXISTING_RETURNED = "S1", "klp_shadow_alloc returns the existing variable"
    REFUSED_FOR_NOTHING = "S1", "klp_shadow_alloc says that a variable exists which was freed"
    GET_WRONG = "S2", "klp_shadow_get returns NULL for a variable that stands"
    RACED_BESIDE = "S3", "klp_shadow_get_or_alloc makes a second variable of an object and id"
    FOUND_OTHER = "S3", "klp_shadow_get_or_alloc returns another pointer than the existing one"
    FOUND_FREED = "S3", "klp_shadow_get_or_alloc returns a variable that was freed"
    CONSTRUCTED_TWICE = "S4", "a constructor runs twice"
    CONSTRUCTED_FOUND = "S4", "a constructor runs for a variable that exists"
    NOT_CONSTRUCTED = "S4", "a constructor does not run"
    DESTRUCTED_TWICE = "S5", "a destructor runs twice"
    NOT_DESTRUCTED = "S5", "a destructor does not run"
    FREED_PART_EQUAL = (
        "S6",
        "klp_shadow_free_all also frees a variable whose id is equal in its low 16 bits",
    )
    FREE_ALL_LEFT_ONE = "S6", "klp_shadow_free_all leaves a variable"
    FREED_TWICE = "S7", "a variable is freed twice"
    FREE_LEFT_IT = "S7", "klp_shadow_free leaves the variable"
    LEFT_BEHIND = "S7", "a livepatch goes and leaves a variable, and no other livepatch is there"
    NOT_ZEROED = "S8", "data without constructor is not zeroed"
    RACED_GET_WRONG = (
        "S9",
        "klp_shadow_get beside a change returns what is no variable of that object and id",
    )


class Choices:
    """Bytes from which decisions are made; once they are used up, each is the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._next = 0

    def __call__(self, below: int) -> int:
        self._next += 1
        return self._data[self._next - 1] % below if self.more() else 0

    def more(self) -> bool:
        return self._next < len(self._data)


@dataclass(slots=True)
class Freed:
    """What left an object and id last, by which task, as which free, and whether that is clear."""

    variable: int
    pid: int
    serial: int
    clear: bool


@dataclass
class Shadows:
    """The model.

    Attributes:
        draw: whence its decisions come.
        fault: what it does wrong; None for a right kernel and right livepatches.
        wait: how many occasions for the fault pass by before it happens.
        old: variables that stood before the trace.
    """

    draw: Choices
    fault: Fault | None = None
    wait: int = 0
    old: tuple[Variable, ...] = ()
    trace: Trace = field(default_factory=Trace)
    happened: bool = False
    calls: dict[int, tuple[str, Steps]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._hash: dict[Variable, list[int]] = {}
        self._leaving: dict[Variable, int] = {}
        self._holder: int | None = None  # of klp_shadow_lock
        self._born: dict[int, int] = {}
        self._returned: dict[int, int] = {}  # when the call had returned that made a variable
        self._freed: dict[Variable, Freed] = {}
        self._frees_ns: list[int] = []
        self._allocating: dict[int, Variable] = {}
        self._freeing: set[int] = set()  # tasks within klp_shadow_free or klp_shadow_free_all
        self._spare: list[int] = []
        self._addresses = 0
        self._changes = 0  # begun or ended so far
        self._counts: Counter[str] = Counter()
        self._gets: dict[int, Counter[str]] = {}
        for key in self.old:
            self._hash[key] = [self._address()]

    # --- time, memory, chance -------------------------------------------------------------------------

    def _tick(self) -> int:
        self.trace.now += 1 + self.draw(40)
        return self.trace.now

    def _wrong(self, fault: Fault, possible: bool = True) -> bool:
        """Whether the fault happens now, where this is an occasion."""
        if fault is not self.fault or self.happened or not possible:
            return False
        self.wait -= 1
        self.happened = self.wait < 0
        return self.happened

    def _address(self) -> int:
        """Allocate: what was freed last comes again, as slab caches have it."""
        if self._spare and self.draw(3):
            return self._spare.pop()
        self._addresses += 1
        return 0xFFFF888200000000 + 64 * self._addresses

    def _look_up(self, key: Variable) -> int | None:
        """klp_shadow_get: what is leaving may still be found."""
        standing = self._hash.get(key)
        return standing[-1] if standing else self._leaving.get(key)

    def _settled(self, key: Variable, ts_ns: int) -> bool:
        """Whether a variable stands, and the call that made it had returned before a moment."""
        standing = self._hash.get(key, ())
        return bool(standing) and all(self._returned.get(each, ts_ns) < ts_ns for each in standing)

    def _sure(self, key: Variable, ts_ns: int) -> bool:
        """Whether it stands settled, and the trace has told of no older one."""
        return key not in self.old and self._settled(key, ts_ns)

    def _lock(self, pid: int) -> Steps:
        while self._holder is not None:
            yield
        self._holder = pid

    def _pause(self) -> Steps:
        """Let others go on, but not between a fault and what shows it."""
        if not self.happened:
            yield

    def _tell(self, kind: type[Any], ts_ns: int, **fields: Any) -> None:
        self.trace.put(kind, at=ts_ns, **fields)

    # --- allocations ----------------------------------------------------------------------------------

    def alloc(self, pid: int, caller: str, call: str, key: Variable, ctor: str) -> Steps:
        """klp_shadow_alloc or klp_shadow_get_or_alloc; `ctor` is "none", "works" or "fails"."""
        begun = self._tick()
        self._allocating[pid] = key
        yield
        variable, result = self._look_up(key), "found"
        raced = call == "get_or_alloc"
        blind = Fault.RACED_BESIDE if raced else Fault.MADE_BESIDE
        if variable is None or self.fault is blind:
            yield from self._lock(pid)
            variable, result = self._add(pid, begun, raced, key, ctor)
            self._holder = None
            yield from self._pause()
        if result == "found" and not raced:
            variable, result = (variable if self._wrong(Fault.EXISTING_RETURNED) else None), "exists"
        elif result == "found" and self._wrong(Fault.FOUND_OTHER, self._settled(key, begun)):
            variable = 0xFFFF8882FFFFFF00
        self._tell_alloc(pid, caller, begun, call, key, ctor, result, variable)
        del self._allocating[pid]

    def _add(self, pid: int, begun: int, raced: bool, key: Variable, ctor: str) -> tuple[int | None, str]:
        """Do what is done under the lock: look again, construct, add."""
        self._changes += 1
        self._tick()
        blind, stale = (
            (Fault.RACED_BESIDE, Fault.FOUND_FREED)
            if raced
            else (Fault.MADE_BESIDE, Fault.REFUSED_FOR_NOTHING)
        )
        result, variable = "found", self._look_up(key)
        if variable is None and self._wrong(stale, self._gone(key, pid, begun)):
            variable = self._freed[key].variable
        elif variable is None or self._wrong(blind, ctor != "fails" and self._sure(key, begun)):
            result, variable = ("failed", None) if ctor == "fails" else ("made", self._make(key))
        self._changes += 1
        return variable, result

    def _gone(self, key: Variable, pid: int, ts_ns: int) -> bool:
        """Whether a trace shows that what was freed here had left before a moment, and nothing is made."""
        last = self._freed.get(key)
        if last is None or not last.clear or list(self._allocating.values()).count(key) > 1:
            return False
        return last.pid == pid or any(each <= ts_ns for each in self._frees_ns[last.serial + 1 :])

    def _make(self, key: Variable) -> int:
        variable = self._address()
        self._hash.setdefault(key, []).append(variable)
        self._born[variable] = self.trace.now
        self._returned[variable] = 2**62
        return variable

    def _tell_alloc(
        self, pid: int, caller: str, begun: int, call: str, key: Variable, ctor: str, result: str,
        variable: int | None,
    ) -> None:  # fmt: skip
        given = ctor != "none"
        ran = int(given and result in ("made", "failed"))
        ran += given and result == "made" and self._wrong(Fault.CONSTRUCTED_TWICE)
        ran -= given and result == "made" and self._wrong(Fault.NOT_CONSTRUCTED)
        ran += given and result in ("found", "exists") and self._wrong(Fault.CONSTRUCTED_FOUND)
        plain = result == "made" and not given
        ended = self._tick()
        if result == "made" and variable in self._returned:
            self._returned[variable] = ended
        self._counts[result] += 1
        self._tell(
            ev.ShadowAlloc, begun, call=call, obj=hex(key[0]), id=key[1], size=8, flags=0, ctor=given,
            ctor_calls=ran, ctor_result=(-22 if result == "failed" else 0) if ran else None, result=result,
            variable=None if variable is None else hex(variable), caller=f"f+0x1 [{caller}]", stack=None,
            zeroed=not self._wrong(Fault.NOT_ZEROED) if plain else None, duration_ns=ended - begun,
            task=task(pid),
        )  # fmt: skip

    # --- frees ----------------------------------------------------------------------------------------

    def free(self, pid: int, caller: str, key: Variable, dtor: bool) -> Steps:
        """klp_shadow_free."""
        begun = self._tick()
        self._freeing.add(pid)
        yield
        yield from self._lock(pid)
        told = left = None
        if self._hash.get(key):
            left = self._wrong(Fault.FREE_LEFT_IT, self._sure(key, begun))
            told = None if left else (yield from self._take_out(pid, key, dtor))
        elif self._wrong(Fault.FREED_TWICE, key in self._freed and self._freed[key].clear):
            told = self._free_struct(key, self._freed[key].variable, dtor, None)
        self._holder = None
        yield from self._pause()
        # One event of the kernel's side makes two: what was freed, and the call.
        if told:
            self._tell(ev.ShadowFreed, **told)
        self._tell(
            ev.ShadowFree, begun, obj=hex(key[0]), id=key[1], dtor=dtor, freed=told is not None,
            caller=f"g+0x1 [{caller}]", task=task(pid),
        )  # fmt: skip
        self._freeing.discard(pid)
        if left:  # the next call of the task shows that this one is over
            yield from self.alloc(pid, caller, "alloc", key, "none")

    def free_all(self, pid: int, caller: str, id_: int, dtor: bool) -> Steps:
        """klp_shadow_free_all."""
        begun = self._tick()
        self._freeing.add(pid)
        yield
        yield from self._lock(pid)
        count = 0
        for key in list(self._hash):
            own = key[1] == id_
            settled = self._sure(key, begun)
            if own and self._wrong(Fault.FREE_ALL_LEFT_ONE, settled):
                continue
            like = key[1] % 2**16 == id_ % 2**16 and not own and self._freeing == {pid}
            if own or self._wrong(Fault.FREED_PART_EQUAL, like):
                while self._hash.get(key):
                    self._tell(ev.ShadowFreed, **(yield from self._take_out(pid, key, dtor)))
                    count += 1
        self._holder = None
        yield from self._pause()
        self._tell(
            ev.ShadowFreeAll, begun, id=id_, dtor=dtor, count=count, duration_ns=self._tick() - begun,
            caller=f"g+0x9 [{caller}]", task=task(pid),
        )  # fmt: skip
        self._freeing.discard(pid)

    def _take_out(self, pid: int, key: Variable, dtor: bool) -> Generator[None, None, dict[str, Any]]:
        self._changes += 1
        standing = self._hash[key]
        variable = standing.pop(self.draw(len(standing)))
        if not standing:
            del self._hash[key]
        early = self._returned.get(variable, 0) > self.trace.now
        born = None if early else self._born.get(variable)  # the probe notes it as the call returns
        clear = born is not None and self._freeing == {pid}
        told = self._free_struct(key, variable, dtor, born)
        self._leaving[key] = variable
        yield from self._pause()
        del self._leaving[key]
        self._changes += 1
        self._freed[key] = Freed(variable, pid, len(self._frees_ns) - 1, clear)
        self._spare.append(variable)
        self._tick()
        return told

    def _free_struct(self, key: Variable, variable: int, dtor: bool, born: int | None) -> dict[str, Any]:
        """klp_shadow_free_struct, told at its entry; of one freed twice nobody knows the age."""
        now = self._tick()
        self._frees_ns.append(now)
        self._counts["freed"] += 1
        ran = int(dtor)
        ran += dtor and self._wrong(Fault.DESTRUCTED_TWICE)
        ran -= dtor and self._wrong(Fault.NOT_DESTRUCTED)
        return {
            "ts_ns": now, "obj": hex(key[0]), "id": key[1], "variable": hex(variable), "dtor": dtor,
            "age_ns": None if born is None else now - born, "dtor_calls": ran,
        }  # fmt: skip

    # --- gets -----------------------------------------------------------------------------------------

    def get(self, pid: int, caller: str, key: Variable) -> Steps:
        """klp_shadow_get, judged as the kernel's side of the probe does."""
        begun, before = self._tick(), self._changes
        yield
        found = self._look_up(key)
        yield
        kind, returned = ("absent" if found is None else "found"), found
        if before % 2 or self._changes != before:
            wrong = self._wrong(Fault.RACED_GET_WRONG)
            kind, returned = ("raced_wrong", 0xFFFF8882FFFFFF00) if wrong else ("raced_right", found)
        elif found is not None and key not in self.old and self._wrong(Fault.GET_WRONG):
            kind, returned = "wrong", None
        self._gets.setdefault(key[1], Counter())[kind] += 1
        if returned != found:
            self._tell(
                ev.ShadowGetWrong, begun, obj=hex(key[0]), id=key[1], caller=f"h+0x1 [{caller}]",
                returned=None if returned is None else hex(returned), raced=kind == "raced_wrong",
                expected=None if found is None else hex(found), task=task(pid),
            )  # fmt: skip

    # --- livepatches ----------------------------------------------------------------------------------

    def come(self, name: str) -> None:
        """A livepatch is loaded and enabled."""
        self._tick()
        self.trace.module(name, "coming", livepatch=True)
        self.trace.stack.append(name)
        self.trace.stacked("enable")

    def go(self, name: str) -> None:
        """A livepatch is disabled and removed; the last one frees what is there, its own and others'."""
        self._tick()
        made = any(self._settled(key, self.trace.now) for key in self._hash if key not in self.old)
        last = self.trace.stack == [name]
        if last and not self._wrong(Fault.LEFT_BEHIND, made):
            for id_ in {key[1] for key in self._hash}:
                list(self.free_all(1, name, id_, False))
        self.trace.stack.remove(name)
        self.trace.stacked("free")
        self._tick()
        self.trace.module(name, "going", livepatch=True)

    def tell_counts(self) -> None:
        """What the kernel's side counted."""
        for id_, counts in self._gets.items():
            none = dict.fromkeys(("found", "absent", "racing", "wrong", "unknown"), 0)
            self._tell(ev.ShadowGets, self._tick(), id=id_, **{**none, **counts})
        totals = {name: self._counts[name] for name in ("made", "found", "exists", "failed", "freed")}
        self._tell(ev.ShadowTotals, self._tick(), **totals)
