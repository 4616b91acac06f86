# SPDX-License-Identifier: Apache-2.0
"""The work of the analysis, of a page and of a query grows as the trace does, in steps of Python."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from klp.analysis.history import history
from klp.analysis.recording import RecordedRun, guest_tables, guest_trace
from klp.analysis.rules.registry import judge_all
from klp.report.html import report_page
from klp.report.perfetto import perfetto_trace
from klp.report.query_rows import rows_of
from klp.trace import events as ev
from klp.trace.reading import read_events
from tests.unit.everything import target_module
from tests.unit.runfolders import result_of
from tests.unit.shadow_calls import allocates, frees, frees_all
from tests.unit.traces import SHELL, Trace

# From twice to four times as much takes twice the steps that once to twice took, and a few more for what is
# sorted or looked up. What a trace takes however short it is falls out of this ratio, so that a quadratic
# part shows that is a hundredth of the steps; in the ratio of the steps themselves it would drown.
FEW, MOST = 8, 2.02


def cycles(count: int) -> Trace:
    """A livepatch comes and goes, and meanwhile a module that it has an object for; one callback fails."""
    trace = Trace()
    for number in range(count):
        trace.enable("p")
        trace.put(ev.Ran, patch="p", object="vmlinux", function="cmdline_proc_show", version="new",
                  patch_state=1, target=1, count=2, task=SHELL)  # fmt: skip
        trace.wait(10)
        target_module(trace)
        trace.step("load", "target")
        trace.step("unload", "target")
        trace.wait(10)
        trace.sysfs(p=True)
        trace.disable("p")
        trace.wait(10)
        trace.step("unload", "p")
        trace.module("p", "going", livepatch=True)
        trace.callback("q", "pre_patch", result=-22)
        trace.put(ev.Plan, name=f"plan {number}", livepatch="p", moment="begin")
    return trace.end()


def replacements(count: int) -> Trace:
    """Each livepatch replaces the one before, by turns of two names; each is forced."""
    trace = Trace()
    trace.enable("p0")
    for number in range(1, count):
        new, old = f"p{number % 2}", f"p{1 - number % 2}"
        trace.wait(100)
        trace.begin_enabling(new, replace=True)
        trace.put(ev.Force, patch=new, core=trace.core)
        with trace.try_all(), trace.completing(replace=True):
            trace.put(ev.Replaced, patch=old, by=new)
            trace.object(old, action="unpatch")
            trace.callback(new, "post_patch")
        trace.stacked("complete")
        trace.freed(old, forced=True)
    return trace.end()


def reversals(count: int) -> Trace:
    """A disabling is reversed again and again, and tasks are held up in every turn."""
    trace = Trace()
    trace.enable("p")
    for _ in range(count):
        trace.wait(100)
        trace.begin_disabling("p")
        trace.try_once({3: ("sleeping", "cmdline_proc_show")})
        trace.wait(500)
        trace.put(ev.Reverse, patch="p", target=1, core=trace.core)
        trace.pending.clear()
        trace.set_core(target_state=1, enabled=True)
        trace.start()
        trace.wait(500)
        with trace.try_all(), trace.completing():
            trace.callback("p", "post_patch")
    return trace.end()


def functions(count: int) -> Trace:
    """One livepatch of many functions, each of which runs while a transition lasts."""
    trace = Trace()
    names = tuple(f"function_{number}" for number in range(32 * count))
    trace.begin_enabling("p", functions=names)
    for name in names:
        trace.put(ev.Ran, patch="p", object="vmlinux", function=name, version="old",
                  patch_state=0, target=1, count=2, task=SHELL)  # fmt: skip
    with trace.try_all(), trace.completing():
        trace.callback("p", "post_patch")
    return trace.end()


def plans(count: int) -> Trace:
    """Short plans, one after the other, of one livepatch that is there all the while."""
    trace = Trace()
    trace.enable("p")
    for number in range(4 * count):
        trace.put(ev.Plan, name=f"plan {number}", livepatch="p", moment="begin")
        trace.wait(10)
        trace.put(ev.Plan, name=f"plan {number}", livepatch="p", moment="end")
    return trace.end()


def one_address(count: int) -> Trace:
    """All variables lie at one address, one after the other."""
    trace = Trace()
    for number in range(4 * count):
        allocates(trace, "alloc", "made", "0xa1", obj=hex(number))
        frees(trace, "0xa1", obj=hex(number))
    return trace.end()


def one_object(count: int) -> Trace:
    """All variables hang on one object, at once."""
    trace = Trace()
    for number in range(4 * count):
        allocates(trace, "get_or_alloc", "made", f"0xa{number}", id_=number)
        allocates(trace, "get_or_alloc", "found", f"0xa{number}", id_=number)
    for number in range(4 * count):
        frees_all(trace, number, ("0x1", number, f"0xa{number}"))
    return trace.end()


def one_id(count: int) -> Trace:
    """All variables have one id, and stand at once."""
    trace = Trace()
    for number in range(4 * count):
        allocates(trace, "alloc", "made", f"0xa{number}", obj=hex(number))
    for number in range(4 * count):
        frees(trace, f"0xa{number}", obj=hex(number))
    return trace.end()


def analyzed(trace: Trace, folder: Path) -> Callable[[], object]:
    file = trace.write(folder / f"{len(trace.events)}.jsonl")
    return lambda: judge_all(history(read_events(file)))


def queried(trace: Trace, _: Path) -> Callable[[], object]:
    run = RecordedRun("r", "r", result_of(trace))
    return lambda: list(rows_of(run, [guest_tables(trace.numbered())]))


def reported(trace: Trace, _: Path) -> Callable[[], object]:
    run = RecordedRun("r", "r", result_of(trace))
    numbered = trace.numbered()

    def work() -> None:
        guest = guest_trace("r", numbered)
        report_page([RecordedRun("r", "r", run.result, guests=(guest,))])

    return work


def drawn(trace: Trace, _: Path) -> Callable[[], object]:
    run = RecordedRun("r", "r", None, guests=(guest_trace("r", trace.numbered()),))
    return lambda: perfetto_trace([run])


def steps(work: Callable[[], object]) -> int:
    """Count what Python executes: the same on each machine, whatever else it does."""
    count = 0

    def counting(frame: object, event: str, _arg: object) -> object:
        nonlocal count
        frame.f_trace_opcodes = True  # type: ignore[attr-defined]
        count += event == "opcode"
        return counting

    before = sys.gettrace()
    sys.settrace(counting)  # type: ignore[arg-type]
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def growth(work: Callable[[int], Callable[[], object]]) -> float:
    """Return what the second doubling adds to the steps, as a multiple of what the first adds."""
    work(1)()  # once for what is only done once
    once, twice, four_times = (steps(work(times * FEW)) for times in (1, 2, 4))
    return (four_times - twice) / max(1, twice - once)


@pytest.mark.parametrize("done", [analyzed, queried, reported, drawn])
@pytest.mark.parametrize(
    "made", [cycles, replacements, reversals, functions, plans, one_address, one_object, one_id]
)
def test_the_work_grows_as_the_trace_does(
    tmp_path: Path, made: Callable[[int], Trace], done: Callable[[Trace, Path], Callable[[], object]]
) -> None:
    assert growth(lambda count: done(made(count), tmp_path)) < MOST


def test_that_check_can_fail() -> None:
    def work(count: int) -> None:
        for number in range(count):
            sum(each for each in range(200))
            sum(each for each in range(number))

    assert growth(lambda count: lambda: work(count)) > MOST
