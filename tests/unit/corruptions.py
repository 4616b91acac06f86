# SPDX-License-Identifier: Apache-2.0
"""Faults of a kernel, each put into a trace in one place: what each rule of transitions must notice.

Those of the other rules are in `corruptions_callbacks` and `corruptions_life`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from klp.analysis.history import history
from klp.analysis.legs import Leg, LegOutcome
from klp.trace import events as ev
from tests.unit.traces import Trace

T = TypeVar("T")
E = TypeVar("E", bound=ev.AnyEvent)
SWITCHED = ("first pass", "retry pass", "exit", "idle", "scheduler", "force", "offline")


class NoPlace(Exception):
    """The trace has no place for a corruption."""


class Scene:
    """A trace to change in one place; numbers are those of its events."""

    def __init__(self, trace: Trace, chance: random.Random) -> None:
        self.trace, self._chance = trace, chance
        self.history = history(trace.numbered())
        self.legs = self.history.legs

    def pick(self, among: Iterable[T]) -> T:
        """Return one of these; raise NoPlace where there is none."""
        those = list(among)
        if not those:
            raise NoPlace
        return self._chance.choice(those)

    def all(self, kind: type[E]) -> list[tuple[int, E]]:
        """Return the events of a kind."""
        return [(n, each) for n, each in enumerate(self.trace.events, 1) if isinstance(each, kind)]

    def within(self, leg: Leg, kind: type[E]) -> list[tuple[int, E]]:
        """Return the events of a kind from a leg's beginning to its end."""
        return [(n, each) for n, each in self.all(kind) if leg.begun_ns <= each.ts_ns <= leg.last_ns]

    def set(self, number: int, **fields: Any) -> None:
        """Change fields of an event; ``core_NAME`` is one of its core."""
        event: Any = self.trace.events[number - 1]
        core = {name[5:]: value for name, value in fields.items() if name.startswith("core_")}
        if core:
            fields["core"] = msgspec.structs.replace(event.core, **core)
        own = {name: value for name, value in fields.items() if not name.startswith("core_")}
        self.trace.events[number - 1] = msgspec.structs.replace(event, **own)

    def more(self, number: int, **counts: int) -> None:
        """Add to counts of an event."""
        event = self.trace.events[number - 1]
        self.set(number, **{name: getattr(event, name) + count for name, count in counts.items()})

    def add(self, kind: type[E], /, at: int, **fields: Any) -> None:
        """Put an event more, at its time."""
        self.trace.put(kind, at=at, **fields)
        end_last(self.trace)

    def drop(self, *numbers: int) -> None:
        """Take events away, so that their streams are whole."""
        self.trace.events = [each for n, each in enumerate(self.trace.events, 1) if n not in numbers]
        seq: Counter[str] = Counter()
        for place, each in enumerate(self.trace.events):
            self.trace.events[place] = msgspec.structs.replace(each, seq=seq[each.probe])
            seq[each.probe] += 1

    def census(self, moment: str, legs: Sequence[Leg] | None = None) -> tuple[Leg, int, ev.Census]:
        """Pick a census."""
        return self.pick(
            (leg, number, each)
            for leg in (self.legs if legs is None else legs)
            for number, each in leg.census(moment)
        )


@dataclass(frozen=True)
class Corruption:
    """One fault: the rule that states what it breaks, what the kernel does wrong, and how a trace tells."""

    rule: str
    words: str
    make: Callable[[Scene], None]


CORRUPTIONS: list[Corruption] = []


def corruption(rule: str, words: str) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Add a fault to the table."""

    def added(make: Callable[[Scene], None]) -> Callable[[Scene], None]:
        CORRUPTIONS.append(Corruption(rule, words, make))
        return make

    return added


def sides(target: int) -> tuple[str, str]:
    """Return the census's names of the target state and of the opposite."""
    return ("patched", "unpatched") if target == 1 else ("unpatched", "patched")


# --- T1, T2: init --------------------------------------------------------------------------------------


@corruption("T1", "a transition begins while klp_transition_patch is set")
def _(scene: Scene) -> None:
    scene.set(scene.pick(scene.all(ev.Init))[0], core_transition_patch="other")


@corruption("T1", "a transition begins although the one before has not completed")
def _(scene: Scene) -> None:
    followed = [
        leg
        for leg, following in zip(scene.legs, scene.legs[1:], strict=False)
        if leg.completed and not following.reversal
    ]
    ended = scene.pick(followed).completed
    assert ended
    scene.drop(ended[0])


@corruption("T2", "a task keeps the state of the transition before")
def _(scene: Scene) -> None:
    scene.more(scene.census("before_init")[1], idle=-1, patched=1)


@corruption("T2", "init leaves a task out")
def _(scene: Scene) -> None:
    leg, number, _ = scene.census("init")
    scene.more(number, idle=1, **{sides(leg.target)[1]: -1})


@corruption("T2", "the target of the transition before is still set at an init")
def _(scene: Scene) -> None:
    scene.set(scene.pick(scene.all(ev.Init))[0], core_target_state=0)


@corruption("T2", "init sets the other target than it was told")
def _(scene: Scene) -> None:
    leg, number, census = scene.census("init")
    scene.set(number, core_target_state=1 - leg.target, patched=census.unpatched, unpatched=census.patched)


# --- T3: order -----------------------------------------------------------------------------------------


def patched_by(leg: Leg) -> Iterator[tuple[int, ev.Object]]:
    for each in leg.objects:
        if (each.event.patch, each.event.object, each.event.action) == (leg.patch, "vmlinux", "patch"):
            yield each.number, each.event


@corruption("T3", "an object is patched after the start")
def _(scene: Scene) -> None:
    number, start = scene.pick(
        (n, leg.started[1].ts_ns) for leg in scene.legs if leg.started for n, _ in patched_by(leg)
    )
    scene.set(number, ts_ns=start + 500)


@corruption("T3", "an object is patched before func->transition is set")
def _(scene: Scene) -> None:
    number = scene.pick(n for leg in scene.legs for n, _ in patched_by(leg))
    scene.set(number - 1, transition=False)


@corruption("T3", "a task is pending before the start")
def _(scene: Scene) -> None:
    scene.more(scene.census("before_start")[1], pending=1)


# --- T4, T5: each task's switch ------------------------------------------------------------------------


@corruption("T4", "a transition completes with a task in the old state")
def _(scene: Scene) -> None:
    _, number, census = scene.census("before_complete")
    there, opposite = sides(census.core.target_state)
    scene.more(number, **{there: -1, opposite: 1})


@corruption("T4", "a transition completes with a task pending")
def _(scene: Scene) -> None:
    scene.more(scene.census("before_complete")[1], pending=1)


@corruption("T4", "a task switches twice")
def _(scene: Scene) -> None:
    leg, task = scene.pick(
        (leg, each.task)
        for leg in scene.legs
        if leg.whole
        for _, each in scene.within(leg, ev.Attempt)
        if each.result == "switched" and each.task.pid
        and not any(each.task.pid == gone.task.pid for _, gone in scene.within(leg, ev.Exit))
        # By exec another thread may have taken over a leader's id: the second switch would be its own.
        and not any(
            each.task.tgid == other.task.tgid and each.task.pid != other.task.pid
            for _, other in scene.within(leg, ev.Attempt)
        )
    )  # fmt: skip
    assert leg.completed
    scene.add(ev.Switch, at=leg.completed[1].ts_ns - 1, task=task, path="exit", patch_state=leg.target)


@corruption("T4", "a task switches away from the target")
def _(scene: Scene) -> None:
    leg, number = scene.pick(
        (leg, n)
        for leg in scene.legs
        if leg.started
        for n, each in scene.within(leg, ev.Switch)
        if each.ts_ns > leg.started[1].ts_ns
    )
    scene.set(number, patch_state=1 - leg.target)


def end_last(trace: Trace) -> None:
    """Put what was added after the ends of the probes' streams before them."""
    ends = [each for each in trace.events if isinstance(each, ev.End)]
    trace.events = [each for each in trace.events if not isinstance(each, ev.End)] + ends
    Scene(trace, random.Random(0)).drop()


def refused(scene: Scene) -> Iterator[tuple[Leg, int, ev.Attempt]]:
    for leg in scene.legs:
        for number, each in scene.within(leg, ev.Attempt):
            if each.result in ("running", "unreliable", "sleeping") and each.after == each.patch_state:
                yield leg, number, each


@corruption("T5", "a check refuses a task, and switches it all the same")
def _(scene: Scene) -> None:
    leg, number, _ = scene.pick(
        (leg, n, each)
        for leg, n, each in refused(scene)
        if not any(each.task.pid == one.task.pid for _, one in scene.within(leg, ev.Switch))
    )
    scene.set(number, after=leg.target)


@corruption("T5", "a check refuses a task with another error than its reason has")
def _(scene: Scene) -> None:
    scene.set(scene.pick(refused(scene))[1], errno=-1)


@corruption("T5", "a check finds a function on the stack, and names none")
def _(scene: Scene) -> None:
    scene.set(scene.pick(n for _, n, each in refused(scene) if each.result == "sleeping"), function=None)


# --- T6: after the completion --------------------------------------------------------------------------


@corruption("T6", "the target stays set after a completion")
def _(scene: Scene) -> None:
    scene.set(scene.census("completed")[1], core_target_state=1)


@corruption("T6", "klp_transition_patch stays set after a completion")
def _(scene: Scene) -> None:
    scene.set(scene.census("completed")[1], core_transition_patch="p")


@corruption("T6", "a task keeps its state after a completion")
def _(scene: Scene) -> None:
    scene.more(scene.census("completed")[1], idle=-1, patched=1)


@corruption("T6", "a completion waits for no CPU")
def _(scene: Scene) -> None:
    waited = [
        number
        for leg in scene.legs
        if leg.completed and leg.over_at(leg.last_ns + 1)
        for number, each in leg.waits
        if each.ts_ns >= leg.completed[1].ts_ns
    ]
    if sum(len(leg.waits) for leg in scene.legs) < 2:
        raise NoPlace
    scene.drop(scene.pick(waited))


# --- T7, T14: passes -----------------------------------------------------------------------------------


@corruption("T7", "a pass follows the one before at once")
def _(scene: Scene) -> None:
    before, number = scene.pick(
        (one, n) for leg in scene.legs for (_, one), (n, _) in zip(leg.passes, leg.passes[1:], strict=False)
    )
    scene.set(number, ts_ns=before.ts_ns + before.duration_ns + 100_000_000)


@corruption("T7", "the sixteenth pass signals nobody")
def _(scene: Scene) -> None:
    scene.drop(scene.pick(scene.all(ev.Signals))[0])


@corruption("T7", "a pass signals before its turn")
def _(scene: Scene) -> None:
    one = scene.pick(each for leg in scene.legs for _, each in leg.passes if not each.complete)
    if one.core.signals_cnt and not one.core.signals_cnt % 15:
        raise NoPlace
    scene.add(ev.Signals, at=one.ts_ns + one.duration_ns, patch=one.patch, core=one.core)


@corruption("T7", "a pass is not counted")
def _(scene: Scene) -> None:
    failed = [(n, each) for leg in scene.legs for n, each in leg.passes if not each.complete]
    number, one = scene.pick((n, each) for n, each in failed if each.core.signals_cnt % 15 > 1)
    scene.set(number, core_signals_cnt=one.core.signals_cnt - 1)


def compared(scene: Scene) -> Leg:
    """Pick a transition that was held up, and that a guest without probes made as well."""
    same = Counter((leg.patch, leg.target) for leg in scene.legs)
    return scene.pick(
        leg
        for leg in scene.legs
        if leg.outcome is LegOutcome.COMPLETE and not leg.forces and not leg.reversal
        and same[leg.patch, leg.target] == 1
    )  # fmt: skip


@corruption("T14", "with probes a transition needs more passes")
def _(scene: Scene) -> None:
    leg = compared(scene)
    needed = len(leg.passes) - leg.chance_passes
    if needed < 2:
        raise NoPlace
    scene.drop(*(n for n, each in scene.all(ev.Control) if each.patch == leg.patch))
    scene.trace.put(ev.Control, patch=leg.patch, target=leg.target, passes=needed - 1, duration_ns=1)


@corruption("T14", "a transition waits for the probe's own process")
def _(scene: Scene) -> None:
    leg = compared(scene)
    number, task = scene.pick(
        (n, each.task)
        for own, n, each in refused(scene)
        if own is leg and each.task.pid
    )  # fmt: skip
    rename(scene, task.pid, "python3")
    scene.set(number, result="unreliable", errno=-22, function=None)
    scene.trace.put(ev.Control, patch=leg.patch, target=leg.target, passes=99, duration_ns=1)


def rename(scene: Scene, pid: int, comm: str) -> None:
    """Give a task one name from its first event on."""
    for number, each in enumerate(scene.trace.events, 1):
        for role in ("task", "child", "parent"):
            task = getattr(each, role, None)
            if isinstance(task, ev.Task) and task.pid == pid:
                scene.set(number, **{role: msgspec.structs.replace(task, comm=comm)})


# --- T8, T9, T10: reversal, force, cancellation --------------------------------------------------------


def reversals(scene: Scene) -> list[Leg]:
    return [leg for leg in scene.legs if leg.reversal]


@corruption("T8", "a reversal does not flip the target")
def _(scene: Scene) -> None:
    leg = scene.pick(reversals(scene))
    scene.set(leg.begun[0], core_target_state=leg.target)


@corruption("T8", "a reversal does not flip klp_patch.enabled")
def _(scene: Scene) -> None:
    started = scene.pick(leg.started for leg in reversals(scene) if leg.started)
    core = started[1].core
    scene.set(started[0], core_enabled=not core.enabled)


@corruption("T8", "a reversal leaves a task pending until it starts again")
def _(scene: Scene) -> None:
    scene.more(scene.census("before_start", reversals(scene))[1], pending=1)


@corruption("T8", "a reversal waits for no CPU")
def _(scene: Scene) -> None:
    leg = scene.pick(leg for leg in reversals(scene) if leg.started and leg.waits)
    assert leg.started
    early = [n for n, each in leg.waits if each.ts_ns <= leg.started[1].ts_ns]
    if len(scene.all(ev.Synchronize)) <= len(early):
        raise NoPlace
    scene.drop(*early)


@corruption("T8", "a reversal ends in the direction that it came from")
def _(scene: Scene) -> None:
    leg, ended = scene.pick((leg, leg.completed) for leg in reversals(scene) if leg.completed)
    scene.set(ended[0], target=1 - leg.target)


def forced(scene: Scene) -> list[Leg]:
    return [leg for leg in scene.legs if leg.forces and not leg.reversed_by]


@corruption("T9", "force leaves a task pending")
def _(scene: Scene) -> None:
    scene.more(scene.census("forced", forced(scene))[1], pending=1)


@corruption("T9", "the pass after a force does not complete")
def _(scene: Scene) -> None:
    leg = scene.pick(forced(scene))
    since = leg.forces[0][1].ts_ns
    after = [n for n, each in leg.passes if each.ts_ns > since]
    if not after:
        raise NoPlace
    scene.set(after[0], complete=False, left=1)


@corruption("T9", "what is disabled by force is not marked as forced")
def _(scene: Scene) -> None:
    scene.set(
        scene.pick(leg.completed[0] for leg in forced(scene) if leg.completed and leg.target == 0),
        forced=False,
    )


@corruption("T9", "a livepatch that force took away lets go of its module")
def _(scene: Scene) -> None:
    gone = [
        (leg, {leg.patch} if leg.target == 0 else {
            each.patch for _, each in scene.all(ev.Replaced)
            if each.by == leg.patch and leg.begun_ns < each.ts_ns <= leg.last_ns
        })
        for leg in forced(scene) if leg.completed
    ]  # fmt: skip
    leg, patch = scene.pick((leg, patch) for leg, those in gone for patch in those)
    since = leg.forces[0][1].ts_ns
    frees = [n for n, each in scene.all(ev.PatchFree) if each.patch == patch and each.ts_ns > since]
    scene.set(frees[0], module_refs=0)


@corruption("T10", "a cancelled transition completes as a patching one")
def _(scene: Scene) -> None:
    scene.set(
        scene.pick(leg.completed[0] for leg in scene.legs if leg.cancelled and leg.completed), target=1
    )


@corruption("T10", "a cancelled transition leaves its object patched")
def _(scene: Scene) -> None:
    scene.drop(
        scene.pick(
            each.number
            for leg in scene.legs
            if leg.cancelled
            for each in leg.objects
            if each.event.action == "unpatch"
        )
    )


# --- T11, T12, T13 -------------------------------------------------------------------------------------


@corruption("T11", "a child has not its parent's TIF_PATCH_PENDING")
def _(scene: Scene) -> None:
    number, fork = scene.pick(scene.all(ev.Fork))
    scene.set(number, child_pending=not fork.child_pending)


@corruption("T11", "a child has not its parent's patch_state")
def _(scene: Scene) -> None:
    number, fork = scene.pick(scene.all(ev.Fork))
    scene.set(number, child_state=fork.child_state + 1)


@corruption("T12", "a task runs the version of the other side of its switch")
def _(scene: Scene) -> None:
    number, ran = scene.pick(
        row for leg in scene.legs if not leg.forces for row in scene.within(leg, ev.Ran)
    )
    scene.set(number, version="old" if ran.version == "new" else "new")


@corruption("T13", "a task switches, and by no known path")
def _(scene: Scene) -> None:
    still = []
    for leg in scene.legs:
        counts = [
            each.tasks for moment in ("before_start", "before_complete") for _, each in leg.census(moment)
        ]
        if leg.whole and len(set(counts)) == 1 and not (leg.born or leg.gone or leg.dead_pending):
            still.append(leg)
    leg = scene.pick(still)
    assert leg.started
    seen: dict[tuple[int, str], list[int]] = {}
    for n, one in [*scene.within(leg, ev.Switch), *scene.within(leg, ev.Attempt)]:
        own = isinstance(one, ev.Switch) or one.result == "switched"
        if own and one.ts_ns > leg.started[1].ts_ns:
            seen.setdefault((one.task.pid, one.task.comm if not one.task.pid else ""), []).append(n)
    scene.drop(scene.pick(numbers[0] for numbers in seen.values() if len(numbers) == 1))


@corruption("T13", "a task switches in a scheduler that cannot switch tasks")
def _(scene: Scene) -> None:
    number, _ = scene.pick(row for leg in scene.legs for row in scene.within(leg, ev.Switch))
    scene.set(number, path="scheduler")
    header = next(n for n, each in scene.all(ev.Header) if each.probe == "klptransition")
    scene.set(header, scheduler_switch=False)


def corrupted(trace: Trace, wanted: Corruption, chance: random.Random) -> Trace:
    """Return the trace with one fault in it; raise NoPlace where it can have none."""
    scene = Scene(trace, chance)
    wanted.make(scene)
    return scene.trace
