# SPDX-License-Identifier: Apache-2.0
"""Faults of a kernel that the rules of callbacks must notice, each put into a trace in one place."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from klp.analysis.legs import Leg, LegOutcome
from klp.analysis.rules.callback_order import Call, callbacks_within
from klp.trace import events as ev
from tests.unit.corruptions import NoPlace, Scene, corruption
from tests.unit.traces import SHELL

_BEFORE = {1: "pre_patch", 0: "pre_unpatch"}
_AFTER = {1: "post_patch", 0: "post_unpatch"}


def _call(scene: Scene, at: int, patch: str, kind: str, name: str = "vmlinux") -> None:
    """Have a callback run at a moment."""
    scene.add(ev.Callback, at=at, patch=patch, object=name, kind=kind, function=f"{kind}_callback",
              result=0 if kind == "pre_patch" else None, duration_ns=200, task=SHELL)  # fmt: skip


def _own(scene: Scene, leg: Leg) -> list[Call]:
    """Return the callbacks of vmlinux that a leg ran for its livepatch."""
    return [
        each
        for each in callbacks_within(scene.history, leg)
        if (each[1].patch, each[1].object) == (leg.patch, "vmlinux")
    ]


def _whole(scene: Scene) -> Iterator[Leg]:
    """Yield the legs that went from their init to their end."""
    for leg in scene.legs:
        if leg.outcome is LegOutcome.COMPLETE and not leg.reversal and leg.started and leg.completed:
            yield leg


@corruption("C1", "a callback does not run before a transition")
def _(scene: Scene) -> None:
    scene.drop(
        scene.pick(n for leg in _whole(scene) for n, each in _own(scene, leg)
                   if each.kind == _BEFORE[leg.target] and leg.target == 1)
    )  # fmt: skip


@corruption("C1", "a callback does not run after a transition")
def _(scene: Scene) -> None:
    scene.drop(
        scene.pick(n for leg in _whole(scene) for n, each in _own(scene, leg)
                   if each.kind == _AFTER[leg.target])
    )  # fmt: skip


@corruption("C1", "a callback that has to run before a transition runs in its midst")
def _(scene: Scene) -> None:
    number, started = scene.pick(
        (n, leg.started[1].ts_ns)
        for leg in _whole(scene)
        for n, each in _own(scene, leg)
        if each.kind == _BEFORE[leg.target] and leg.started
    )
    scene.set(number, ts_ns=started + 1)


@corruption("C1", "a callback that has to run after a transition runs before its end")
def _(scene: Scene) -> None:
    number, ended = scene.pick(
        (n, leg.completed[1].ts_ns)
        for leg in _whole(scene)
        for n, each in _own(scene, leg)
        if each.kind == _AFTER[leg.target] and leg.completed
    )
    scene.set(number, ts_ns=ended - 1)


def _failed(scene: Scene) -> Iterator[Call]:
    """Yield the pre-patch callbacks that failed."""
    for call in scene.history.callbacks.calls:
        if call[1].kind == "pre_patch" and call[1].result:
            yield call


@corruption("C2", "post-unpatch runs after a pre-patch that failed")
def _(scene: Scene) -> None:
    _, failed = scene.pick(_failed(scene))
    _call(scene, failed.ts_ns + 1, failed.patch, "post_unpatch", failed.object)


@corruption("C2", "post-unpatch runs twice")
def _(scene: Scene) -> None:
    has = scene.history.callbacks.has
    _, one = scene.pick(
        row
        for row in scene.all(ev.Callback)
        if row[1].kind == "post_unpatch" and has(row[1].patch, row[1].object, "pre_patch", row[1].ts_ns)
    )
    _call(scene, one.ts_ns + 1, one.patch, "post_unpatch", one.object)


@corruption("C2", "pre-unpatch runs, and post-patch did not")
def _(scene: Scene) -> None:
    calls = scene.history.callbacks
    places = []
    for patch, name in calls.objects:
        own = calls.of(patch, name)
        for one, two, three in zip(own, own[1:], own[2:], strict=False):
            same = len({calls.build(patch, each[1].ts_ns) for each in (one, two, three)}) == 1
            kinds = (one[1].kind, two[1].kind, three[1].kind)
            if same and kinds[0] != "post_patch" and kinds[1:] == ("post_patch", "pre_unpatch"):
                places.append(two[0])
    scene.drop(scene.pick(places))


@corruption("C3", "a callback runs for a module that is gone")
def _(scene: Scene) -> None:
    going = [
        each for _, each in scene.all(ev.ModuleNotice) if each.module == "target" and each.action == "going"
    ]
    notice = scene.pick(going)
    patch = scene.pick(sorted({each.patch for _, each in scene.all(ev.Object)}))
    _call(scene, notice.ts_ns + notice.duration_ns + 1, patch, "pre_unpatch", "target")


def _as_it_moves(scene: Scene, kind: str) -> int:
    """Pick a callback that runs as a module comes or goes."""
    return scene.pick(
        n
        for n, each in scene.all(ev.Callback)
        if each.kind == kind and scene.history.notice_at(each.ts_ns, each.object)
    )


@corruption("C3", "a module comes, and pre-patch does not run for it")
def _(scene: Scene) -> None:
    scene.drop(_as_it_moves(scene, "pre_patch"))


@corruption("C3", "a module goes, and post-unpatch does not run for it")
def _(scene: Scene) -> None:
    scene.drop(_as_it_moves(scene, "post_unpatch"))


def _refused(scene: Scene) -> int:
    """Pick an enabling that a callback refused."""
    _, failed = scene.pick(_failed(scene))
    enabling = scene.history.stack.enabling(failed.patch, failed.ts_ns)
    if enabling is None:
        raise NoPlace
    return enabling[0]


@corruption("C4", "a livepatch whose pre-patch failed is enabled")
def _(scene: Scene) -> None:
    scene.set(_refused(scene), errno=0)


@corruption("C4", "a livepatch whose pre-patch failed is refused with another error")
def _(scene: Scene) -> None:
    scene.set(_refused(scene), errno=-22)


@corruption("C4", "another callback of the object runs after a pre-patch that failed")
def _(scene: Scene) -> None:
    _, failed = scene.pick(_failed(scene))
    _call(scene, failed.ts_ns + 1, failed.patch, "post_patch", failed.object)


@corruption("C5", "a reversed transition runs pre-unpatch")
def _(scene: Scene) -> None:
    leg = scene.pick(leg for leg in scene.legs if leg.reversal)
    _call(scene, leg.begun_ns + 1, leg.patch, "pre_unpatch")


@corruption("C6", "a transition that never started runs another callback than post-unpatch")
def _(scene: Scene) -> None:
    leg, ended = scene.pick((leg, leg.completed) for leg in scene.legs if leg.cancelled and leg.completed)
    _call(scene, ended[1].ts_ns + 1, leg.patch, "post_patch")


@corruption("C6", "a transition that never started runs no post-unpatch")
def _(scene: Scene) -> None:
    scene.drop(
        scene.pick(
            n
            for leg in scene.legs
            if leg.cancelled
            for n, each in _own(scene, leg)
            if each.kind == "post_unpatch"
        )
    )


@corruption("C7", "a callback of a replaced livepatch runs")
def _(scene: Scene) -> None:
    leg, old = scene.pick(
        (leg, each.patch)
        for leg in _whole(scene)
        if leg.replace and leg.target == 1
        for _, each in scene.within(leg, ev.Replaced)
    )
    assert leg.completed
    _call(scene, leg.completed[1].ts_ns + 1, old, "post_unpatch")


def _enabled_again(scene: Scene) -> Iterator[tuple[Leg, Leg]]:
    """Yield the legs of a disabling, and of its reversal that went to its end."""
    for before, leg in pairwise(scene.legs):
        if leg.reversal and leg.target == 1 and before.patch == leg.patch and leg.completed:
            yield before, leg


@corruption("C8", "a disabling is reversed, and post-patch does not run again")
def _(scene: Scene) -> None:
    calls = [
        [n for n, each in callbacks_within(scene.history, leg) if each.patch == leg.patch]
        for _, leg in _enabled_again(scene)
    ]
    scene.drop(*scene.pick(each for each in calls if each))


@corruption("C8", "a disabling is reversed by loading the module once more")
def _(scene: Scene) -> None:
    before, leg = scene.pick(_enabled_again(scene))
    scene.add(ev.ModuleNotice, at=before.begun_ns + 1, module=leg.patch, action="going", livepatch=True,
              errno=0, duration_ns=1)  # fmt: skip
