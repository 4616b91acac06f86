# SPDX-License-Identifier: Apache-2.0
"""Histories of the model of shadow variables: what tasks and livepatches do, drawn from bytes."""

from __future__ import annotations

from collections import Counter

import msgspec

from klp.trace import events as ev
from tests.unit.shadow_model import IDS, LIVEPATCHES, OBJECTS, Choices, Fault, Shadows, Steps, Variable
from tests.unit.traces import Trace

TASKS = (1, 2, 3)
CTORS = ("none", "works", "fails")


def shadow_history(data: bytes, fault: Fault | None = None, wait: int = 0) -> tuple[Trace, bool]:
    """Return a trace, and whether the fault happened in it.

    Args:
        data: what the history is drawn from, a few bytes for each step.
        wait: how many occasions for the fault pass by before it happens. If there are not as many, it
            happens at the end, where there is one for each.
    """
    draw = Choices(data)
    keys = [(OBJECTS[draw(len(OBJECTS))], IDS[draw(len(IDS))]) for _ in range(4)]  # few, so that calls meet
    model = Shadows(draw, fault, wait, tuple(dict.fromkeys(keys[: draw(3)])))
    while draw.more():
        _step(model, draw, keys)
    model.wait = 0
    for pid in TASKS * 1000:
        _advance(model, pid)
    assert not model.calls
    _every_occasion(model)
    model.tell_counts()
    return model.trace, model.happened


def _step(model: Shadows, draw: Choices, keys: list[Variable]) -> None:
    pid = TASKS[draw(len(TASKS))]
    if pid in model.calls:
        _advance(model, pid)
    elif not model.trace.stack or draw(12) == 0:
        _come_or_go(model, LIVEPATCHES[draw(len(LIVEPATCHES))])
    else:
        caller = model.trace.stack[draw(len(model.trace.stack))]
        model.calls[pid] = (caller, _drawn(model, draw, pid, caller, keys))


def _drawn(model: Shadows, draw: Choices, pid: int, caller: str, keys: list[Variable]) -> Steps:
    """Return a call that is drawn."""
    key = keys[draw(len(keys))]
    what = draw(10)
    if what < 3:
        return model.alloc(pid, caller, "alloc", key, CTORS[draw(len(CTORS))])
    if what < 6:
        return model.alloc(pid, caller, "get_or_alloc", key, CTORS[draw(len(CTORS))])
    if what < 8:
        return model.free(pid, caller, key, bool(draw(2)))
    if what < 9:
        return model.free_all(pid, caller, key[1], bool(draw(2)))
    return model.get(pid, caller, key)


def _advance(model: Shadows, pid: int) -> None:
    if pid in model.calls and next(model.calls[pid][1], model) is model:
        del model.calls[pid]


def _come_or_go(model: Shadows, name: str) -> None:
    if name not in model.trace.stack:
        model.come(name)
        return
    # Its code may not be in use; and the last one looks after all that is there.
    users = {caller for caller, _ in model.calls.values()}
    if name not in users and (model.trace.stack != [name] or not users):
        model.go(name)


def _every_occasion(model: Shadows) -> None:
    """Do what gives each fault an occasion, one call after the other; then all is freed and goes."""
    if not model.trace.stack:
        model.come("p")
    caller, key = model.trace.stack[0], (0xFFFF888300000000, 1)
    like: Variable = (key[0], 1 + 2**16)
    for call in ("alloc", "get_or_alloc"):
        for ctor in ("none", "works"):
            for _ in range(2):
                _whole(model.alloc(1, caller, call, key, ctor))
                _whole(model.get(2, caller, key))
            _free_twice(model, caller, key)
            _whole(model.alloc(1, caller, call, key, ctor))
            _free_twice(model, caller, key)
    _whole(model.alloc(1, caller, "alloc", like, "none"))
    _whole(model.alloc(1, caller, "alloc", key, "none"))
    _whole(model.free_all(1, caller, key[1], True))
    reader = model.get(2, caller, key)
    next(reader)
    _whole(model.alloc(1, caller, "alloc", key, "none"))
    _whole(reader)
    for name in list(model.trace.stack):
        model.go(name)


def _free_twice(model: Shadows, caller: str, key: Variable) -> None:
    """Free what may be two, and once more what is not there."""
    for _ in range(3):
        _whole(model.free(1, caller, key, True))


def _whole(steps: Steps) -> None:
    for _ in steps:
        pass


def with_losses(trace: Trace, lost: set[int]) -> Trace:
    """Return a trace without some of its events, by their places, with the markers that probes write."""
    told = Trace(probes=())
    seq: Counter[str] = Counter()
    pending: Counter[str] = Counter()

    def put(event: ev.AnyEvent) -> None:
        told.events.append(msgspec.structs.replace(event, seq=seq[event.probe]))
        seq[event.probe] += 1

    for place, event in enumerate(trace.events):
        if place in lost and not isinstance(event, ev.Header | ev.End):
            pending[event.probe] += 1
            continue
        put(event)
    for probe, count in pending.items():
        put(ev.Lost(probe=probe, seq=0, ts_ns=trace.now, count=count))
    told.now = trace.now
    return told
