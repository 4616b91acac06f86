# SPDX-License-Identifier: Apache-2.0
"""Sets of runs made by hand, for the tests of comparisons."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from klp.analysis.acquittal import judged
from klp.analysis.checked import CHECK_SCHEMA, CheckedKernel, CheckedLivepatch, CheckResult, ScenarioOutcome
from klp.analysis.compare.sets import RunSet, compare_sets
from klp.analysis.compare.values import CompareLimits, Comparison, Difference, Grade, Kind
from klp.analysis.evidence import Verdict
from klp.analysis.recording import Recorded, RecordedCheck, RecordedRun, guest_trace
from klp.analysis.result import PlanResult, RunResult
from klp.records.encoding import decode_run, encode
from klp.trace import events as ev
from tests.unit.runfolders import PATCH, result_of, sample, write_run
from tests.unit.traces import Trace

HELD = {3: ("sleeping", "cmdline_proc_show")}
RUNNING = {2: ("running", None)}


def life(
    *held: dict[int, tuple[str, str | None]],
    patching_ms: float = 1,
    wait_ms: float = 1_000,
    before: Callable[[Trace], None] | None = None,
) -> Trace:
    """Enable and disable a livepatch; each of `held` is a pass that leaves tasks behind."""
    trace = Trace()
    trace.begin_enabling(PATCH)
    if before:
        before(trace)
    for failing in held:
        trace.try_once(failing)
        trace.wait(wait_ms)
    trace.wait(patching_ms)
    with trace.try_all(), trace.completing():
        trace.callback(PATCH, "post_patch")
    trace.stacked("complete")
    trace.wait(20)
    trace.disable(PATCH)
    return trace.end()


def run_of(trace: Trace, /, run: str = "a-run", **changes: object) -> RecordedRun:
    """A run of one plan, which `changes` go over."""
    result = result_of(trace)
    [plan] = result.plans
    own = msgspec.structs.replace(plan, **changes)
    return RecordedRun(run, "", msgspec.structs.replace(result, plans=(own,)))


def told(run: RecordedRun, **changes: object) -> RecordedRun:
    """The same run, with another run.json."""
    return dataclasses.replace(run, result=msgspec.structs.replace(run.result, **changes))


def with_plans(run: RecordedRun, *plans: PlanResult) -> RecordedRun:
    return told(run, plans=plans)


def bare_run(trace: Trace, **changes: object) -> RecordedRun:
    """A run without plans, as a test leaves one."""
    result: RunResult = msgspec.structs.replace(result_of(trace), plans=(), **changes)
    return RecordedRun("a-run", "", result, guests=(guest_trace("a-run", trace.numbered()),))


def outcome(scenario: str, verdict: Verdict = Verdict.HELD, **changes: object) -> ScenarioOutcome:
    """What came of a scenario on 6.12; with a folder of its own where none is given."""
    whole = ScenarioOutcome(
        kernel="6.12", livepatch="fix", scenario=scenario, repetition=1, verdict=verdict, reasons=(),
        notes=(), rules={}, lost=False, seconds=1.5, command=f"klp check fix -s {scenario}",
        folder=f"6.12/fix/{scenario}",
    )  # fmt: skip
    return msgspec.structs.replace(whole, **changes)


def check_of(*outcomes: ScenarioOutcome, **changes: object) -> CheckResult:
    """A check with these outcomes, and the verdict that they come to."""
    kernels = tuple(
        CheckedKernel(
            name=name, release=f"{name}.1", kernel_digest="a", image_digest="b", accelerator="tcg"
        )
        for name in dict.fromkeys(each.kernel for each in outcomes)
    )
    livepatches = tuple(
        CheckedLivepatch(name=name, word=f"patches/{name}", digest="d1")
        for name in dict.fromkeys(each.livepatch for each in outcomes)
    )
    whole = CheckResult(
        schema=CHECK_SCHEMA, klp="0.1", qemu="7.2", begun_at=1_760_000_000.0, ended_at=1_760_000_060.0,
        livepatches=livepatches, kernels=kernels,
        scenarios=tuple(dict.fromkeys(each.scenario for each in outcomes)), quick=False,
        repeat=max(each.repetition for each in outcomes), outcomes=outcomes, error=None, complete=True,
    )  # fmt: skip
    return judged(msgspec.structs.replace(whole, **changes))


def check_run(result: CheckResult, **traces: Trace) -> RecordedCheck:
    """A check, with a run folder for each scenario that a trace is given for."""
    results = {f"6.12/fix/{name.replace('_', '-')}": result_of(trace) for name, trace in traces.items()}
    return with_results("a-check", result, results)


def with_results(name: str, result: CheckResult, results: Mapping[str, RunResult]) -> RecordedCheck:
    """A check whose scenarios' folders have these results."""
    runs = {folder: RecordedRun(folder, "", each) for folder, each in results.items()}
    return RecordedCheck(name, "", result, runs=runs)


def write_check(folder: Path, result: CheckResult, **traces: Trace) -> Path:
    """Write a check's folder, with a run folder for each scenario that has one: of its trace, or any."""
    for each in result.outcomes:
        if each.folder:
            trace = traces.get(each.scenario.replace("-", "_"))
            run = write_run(folder / each.folder, trace or sample(each.kernel, hold=False))
            whole = decode_run((run / "run.json").read_bytes())
            plan = msgspec.structs.replace(whole.plans[0], name=each.scenario, verdict=each.verdict)
            (run / "run.json").write_bytes(encode(msgspec.structs.replace(whole, plans=(plan,))))
    folder.mkdir(exist_ok=True)
    (folder / "check.json").write_bytes(encode(result))
    return folder


Runs = Recorded | Iterable[Recorded]


def compared(base: Runs, new: Runs, **limits: object) -> Comparison:
    """Compare sets, or single runs."""
    return compare_sets(_set(base), _set(new), CompareLimits(**limits))


def often(base: Recorded, new: Recorded, **limits: object) -> Comparison:
    """Compare five repetitions of a run with five of another: enough for every test."""
    return compared([base] * 5, [new] * 5, **limits)


def _set(runs: Runs) -> RunSet:
    return RunSet.of((runs,) if isinstance(runs, Recorded) else tuple(runs))


def regressions(found: Comparison, kind: Kind | None = None) -> list[Difference]:
    """Return what became worse, of one kind or any."""
    return [each for each in found.regressions if kind in (None, each.kind)]


def only(found: Comparison, kind: Kind, grade: Grade = Grade.REGRESSION) -> Difference:
    """Return the one finding of a kind, which has the grade."""
    [one] = [each for each in found.findings if each.kind is kind]
    assert one.grade is grade, one
    return one


def swap_callbacks(trace: Trace) -> Trace:
    """Have the first two callbacks change places."""
    places = [n for n, each in enumerate(trace.events) if isinstance(each, ev.Callback)]
    first, second = places[:2]
    events = trace.events
    one, other = events[first], events[second]
    events[first] = msgspec.structs.replace(other, seq=one.seq, ts_ns=one.ts_ns)
    events[second] = msgspec.structs.replace(one, seq=other.seq, ts_ns=other.ts_ns)
    return trace
