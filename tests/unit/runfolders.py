# SPDX-License-Identifier: Apache-2.0
"""Run folders made by hand: a trace as the probes would write it, and the run.json that belongs to it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from klp.analysis.evidence import Verdict
from klp.analysis.history import history
from klp.analysis.result import (
    RUN_SCHEMA,
    CallbackCall,
    Check,
    PatchedFunctions,
    PlanResult,
    Provenance,
    RunResult,
)
from klp.analysis.rules.registry import judge_all
from klp.paths import RunLayout
from klp.records.encoding import encode
from klp.trace import events as ev
from tests.unit.traces import MS, Trace, task

PATCH = "livepatch_sample"


def shadow(trace: Trace, variable: str, *, freed_after_ms: float | None = 5) -> None:
    """Make a variable, and free it after a while."""
    obj = f"0xffff8880{variable[-4:]}"
    trace.put(
        ev.ShadowAlloc, call="alloc", obj=obj, id=1, size=8, flags=0, ctor=False, ctor_calls=0,
        ctor_result=None, result="made", variable=variable, zeroed=True, caller="f+0x1 [m]", stack=None,
        duration_ns=100, task=task(7),
    )  # fmt: skip
    if freed_after_ms is not None:
        trace.wait(freed_after_ms)
        begun = trace.now
        trace.put(ev.ShadowFreed, obj=obj, id=1, variable=variable, age_ns=None, dtor=False, dtor_calls=0)
        trace.put(
            ev.ShadowFree, at=begun, obj=obj, id=1, dtor=False, freed=True, caller="g+0x2 [m]", task=task(7)
        )  # fmt: skip


def sample(kernel: str = "6.12.117", tasks: int = 4, hold: bool = True) -> Trace:
    """A livepatch enabled and disabled; task 3 sleeps in a function it changes for two passes."""
    trace = Trace(kernel)
    trace.tasks.update(dict.fromkeys(range(10, 10 + tasks), -1))
    trace.put(ev.Plan, name="livepatch-sample", livepatch=PATCH, moment="begin")
    trace.wait(2)
    trace.begin_enabling(PATCH)
    if hold:
        trace.try_once({3: ("sleeping", "cmdline_proc_show"), 2: ("running", None)})
        trace.wait(400)
        trace.switch(2, "exit")
        trace.wait(600)
        trace.try_once({3: ("sleeping", "cmdline_proc_show")})
        trace.put(ev.Signals, patch=PATCH, core=trace.core)
        trace.wait(1_000)
    with trace.try_all(), trace.completing():
        trace.callback(PATCH, "post_patch")
    trace.stacked("complete")
    shadow(trace, "0xffff888000001000")
    shadow(trace, "0xffff888000002000", freed_after_ms=None)
    trace.wait(20)
    trace.disable(PATCH)
    trace.put(ev.Plan, name="livepatch-sample", livepatch=PATCH, moment="end")
    return trace.end()


def result_of(trace: Trace, *, begun_at: float = 1_760_000_000.0, **changes: object) -> RunResult:
    """Return what klp would say of a trace."""
    whole = history(trace.numbered())
    calls = [each for each in trace.events if isinstance(each, ev.Callback)]
    plan = PlanResult(
        name="livepatch-sample",
        livepatch=PATCH,
        objects=(PatchedFunctions(object="vmlinux", functions=("cmdline_proc_show,1",)),),
        transitions=whole.transitions,
        shadow=whole.ledger,
        callbacks=tuple(
            CallbackCall(
                kind=each.kind, object=each.object, function=each.function, result=each.result,
                duration_ns=each.duration_ns,
            )
            for each in calls
        ),
        checks=(
            Check(name="behaviour", verdict=Verdict.HELD, evidence="cat /proc/cmdline: <b>seen</b>"),
            Check(name="shadow variables", verdict=Verdict.VIOLATED, evidence="1 left"),
        ),
        log=(
            "[   12.0] klp: canary livepatch-sample",
            "[   12.1] livepatch: enabling patch 'livepatch_sample'",
            "[   14.3] livepatch: 'livepatch_sample': patching complete",
        ),
        error=None,
        verdict=Verdict.VIOLATED,
    )  # fmt: skip
    result = RunResult(
        schema=RUN_SCHEMA,
        begun_at=begun_at,
        ended_at=begun_at + 12.5,
        provenance=provenance(whole.kernel),
        plans=(plan,),
        events=len(trace.events),
        lost_events=0,
        unseen=(),
        error=None,
        rules=judge_all(whole),
        verdict=Verdict.VIOLATED,
    )
    return msgspec.structs.replace(result, **changes)


def provenance(kernel: str) -> Provenance:
    return Provenance(
        klp="0.1", qemu="7.2.22", python="3.11.7", kernel=kernel, kernel_name=kernel.rpartition(".")[0],
        kernel_digest="a1", image_digest="b2", accelerator="tcg", accelerator_reason="no KVM here",
        memory_mib=1024, cpus=2, modules={PATCH: "c3"}, probes={"klptransition.py": "d4"},
    )  # fmt: skip


def write_run(folder: Path, *traces: Trace, **changes: object) -> Path:
    """Write a run folder, with a trace for each of its guests."""
    folder.mkdir(parents=True)
    layout = RunLayout(folder)
    for number, trace in enumerate(traces, 1):
        trace.write(layout.of_guest(number).events)
    layout.summary.write_bytes(encode(result_of(traces[0], **changes)))
    return folder


__all__ = ["MS", "PATCH", "provenance", "result_of", "sample", "shadow", "write_run"]
