# SPDX-License-Identifier: Apache-2.0
"""A run's result on a terminal, wide or narrow, and as JSON that reads back."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from klp.analysis.calls import FunctionCalls, TaskCalls
from klp.analysis.legs import LegOutcome
from klp.analysis.result import (
    RUN_SCHEMA,
    CallbackCall,
    Check,
    PatchedFunctions,
    PlanResult,
    Provenance,
    RunResult,
    Verdict,
)
from klp.analysis.rules.rule import Needs, Rule, RuleVerdict
from klp.analysis.shadow import ShadowLedger, ShadowVariable
from klp.analysis.transitions import Straggler, Transition
from klp.records.encoding import decode_run, encode
from klp.report.table import failed_checks, rules_line, run_table, straggler_line

LEDGER = ShadowLedger(allocated=0, found=0, refused=0, freed=0, strays=0, left=())
LEFT = ShadowVariable(obj="0xa", id=7, size=8, made_ns=1, caller="f+0x1 [m]")
PROVENANCE = Provenance(
    klp="0", qemu="10", python="3", kernel="6.12.1-amd64", kernel_name="6.12", kernel_digest="0",
    image_digest="0", accelerator="tcg", accelerator_reason="so", memory_mib=1024, cpus=2, modules={},
    probes={},
)  # fmt: skip


def straggler(pid: int, held_s: float) -> Straggler:
    return Straggler(
        pid=pid, comm=f"kworker/{pid}:[x]", reasons={"sleeping in busy": 2, "running on a CPU": 1},
        held_ns=int(held_s * 1e9), switched_by="exit",
    )  # fmt: skip


def transition(target: int, seconds: float | None, *stragglers: Straggler) -> Transition:
    return Transition(
        patch="p", target=target, outcome=LegOutcome.COMPLETE, started=True, begun_ns=10**9,
        ended_ns=None if seconds is None else 10**9 + int(seconds * 1e9), passes=4, attempts=5,
        tasks={"attempt": 70, "exit": 5}, twice=(), stragglers=stragglers, signals=0, forced=False,
    )  # fmt: skip


FULL = PlanResult(
    name="full", livepatch="p", verdict=Verdict.VIOLATED, error=None, log=(),
    objects=(
        PatchedFunctions(object="vmlinux", functions=("cmdline_proc_show,1", "b,2")),
        PatchedFunctions(object="ext4", functions=()),
    ),
    transitions=(transition(1, 5.407, straggler(1, 3.935), straggler(2, 4.5)), transition(0, 0.378)),
    shadow=msgspec.structs.replace(LEDGER, allocated=3, freed=2, left=(LEFT,)),
    callbacks=(
        CallbackCall(kind="pre_patch", object="vmlinux", function="f", result=-19, duration_ns=1),
        CallbackCall(kind="post_unpatch", object="vmlinux", function="f", result=None, duration_ns=1),
    ),
    checks=(
        Check(name="good", verdict=Verdict.HELD, evidence="well"),
        Check(name="bad", verdict=Verdict.VIOLATED, evidence="saw [1]"),
        Check(name="unseen", verdict=Verdict.NOT_OBSERVED, evidence="none"),
    ),
)  # fmt: skip
PLAIN = PlanResult(
    name="plain", livepatch="", objects=(), transitions=(), shadow=LEDGER, callbacks=(), checks=(),
    log=(), error=None, verdict=Verdict.HELD,
)  # fmt: skip


def result(*plans: PlanResult) -> RunResult:
    return RunResult(
        schema=RUN_SCHEMA, begun_at=1.0, ended_at=2.0, provenance=PROVENANCE, plans=plans, events=1,
        lost_events=0, unseen=(), error=None, rules=(), verdict=Verdict.HELD,
    )  # fmt: skip


def rendered(run: RunResult, width: int = 400) -> str:
    written = io.StringIO()
    Console(file=written, width=width).print(run_table(run))
    return written.getvalue()


def test_the_table_tells_everything() -> None:
    text = rendered(result(FULL, PLAIN))
    assert "kernel 6.12.1-amd64 under tcg" in text
    for part in (
        "changes vmlinux: cmdline_proc_show, b", "callbacks alone for ext4", "5.41", "0.38", "4+4",
        "75+75", "3/2/1",
        "kworker/2:[x][2] 4.50 s: sleeping in busy, running on a CPU",
        "vmlinux: pre-patch=-19 post-unpatch", "violated",
    ):  # fmt: skip
        assert part in text, part
    [plain] = [line for line in text.splitlines() if line.startswith("plain")]
    assert plain.split() == ["plain", *["-"] * 5, "held"]
    assert "a plain module" in text


def test_what_ran_of_it_is_told_of_all_repetitions_together() -> None:
    assert "exercised" not in rendered(result(FULL))
    cat = TaskCalls(task="cat", pid=7, calls=2)
    ran, idle = (FunctionCalls(object="vmlinux", old=name, new=f"new_{name}") for name in ("f", "g"))
    once = msgspec.structs.replace(FULL, calls=(msgspec.structs.replace(ran, tasks=(cat,)), idle))
    assert "exercised 1 of 2 functions, 2 calls by 1 task" in rendered(result(once))
    again = msgspec.structs.replace(once, repetition=2)
    assert "exercised 1 of 2 functions, 4 calls by 2 tasks" in rendered(result(once, again))


def test_the_longest_held_stands_first() -> None:
    text = rendered(result(FULL))
    assert text.index("kworker/2:") < text.index("kworker/1:")


def test_only_three_stragglers_are_named() -> None:
    many = transition(1, 1.0, *(straggler(pid, pid) for pid in range(1, 6)))
    text = rendered(result(msgspec.structs.replace(FULL, transitions=(many,))))
    assert [f"[{pid}]" in text for pid in range(1, 6)] == [False, False, True, True, True]
    assert "and 2 more" in text


def test_a_transition_without_an_end() -> None:
    plan = msgspec.structs.replace(FULL, transitions=(transition(1, None),))
    assert "not ended" in rendered(result(plan))


def test_repetitions_of_a_plan_are_one_line_with_ranges() -> None:
    held = msgspec.structs.replace(
        FULL, verdict=Verdict.HELD, repetition=2, callbacks=(),
        transitions=(transition(1, 10.25, straggler(9, 9.0)), transition(0, 0.5)),
    )  # fmt: skip
    third = msgspec.structs.replace(FULL, repetition=3)
    text = rendered(result(FULL, PLAIN, held, third))
    [line] = [each for each in text.splitlines() if each.startswith("full (3 times)")]
    for part in ("5.41-10.25", "0.38-0.50", "75+75", "3/2/1", "violated 2 times"):
        assert part in line, part
    assert "kworker/9:[x][9] 9.00 s" in text
    assert "callbacks differ in 1 repetitions" in text
    assert text.count("changes vmlinux") == 1
    stopped = msgspec.structs.replace(FULL, transitions=(transition(1, 2.0),))
    assert "4 or 4+4" in rendered(result(FULL, stopped))
    bad = "full, repetition 3: bad: saw [1]"
    assert failed_checks(result(FULL, PLAIN, held, third))[-1] == bad


@pytest.mark.parametrize("width", [40, 80, 110, 300])
def test_the_table_fits_every_width(width: int) -> None:
    again = msgspec.structs.replace(FULL, repetition=2, transitions=())
    lines = rendered(result(FULL, PLAIN, again), width).splitlines()
    assert max(map(len, lines)) <= width


def test_a_straggler_in_one_line() -> None:
    assert straggler_line(straggler(7, 1.5)) == (
        "kworker/7:[x][7] 1.50 s: sleeping in busy, running on a CPU"
    )


def test_only_violated_checks_failed() -> None:
    assert failed_checks(result(FULL, PLAIN)) == ["full: bad: saw [1]"]
    assert failed_checks(result(PLAIN)) == []


def rule_verdict(verdict: Verdict) -> RuleVerdict:
    rule = Rule(id="T4", text="once", source="here", needs=Needs(probes=(), symbols=()))
    return RuleVerdict(rule=rule, verdict=verdict, observations=1, evidence=(), why="[2] switched twice")


def test_a_broken_rule_is_told() -> None:
    rules = tuple(rule_verdict(each) for each in (Verdict.VIOLATED, Verdict.HELD, Verdict.HELD))
    run = msgspec.structs.replace(result(PLAIN), rules=rules)
    assert failed_checks(run) == ["rule T4: once: [2] switched twice"]
    assert rules_line(run) == "rules: 2 held, 1 violated, 0 not observed"


def test_a_rule_that_a_plan_broke_is_told_of_the_plan_alone() -> None:
    check = Check(name="rule T4", verdict=Verdict.VIOLATED, evidence="once [2] switched twice (#7)")
    plan = msgspec.structs.replace(PLAIN, checks=(check,))
    run = msgspec.structs.replace(result(plan), rules=(rule_verdict(Verdict.VIOLATED),))
    assert failed_checks(run) == [f"{PLAIN.name}: rule T4: once [2] switched twice (#7)"]


def test_json_reads_back() -> None:
    run = result(FULL, PLAIN)
    assert decode_run(encode(run)) == run
    assert encode(run).endswith(b"}\n")


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b'{"schema": 1}'])
def test_torn_json_is_refused(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_run(text)
