# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.recordings FOLDER SHAPE EVENTS`: a run folder such as a long session leaves.

The trace maker of the tests writes it. A livepatch is enabled and disabled again and again; in every cycle
a module comes and goes that it has an object for, and tasks make, find and free shadow variables.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from klp.analysis.history import history
from klp.analysis.result import RunResult, callback_calls
from klp.analysis.rules.registry import judge_all
from klp.paths import RunLayout
from klp.records.encoding import encode
from klp.trace import events as ev
from klp.trace.reading import read_events
from tests.unit.everything import target_module
from tests.unit.runfolders import result_of, sample
from tests.unit.traces import MS, Trace, task

PATCH = "p"
# How many variables stand at once.
_STANDING = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """What makes runs of one kind.

    Attributes:
        words: what it is.
        events_each: of one cycle of the livepatch.
        tasks: that have to switch in each transition.
        lives: of each address that variables are given: how many of them have it, one after the other.
    """

    words: str
    events_each: int
    tasks: int
    lives: int = 100


SHAPES = {
    "mixed": Shape("100 cycles of 2,000 tasks", 10_000, 2_000),
    "one address": Shape("10,000 variables at each address", 10_000, 200, lives=10_000),
    "cycles": Shape("1,000 cycles with a module", 1_000, 100),
}


class _Written(Trace):
    """A trace that keeps no event that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def flush(self, file: Path) -> None:
        with file.open("ab") as opened:
            opened.write(msgspec.json.Encoder().encode_lines(self.events))
        self.written += len(self.events)
        self.events.clear()


def write_recording(folder: Path, shape: Shape, events: int) -> None:
    """Write a run's events.jsonl and run.json."""
    folder.mkdir(parents=True)
    layout, trace = RunLayout(folder), _Written()
    trace.tasks |= dict.fromkeys(range(1_000, 1_000 + shape.tasks), -1)
    trace.put(ev.Plan, name="livepatch-sample", livepatch=PATCH, moment="begin")
    variables = _variables(trace, shape.lives, events // (4 * shape.lives))
    for cycle in range(1, max(1, events // shape.events_each) + 1):
        _cycle(trace)
        trace.flush(layout.events)
        while trace.written + len(trace.events) < cycle * shape.events_each:
            next(variables)
            if len(trace.events) > 10_000:
                trace.flush(layout.events)
    trace.put(ev.Plan, name="livepatch-sample", livepatch=PATCH, moment="end")
    trace.end().flush(layout.events)  # type: ignore[attr-defined]
    layout.summary.write_bytes(encode(_summary(layout.events, trace.written)))


def _cycle(trace: Trace) -> None:
    """Enable the livepatch, with a task that sleeps in it for two passes; a module; disable it."""
    asleep = {3: ("sleeping", "cmdline_proc_show"), 2: ("running", None)}
    trace.wait(10)
    begun = trace.now
    trace.begin_enabling(PATCH)
    trace.try_once(asleep)
    trace.put(ev.Enable, at=begun, patch=PATCH, replace=False, errno=0, duration_ns=trace.now - begun)
    trace.switch(2, "exit")
    trace.wait(1_000)
    with trace.try_all(), trace.completing():
        trace.callback(PATCH, "post_patch")
    trace.stacked("complete")
    trace.wait(10)
    target_module(trace)
    trace.wait(10)
    trace.disable(PATCH)
    trace.wait(10)
    trace.step("unload", PATCH)
    trace.module(PATCH, "going", livepatch=True)


def _variables(trace: Trace, lives: int, addresses: int) -> Iterator[None]:
    """Have one more variable made, and one freed that was made before, at each turn."""
    standing: list[tuple[str, int, str]] = []
    made = 0
    while True:
        place = made % _STANDING + _STANDING * (made // (_STANDING * lives) % max(1, addresses))
        one = (f"0xffff8881{made * 64 % 2**32:08x}", 1 + made % 3, f"0xffff8880{place * 64:08x}")
        made += 1
        _make(trace, *one)
        standing.append(one)
        if len(standing) == _STANDING:
            _free(trace, *standing.pop(0))
        yield


def _make(trace: Trace, obj: str, id_: int, variable: str) -> None:
    for result in ("made", "found") if id_ == 1 else ("made",):
        trace.put(
            ev.ShadowAlloc, call="get_or_alloc" if id_ == 1 else "alloc", obj=obj, id=id_, size=8,
            flags=3264, ctor=id_ == 2, ctor_calls=int(id_ == 2), ctor_result=0 if id_ == 2 else None,
            result=result, variable=variable, zeroed=None if id_ == 2 or result == "found" else True,
            caller="worker_make+0x31 [p]", stack=None, duration_ns=700, task=task(7, "worker/7"),
        )  # fmt: skip


def _free(trace: Trace, obj: str, id_: int, variable: str) -> None:
    begun = trace.now + 500
    trace.put(
        ev.ShadowFreed, obj=obj, id=id_, variable=variable, age_ns=MS, dtor=id_ == 2,
        dtor_calls=int(id_ == 2),
    )  # fmt: skip
    trace.put(
        ev.ShadowFree, at=begun, obj=obj, id=id_, dtor=id_ == 2, freed=True, caller="worker_free+0x2c [p]",
        task=task(7, "worker/7"),
    )  # fmt: skip


def _summary(events: Path, count: int) -> RunResult:
    """Return what klp would have said of the run."""
    whole, likely = history(read_events(events)), result_of(sample())
    plan = msgspec.structs.replace(
        likely.plans[0],
        livepatch=PATCH,
        transitions=whole.transitions,
        shadow=whole.ledger,
        callbacks=callback_calls(whole, PATCH),
    )
    return msgspec.structs.replace(likely, plans=(plan,), events=count, rules=judge_all(whole))


if __name__ == "__main__":
    write_recording(Path(sys.argv[1]), SHAPES[sys.argv[2]], int(sys.argv[3]))
