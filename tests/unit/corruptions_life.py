# SPDX-License-Identifier: Apache-2.0
"""Faults that the rules of states and of the life cycle must notice, each put into a trace in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import msgspec

from klp.analysis.legs import Leg, LegOutcome
from klp.trace import events as ev
from tests.unit.corruptions import NoPlace, Scene, corruption

Decision = tuple[int, ev.Compatible]


# --- V1 to V4: decisions -------------------------------------------------------------------------------


def _own(decision: ev.Compatible) -> dict[int, int]:
    return {each.id: each.version for each in decision.states}


def _installed(decision: ev.Compatible) -> list[ev.State]:
    return [state for each in decision.installed for state in each.states]


def _lower(decision: ev.Compatible) -> bool:
    """Whether it has a lower version of an installed state."""
    own = _own(decision)
    return any(own.get(each.id, each.version) < each.version for each in _installed(decision))


def _lacks(decision: ev.Compatible) -> bool:
    """Whether it replaces, and lacks an installed state."""
    return decision.replace and any(each.id not in _own(decision) for each in _installed(decision))


def _turned(scene: Scene, fits: Callable[[ev.Compatible], bool], *, allowed: bool) -> None:
    """Turn a decision that was right."""
    number = scene.pick(
        n for n, each in scene.all(ev.Compatible) if each.compatible is allowed and fits(each)
    )
    scene.set(number, compatible=not allowed)


@corruption("V1", "a livepatch is refused for a state that nobody has touched")
def _(scene: Scene) -> None:
    def new(each: ev.Compatible) -> bool:
        return bool(set(_own(each)) - {state.id for state in _installed(each)})

    _turned(scene, new, allowed=True)


@corruption("V2", "a lower version of a state is allowed")
def _(scene: Scene) -> None:
    _turned(scene, _lower, allowed=False)


@corruption("V2", "the same or a higher version of a state is refused")
def _(scene: Scene) -> None:
    def shares(each: ev.Compatible) -> bool:
        return bool(set(_own(each)) & {state.id for state in _installed(each)})

    _turned(scene, shares, allowed=True)


@corruption("V2", "a lower version of a state is refused with another error")
def _(scene: Scene) -> None:
    decision = scene.pick(each for _, each in scene.all(ev.Compatible) if _lower(each))
    enabling = scene.history.stack.enabling(decision.patch, decision.ts_ns)
    if enabling is None:
        raise NoPlace
    scene.set(enabling[0], errno=-16)


@corruption("V3", "a cumulative livepatch that lacks a state is allowed")
def _(scene: Scene) -> None:
    _turned(scene, _lacks, allowed=False)


@corruption("V3", "a cumulative livepatch that carries all states is refused")
def _(scene: Scene) -> None:
    _turned(scene, lambda each: each.replace and bool(_installed(each)), allowed=True)


@corruption("V4", "a livepatch that is not cumulative is refused beside another's state")
def _(scene: Scene) -> None:
    _turned(scene, lambda each: not each.replace and bool(_installed(each)), allowed=True)


# --- V5, V6: look-ups, and what was shown --------------------------------------------------------------


def _decision_on(scene: Scene, patch: str | None, ts_ns: int) -> ev.Compatible | None:
    """Return the last decision on a livepatch before a moment."""
    found = [each for _, each in scene.all(ev.Compatible) if each.patch == patch and each.ts_ns < ts_ns]
    return found[-1] if found else None


@corruption("V5", "klp_get_state finds another version")
def _(scene: Scene) -> None:
    number, get = scene.pick(
        (n, each.found) for n, each in scene.all(ev.StateGet) if each.call == "get" and each.found
    )
    scene.set(number, found=msgspec.structs.replace(get, version=get.version + 1))


@corruption("V5", "klp_get_state finds the state of an id that is equal in its low half")
def _(scene: Scene) -> None:
    places = []
    for number, get in scene.all(ev.StateGet):
        decision = _decision_on(scene, get.patch, get.ts_ns)
        if get.call == "get" and decision:
            like = [
                each for each in decision.states if each.id != get.id and not (each.id ^ get.id) % 2**32
            ]
            places += [(number, each) for each in like]
    number, state = scene.pick(places)
    scene.set(number, found=state)


@corruption("V5", "klp_get_prev_state answers with the oldest of several livepatches")
def _(scene: Scene) -> None:
    places = []
    for number, get in scene.all(ev.StateGet):
        leg = scene.history.leg_at(get.ts_ns)
        enabling = leg is not None and leg.target == 1 and not leg.reversal and leg.begun_ns <= get.ts_ns
        decision = _decision_on(scene, leg.patch if leg else None, get.ts_ns)
        if get.call != "get_prev" or not enabling or decision is None:
            continue
        fitting = [state for state in _installed(decision) if state.id == get.id]
        if fitting and fitting[0] != fitting[-1]:
            places.append((number, fitting[0]))
    number, oldest = scene.pick(places)
    scene.set(number, found=oldest)


@corruption("V5", "klp_get_prev_state finds nothing")
def _(scene: Scene) -> None:
    scene.set(
        scene.pick(n for n, each in scene.all(ev.StateGet) if each.call == "get_prev" and each.found),
        found=None,
    )


def _not_shown(scene: Scene, rule: str) -> None:
    """Have a command show something else."""
    scene.set(
        scene.pick(n for n, each in scene.all(ev.Behaviour) if rule in each.rules),
        output="as before", held=False,
    )  # fmt: skip


@corruption("V6", "a state is not as documented in a case of its life")
def _(scene: Scene) -> None:
    _not_shown(scene, "V6")


# --- L1: sysfs -----------------------------------------------------------------------------------------


def _samples(scene: Scene) -> Iterator[tuple[int, ev.Sysfs]]:
    """Yield what sysfs showed between transitions."""
    for number, sample in scene.all(ev.Sysfs):
        leg = scene.history.leg_at(sample.ts_ns)
        if leg is None or leg.ended_ns:
            yield number, sample


def _shown(scene: Scene, change: Callable[[ev.SysfsPatch], dict[str, Any]]) -> None:
    """Have sysfs show something else of one livepatch."""
    _show(
        scene,
        (
            (n, sample, place, change(each))
            for n, sample in _samples(scene)
            for place, each in enumerate(sample.patches)
            if change(each)
        ),
    )


def _show(scene: Scene, places: Iterable[tuple[int, ev.Sysfs, int, dict[str, Any]]]) -> None:
    """Change what a sample shows of its livepatch at a place."""
    number, sample, place, fields = scene.pick(places)
    patches = list(sample.patches)
    patches[place] = msgspec.structs.replace(patches[place], **fields)
    scene.set(number, patches=tuple(patches))


@corruption("L1", "sysfs shows a livepatch as disabled that is enabled")
def _(scene: Scene) -> None:
    _shown(scene, lambda each: {"enabled": not each.enabled})


@corruption("L1", "sysfs shows a livepatch in transition after its end")
def _(scene: Scene) -> None:
    _shown(scene, lambda each: {"transition": not each.transition})


@corruption("L1", "sysfs shows another value of replace")
def _(scene: Scene) -> None:
    _shown(scene, lambda each: {"replace": not each.replace})


@corruption("L1", "sysfs shows an object as not patched that is patched")
def _(scene: Scene) -> None:
    _shown(scene, lambda each: {"objects": {**each.objects, "vmlinux": False}})


@corruption("L1", "sysfs shows the object of a module as patched that is not")
def _(scene: Scene) -> None:
    def told(name: str, sample: ev.Sysfs) -> bool:
        """Whether anything tells that it is not."""
        return any(
            (each.patch, each.object, each.action) == (name, "target", "unpatch")
            for _, each in scene.all(ev.Object)
            if each.ts_ns < (sample.begun_ns or 0)
        )

    _show(
        scene,
        (
            (n, sample, place, {"objects": {**each.objects, "target": True}})
            for n, sample in _samples(scene)
            for place, each in enumerate(sample.patches)
            if not each.objects["target"] and told(each.name, sample)
        ),
    )


@corruption("L1", "sysfs shows another place in the stack")
def _(scene: Scene) -> None:
    _shown(scene, lambda each: {"stack_order": each.stack_order + 1} if each.stack_order else {})


@corruption("L1", "sysfs still shows a livepatch that was freed")
def _(scene: Scene) -> None:
    number, sample, name = scene.pick(
        (n, sample, free.patch)
        for n, sample in _samples(scene)
        for _, free in scene.all(ev.PatchFree)
        if free.ts_ns < (sample.begun_ns or 0) and not free.forced
        and not any(free.ts_ns < each.ts_ns <= sample.ts_ns for _, each in scene.all(ev.Enable))
    )  # fmt: skip
    left = ev.SysfsPatch(
        name=name, enabled=False, transition=False, replace=False, stack_order=None, objects={}
    )
    scene.set(number, patches=(*sample.patches, left))


@corruption("L1", "sysfs does not show a livepatch that is enabled")
def _(scene: Scene) -> None:
    number, sample, name = scene.pick(
        (n, sample, each.name) for n, sample in _samples(scene) for each in sample.patches
    )
    scene.set(number, patches=tuple(each for each in sample.patches if each.name != name))


# --- L2, L3: layers ------------------------------------------------------------------------------------


@corruption("L2", "a new livepatch is put below the others")
def _(scene: Scene) -> None:
    stacks = scene.all(ev.PatchStack)
    number, patches = scene.pick(
        (n, each.patches)
        for (_, before), (n, each) in pairwise(stacks)
        if len(each.patches) > 1 and before.patches and before.patches[0] in each.patches
        and each.patches[-1] not in before.patches
    )  # fmt: skip
    scene.set(number, patches=(patches[-1], *patches[:-1]))


@corruption("L2", "the newest of several livepatches is not the one that runs")
def _(scene: Scene) -> None:
    _not_shown(scene, "L2")


def _replacing(scene: Scene) -> Iterator[tuple[Leg, int, ev.Replaced]]:
    """Yield each replacement that went to its end, with what it replaced."""
    for leg in scene.legs:
        if leg.replace and leg.target == 1 and leg.outcome is LegOutcome.COMPLETE:
            yield from (
                (leg, n, each) for n, each in scene.within(leg, ev.Replaced) if each.by == leg.patch
            )


@corruption("L3", "a replaced livepatch is left out as the others are unpatched")
def _(scene: Scene) -> None:
    _, number, _ = scene.pick(_replacing(scene))
    scene.drop(number)


@corruption("L3", "an object of a replaced livepatch stays patched")
def _(scene: Scene) -> None:
    seen = scene.pick(
        each
        for leg, _, gone in _replacing(scene)
        for each in leg.objects
        if (each.event.patch, each.event.action) == (gone.patch, "unpatch")
        and not scene.history.notice_at(each.event.ts_ns, each.event.object)
    )
    # The functions of an object are told right before it.
    scene.drop(*range(seen.number - len(seen.functions), seen.number + 1))


@corruption("L3", "a function of a replaced livepatch gets no no-op")
def _(scene: Scene) -> None:
    seen = scene.pick(
        each
        for leg, _, _ in _replacing(scene)
        for each in leg.objects
        if (each.event.patch, each.event.object, each.event.action) == (leg.patch, "vmlinux", "patch")
    )
    scene.set(seen.number, functions=seen.event.functions - 1)
    scene.drop(seen.number - 1)


# --- L4, L5, L6: modules, behaviour, the log -----------------------------------------------------------


@corruption("L4", "the module of a disabled livepatch cannot be removed")
def _(scene: Scene) -> None:
    scene.set(scene.pick(n for n, each in scene.all(ev.Step) if each.action == "unload"), errno=-11)


@corruption("L4", "a livepatch that was removed cannot be loaded again")
def _(scene: Scene) -> None:
    steps = scene.all(ev.Step)
    scene.set(
        scene.pick(
            n
            for n, each in steps
            if each.action == "load" and not each.errno
            and any(one.action == "unload" and one.subject == each.subject and one.ts_ns < each.ts_ns
                    for _, one in steps)
        ),
        errno=-12,
    )  # fmt: skip


@corruption("L5", "what a livepatch changes is not seen changed")
def _(scene: Scene) -> None:
    _not_shown(scene, "L5")


@corruption("L6", "the kernel warns")
def _(scene: Scene) -> None:
    warning = "WARNING: CPU: 1 PID: 7 at kernel/livepatch/transition.c:107 klp_complete_transition+0x1/0x2"
    scene.set(scene.pick(scene.all(ev.LoggedLine))[0], text=warning)


@corruption("L6", "the kernel is tainted by something else")
def _(scene: Scene) -> None:
    scene.set(scene.pick(scene.all(ev.Taint))[0], flags="WOEK")
