# SPDX-License-Identifier: Apache-2.0
"""A whole trace as values: what the rules are judged on.

Everything keeps the number of its event, which is its line in events.jsonl. Lines stand in the order in
which events reached the host, which is not that of time: each probe is read on its own. Here all is in
order of time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar, get_args

from klp.analysis.callback_sequence import CallbackSequence
from klp.analysis.calls import FunctionCalls, calls_of
from klp.analysis.evidence import Finding
from klp.analysis.holes import Hole, HoleBuilder
from klp.analysis.legs import Leg, ObjectSeen
from klp.analysis.numbered import began, between
from klp.analysis.shadow import LedgerBuilder, ShadowHistory, ShadowLedger
from klp.analysis.taskfacts import TaskFacts
from klp.analysis.transitions import LegBuilder, Transition, transition_of
from klp.trace import events as ev

E = TypeVar("E", bound=ev.AnyEvent)
_P = TypeVar("_P", ev.Enable, ev.PatchFree)
_Taker = Callable[[int, ev.AnyEvent], None]


@dataclass(frozen=True, slots=True)
class StateHistory:
    """Decisions on system states, and what was asked for."""

    decisions: tuple[tuple[int, ev.Compatible], ...]
    gets: tuple[tuple[int, ev.StateGet], ...]


@dataclass(frozen=True, slots=True)
class StackHistory:
    """klp_patches over time: what was enabled, replaced, freed, and how they lay on each other."""

    enables: tuple[tuple[int, ev.Enable], ...]
    stacks: tuple[tuple[int, ev.PatchStack], ...]
    replaced: tuple[tuple[int, ev.Replaced], ...]
    frees: tuple[tuple[int, ev.PatchFree], ...]
    _enables_of: dict[str, list[tuple[int, ev.Enable]]] = field(init=False, repr=False, compare=False)
    _frees_of: dict[str, list[tuple[int, ev.PatchFree]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort what is asked for by livepatches."""
        object.__setattr__(self, "_enables_of", _by_patch(self.enables))
        object.__setattr__(self, "_frees_of", _by_patch(self.frees))

    def before(self, ts_ns: int) -> tuple[str, ...] | None:
        """Return the livepatches, lowest first, as last told before a moment; None if not, or not all."""
        at = bisect_left(self.stacks, ts_ns, key=began)
        last = self.stacks[at - 1][1] if at else None
        return None if last is None or last.cut else last.patches

    def enabling(self, patch: str, ts_ns: int) -> tuple[int, ev.Enable] | None:
        """Return the klp_enable_patch of `patch` that was under way at a moment."""
        own = self._enables_of.get(patch, [])
        # Under klp_mutex there is one at a time, but others may wait for it: those began later.
        at = bisect_right(own, ts_ns, key=began)
        return own[at - 1] if at and spans(own[at - 1][1], ts_ns) else None

    def freed_before(self, patch: str, ts_ns: int) -> tuple[int, ev.PatchFree] | None:
        """Return the last time that a livepatch was freed before a moment."""
        own = self._frees_of.get(patch, [])
        at = bisect_left(own, ts_ns, key=began)
        return own[at - 1] if at else None


def _by_patch(events: Iterable[tuple[int, _P]]) -> dict[str, list[tuple[int, _P]]]:
    found: dict[str, list[tuple[int, _P]]] = defaultdict(list)
    for each in events:
        found[each[1].patch].append(each)
    return dict(found)


@dataclass(frozen=True, slots=True)
class Observations:
    """What klp itself did and saw in the guest."""

    plans: tuple[tuple[int, ev.Plan], ...]
    steps: tuple[tuple[int, ev.Step], ...]
    sysfs: tuple[tuple[int, ev.Sysfs], ...]
    behaviours: tuple[tuple[int, ev.Behaviour], ...]
    log: tuple[tuple[int, ev.LoggedLine], ...]
    taints: tuple[tuple[int, ev.Taint], ...]
    states: tuple[tuple[int, ev.PatchStates], ...]
    controls: tuple[tuple[int, ev.Control], ...]
    calls: tuple[tuple[int, ev.Calls], ...] = ()

    def calls_of(self, patch: str) -> tuple[FunctionCalls, ...]:
        """Return how often a livepatch's functions ran; empty where nobody counted."""
        return tuple(calls_of(each) for _, each in self.calls if each.patch == patch)


@dataclass(frozen=True, slots=True)
class History:
    """Everything a trace tells.

    Attributes:
        kernel: its release, empty where no probe said.
        headers: each probe's first event, by its name.
        legs: transitions in one direction each, oldest first; `transitions` tells them shorter.
        objects: every patching and unpatching, those by coming and going modules among them.
        strays: steps of a transition where none was under way (before the first init, or after an end).
        shadow, callbacks, states, stack: what the other probes told, each in a value of its own.
        modules: coming and going.
        facts: findings on single events, by rule: T5 and T11.
        ran: which versions of functions ran, by klpconsistency.
        seen: what klp did and saw.
        holes: what this trace cannot show.
        tainted: the kernel's taint flags before the first event, where the events are a span of a trace.
        first_ns, last_ns: times of the first and the last event.
        heard: until when each probe is known to have told all, by its name: its last mark, or its end.
    """

    kernel: str
    headers: dict[str, ev.Header]
    legs: tuple[Leg, ...]
    objects: tuple[ObjectSeen, ...]
    strays: tuple[tuple[int, ev.AnyEvent], ...]
    shadow: ShadowHistory
    callbacks: CallbackSequence
    states: StateHistory
    stack: StackHistory
    modules: tuple[tuple[int, ev.ModuleNotice], ...]
    facts: dict[str, Finding]
    ran: tuple[tuple[int, ev.Ran], ...]
    seen: Observations
    holes: tuple[Hole, ...]
    tainted: str
    first_ns: int
    last_ns: int
    heard: dict[str, int]
    _begins: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _notices: dict[str, tuple[tuple[int, ev.ModuleNotice], ...]] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Sort what is asked for by moments, and by modules."""
        object.__setattr__(self, "_begins", tuple(each.begun_ns for each in self.legs))
        notices: dict[str, list[tuple[int, ev.ModuleNotice]]] = defaultdict(list)
        for each in self.modules:
            notices[each[1].module].append(each)
        object.__setattr__(self, "_notices", {name: tuple(own) for name, own in notices.items()})

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """The transitions as run.json tells them."""
        return tuple(transition_of(each) for each in self.legs)

    @property
    def ledger(self) -> ShadowLedger:
        """The ledger of shadow variables."""
        return self.shadow.ledger

    def told(self, probe: str, *symbols: str) -> bool:
        """Whether a probe was running, and nothing that it had to tell of these functions is lost."""
        return probe in self.headers and not any(
            hole.probe == probe and hole.symbol in ("", *symbols) for hole in self.holes
        )

    def leg_at(self, ts_ns: int) -> Leg | None:
        """Return the leg that had begun last at a moment, whether or not it had ended."""
        at = bisect_right(self._begins, ts_ns)
        return self.legs[at - 1] if at else None

    def leg_after(self, ts_ns: int) -> Leg | None:
        """Return the first leg that began after a moment."""
        at = bisect_right(self._begins, ts_ns)
        return self.legs[at] if at < len(self.legs) else None

    def legs_between(self, from_ns: int, until_ns: int) -> tuple[Leg, ...]:
        """Return the legs that began from a moment on and before another."""
        return self.legs[bisect_left(self._begins, from_ns) : bisect_left(self._begins, until_ns)]

    def replaced_in(self, leg: Leg) -> tuple[tuple[int, ev.Replaced], ...]:
        """Return the livepatches that a leg's own took the place of, until the next leg began."""
        after = self.leg_after(leg.begun_ns)
        found = between(self.stack.replaced, leg.begun_ns, after.begun_ns if after else None)
        return tuple(each for each in found if each[1].by == leg.patch)

    def notices_of(self, module: str) -> tuple[tuple[int, ev.ModuleNotice], ...]:
        """Return when a module came and went, in order."""
        return self._notices.get(module, ())

    def notice_before(self, ts_ns: int, module: str) -> tuple[int, ev.ModuleNotice] | None:
        """Return a module's last notice that had begun at a moment."""
        own = self.notices_of(module)
        at = bisect_right(own, ts_ns, key=began)
        return own[at - 1] if at else None

    def notice_at(self, ts_ns: int, module: str) -> tuple[int, ev.ModuleNotice] | None:
        """Return the notice of a module that the core was handling at a moment."""
        last = self.notice_before(ts_ns, module)
        return last if last and spans(last[1], ts_ns) else None

    def objects_between(self, from_ns: int, until_ns: int) -> tuple[ObjectSeen, ...]:
        """Return what was patched and unpatched from a moment on, and before or at another."""
        begun = bisect_left(self.objects, from_ns, key=_object_began)
        return self.objects[begun : bisect_right(self.objects, until_ns, key=_object_began)]


def _object_began(seen: ObjectSeen) -> int:
    return seen.event.ts_ns


def spans(event: ev.Enable | ev.ModuleNotice | ev.Pass, ts_ns: int) -> bool:
    """Whether a moment lies between a call's beginning and its end."""
    return event.ts_ns <= ts_ns <= event.ts_ns + event.duration_ns


def history(
    events: Iterable[tuple[int, ev.AnyEvent]], before: Iterable[tuple[int, ev.AnyEvent]] = ()
) -> History:
    """Fold numbered events, ordered by time, to their history.

    Args:
        before: what came before the events, where these are a span of a trace. It is no part of the
            history, but it tells what the probes can see, what they had counted by then, which shadow
            variables are older than the span, and how the kernel was tainted.
    """
    builder = _Builder()
    for _, event in before:
        builder.take_before(event)
    builder.take_all(events)
    return builder.built()


# Kinds of events that are kept as they are. Others come by the million, and are judged as they pass.
_KEPT: tuple[type[ev.AnyEvent], ...] = (
    ev.Callback, ev.Compatible, ev.StateGet, ev.Enable, ev.PatchStack, ev.Replaced, ev.PatchFree,
    ev.ModuleNotice, ev.Ran, ev.Plan, ev.Step, ev.Sysfs, ev.Behaviour, ev.LoggedLine, ev.Taint,
    ev.PatchStates, ev.Control, ev.Calls,
)  # fmt: skip
_SHADOW = frozenset(get_args(ev.ShadowEvent))
_TRANSITION = frozenset(get_args(ev.TransitionEvent))
_STEPS_OF_A_TRANSITION = (ev.Start, ev.Pass, ev.Complete, ev.Cancel, ev.Reverse)


class _Builder:
    """Gives each event only to the parts of a history that it concerns: a trace may have a million."""

    def __init__(self) -> None:
        self._legs = LegBuilder()
        self._ledger = LedgerBuilder()
        self._holes = HoleBuilder()
        self._tasks = TaskFacts()
        self._kept: dict[type, list[tuple[int, ev.AnyEvent]]] = {kind: [] for kind in _KEPT}
        self._objects: list[ObjectSeen] = []
        self._functions: list[ev.Function] = []
        self._strays: list[tuple[int, ev.AnyEvent]] = []
        self._tainted = ""
        self._first_ns = 0
        self._last_ns = 0
        # Which livepatches lie on the stack, and which module goes, decide what a shadow variable is:
        # so the ledger is given what is kept as well.
        self._takers: dict[type, _Taker] = {
            **dict.fromkeys(_SHADOW, self._ledger.take),
            **dict.fromkeys(_TRANSITION, self._of_a_transition),
            **dict.fromkeys(_KEPT, self._keep),
            ev.Awaited: self._legs.take,
            ev.Attempt: self._of_a_task,
            ev.Switch: self._of_a_task,
        }

    def take_before(self, event: ev.AnyEvent) -> None:
        """Add an event of before the span: what is judged in it depends on a few of them."""
        if isinstance(event, ev.Header):
            self._holes.take(event)
        elif isinstance(event, ev.Taint):
            self._tainted = event.flags
        self._ledger.take_before(event)

    def take_all(self, events: Iterable[tuple[int, ev.AnyEvent]]) -> None:
        """Add every event of the span."""
        takers, last, first = self._takers, self._holes.last, True
        for number, event in events:
            if first:
                self._first_ns, first = event.ts_ns, False
            self._last_ns = event.ts_ns
            kind = type(event)
            last[event.probe] = kind
            if taker := takers.get(kind):
                taker(number, event)
            else:
                self._holes.take(event)

    def _keep(self, number: int, event: ev.AnyEvent) -> None:
        self._kept[type(event)].append((number, event))
        self._ledger.take(number, event)

    def _of_a_task(self, number: int, event: ev.AnyEvent) -> None:
        self._legs.take(number, event)
        self._tasks.take(number, event)

    def _of_a_transition(self, number: int, event: ev.AnyEvent) -> None:
        # The functions of an object are told just before it, and name no number of its event.
        if isinstance(event, ev.Function):
            self._functions.append(event)
        elif isinstance(event, ev.Object):
            self._objects.append(ObjectSeen(number, event, tuple(self._functions)))
            self._functions.clear()
        elif isinstance(event, _STEPS_OF_A_TRANSITION) and not self._legs.running:
            self._strays.append((number, event))
        self._legs.take(number, event)
        self._tasks.take(number, event)

    def _all(self, kind: type[E]) -> tuple[tuple[int, E], ...]:
        return tuple((number, event) for number, event in self._kept[kind] if isinstance(event, kind))

    def built(self) -> History:
        """Return the history; nothing may be added afterwards."""
        headers = self._holes.headers
        shadow = self._ledger.built()
        return History(
            kernel=next((each.kernel for each in headers.values()), ""),
            headers=headers,
            legs=self._legs.built(),
            objects=tuple(self._objects),
            strays=tuple(self._strays),
            shadow=shadow,
            callbacks=CallbackSequence(self._all(ev.Callback), self._objects, self._all(ev.PatchFree)),
            states=StateHistory(self._all(ev.Compatible), self._all(ev.StateGet)),
            stack=StackHistory(
                self._all(ev.Enable),
                self._all(ev.PatchStack),
                self._all(ev.Replaced),
                self._all(ev.PatchFree),
            ),
            modules=self._all(ev.ModuleNotice),
            facts=self._tasks.built(),
            ran=self._all(ev.Ran),
            seen=self._observations(),
            holes=(*self._holes.built(), *_uncounted(shadow)),
            tainted=self._tainted,
            first_ns=self._first_ns,
            last_ns=self._last_ns,
            heard=self._holes.heard,
        )

    def _observations(self) -> Observations:
        return Observations(
            plans=self._all(ev.Plan),
            steps=self._all(ev.Step),
            sysfs=self._all(ev.Sysfs),
            behaviours=self._all(ev.Behaviour),
            log=self._all(ev.LoggedLine),
            taints=self._all(ev.Taint),
            states=self._all(ev.PatchStates),
            controls=self._all(ev.Control),
            calls=self._all(ev.Calls),
        )


def _uncounted(shadow: ShadowHistory) -> tuple[Hole, ...]:
    if not shadow.missing:
        return ()
    words = f"klpshadow counted {shadow.missing} variables made or freed that no event tells of"
    return (Hole(probe="klpshadow", symbol="", words=words),)
