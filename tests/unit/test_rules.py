# SPDX-License-Identifier: Apache-2.0
"""Every rule is held by a trace that holds it, and caught by one that breaks it."""

from __future__ import annotations

import gzip
import re
from functools import cache
from pathlib import Path

import pytest

from klp.analysis.evidence import Verdict
from klp.analysis.history import history
from klp.analysis.rules.registry import RULES, RuleVerdict, judge_all
from klp.trace import events as ev
from klp.trace.reading import read_events
from tests.unit.everything import everything
from tests.unit.mutation import EVENTS, Mutation, base, events, mutated, mutations

ALL = mutations()
KERNELS = ("6.1.0", "6.12.117", "7.2.12")


def named(verdicts: tuple[RuleVerdict, ...], kind: Verdict) -> dict[str, str]:
    """Each rule with that verdict, and why."""
    return {each.rule.id: each.why for each in verdicts if each.verdict is kind}


@cache
def verdicts_of_base(name: str) -> tuple[RuleVerdict, ...]:
    return judge_all(history(events(base(name))))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_trace_in_which_every_rule_holds(kernel: str) -> None:
    verdicts = judge_all(history(everything(kernel).numbered()))
    assert list(named(verdicts, Verdict.HELD)) == list(RULES)
    for each in verdicts:
        assert each.observations > 0
        assert all(one.words for one in each.evidence)


# The rules that each recording of a real kernel holds, and those that it breaks.
RECORDED = {
    "transition-6.1": "T1 T2 T3 T4 T5 T6 T7 T8 T10 T11 T13",
    "transition-6.12": "T1 T2 T3 T4 T5 T6 T7 T8 T10 T11 T13",
    "transition-7.2": "T1 T2 T3 T4 T5 T6 T7 T8 T10 T11 T13",
    "states-6.12": "L2 V1 V2 V3",
    "samples-6.1": ("T1 T2 T3 T4 T5 T6 T7 T11 T13 T14 S1 S2 S3 S4 S5 S6 S7 S8 C1 C2 C3 L1 L2 L4 L5 L6"),
    # There the probe saw no free of one variable, whose place another took: S1, S6 and S7 are open.
    "samples-7.2": ("T1 T2 T3 T4 T5 T6 T7 T11 T13 T14 S2 S3 S4 S5 S8 C1 C2 C3 L1 L2 L4 L5 L6"),
    # The seven samples of the kernel's source, with all probes, the harness's own events and a control.
    "samples-6.12": ("T1 T2 T3 T4 T5 T6 T7 T11 T13 T14 S1 S2 S3 S4 S5 S6 S7 S8 C1 C2 C3 L1 L2 L4 L5 L6"),
    # Two zombies among the tasks that had to switch: one was reaped before the first pass.
    "under-load-6.12": "T1 T2 T3 T4 T6 T11 T13 S3 S7 S8 C1 C2 L1 L4 L6",
    # A kernel that breaks one of its promises each: tests/faults/klp_misbehave.c.
    "switch-blocked-6.12": "T1 T2 T3 T4 T6 T7 T11 C1 C3 L1 L6",
    "force-unpinned-6.12": "T1 T2 T3 T4 T5 T6 T7 T11 T13 C1 C2 C3 L1 L6",
    "post-unpatch-anyway-6.12": "T1 T2 T3 T4 T6 T10 T13 C1 C3 C6 L1 L6",
    "replaced-callbacks-6.12": "T1 T2 T3 T4 T6 T13 C2 C3 L1 L2 L3 L6",
    "free-nothing-6.12": "T1 T2 T3 T4 T6 T13 S1 S2 S8 C1 L1 L6",
    "dtor-dropped-6.12": "T1 T2 T3 T4 T6 T13 S1 S4 S6 S7 C1 L1 L6",
    "enabled-wrong-6.12": "T1 T2 T3 T4 T6 T13 C1 L6",
    "replaced-kept-6.12": "T1 T2 T3 T4 T6 T13 C1 L1 L2 L6",
    "pinned-6.12": "T1 T2 T3 T4 T6 T13 C1 L1 L6",
}
BROKEN = {
    "shadow-wrong-6.12": "S2",
    "switch-blocked-6.12": "T5 T13",
    "force-unpinned-6.12": "T9",
    "post-unpatch-anyway-6.12": "C2 C4",
    "replaced-callbacks-6.12": "C1 C7",
    "free-nothing-6.12": "S7",
    "dtor-dropped-6.12": "S5",
    "enabled-wrong-6.12": "L1",
    "replaced-kept-6.12": "L3",
    "pinned-6.12": "L4",
}


@pytest.mark.parametrize("name", sorted({*RECORDED, *BROKEN}))
def test_a_recording_of_a_real_kernel_is_judged_as_it_must_be(name: str, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(gzip.decompress((EVENTS / "real" / f"{name}.jsonl.gz").read_bytes()))
    verdicts = judge_all(history(read_events(file)))
    assert set(named(verdicts, Verdict.VIOLATED)) == set(BROKEN.get(name, "").split())
    assert set(named(verdicts, Verdict.HELD)) == set(RECORDED.get(name, "").split())


def test_evidence_has_the_names_of_errors_and_no_words_of_pythons() -> None:
    file = EVENTS / "real" / "samples-6.12.jsonl.gz"
    recorded = (ev.decode(line) for line in gzip.decompress(file.read_bytes()).splitlines())
    judged = [
        *judge_all(history(everything(KERNELS[1]).numbered())),
        *judge_all(history(enumerate(recorded, 1))),
    ]  # fmt: skip
    said = "\n".join(one.words for each in judged for one in each.evidence)
    for words in (": EADDRINUSE, ", "klp_enable_patch returned EINVAL", "refused with ENODEV",
                  "after it was freed: success", "loaded again: success",
                  "before init: ", "enabled is true, traced true"):  # fmt: skip
        assert words in said
    assert not re.findall(r"errno|-\d\d\b|\bTrue\b|\bFalse\b|before_", said)


def test_every_recording_is_judged() -> None:
    found = {file.name.removesuffix(".jsonl.gz") for file in (EVENTS / "real").iterdir()}
    assert found == {*RECORDED, *BROKEN}


@pytest.mark.parametrize("mutation", ALL, ids=[f"{each.rule}-{i}" for i, each in enumerate(ALL)])
def test_a_trace_changed_in_one_place_breaks_its_rule(mutation: Mutation) -> None:
    assert not named(verdicts_of_base(mutation.base), Verdict.VIOLATED)
    verdicts = judge_all(history(events(mutated(mutation))))
    broken = named(verdicts, Verdict.VIOLATED)
    assert set(broken) == {mutation.rule, *mutation.also}, broken
    [own] = [each for each in verdicts if each.rule.id == mutation.rule]
    assert own.evidence


def test_every_rule_has_a_trace_that_breaks_it() -> None:
    assert {each.rule for each in ALL} == set(RULES)
    assert all(each.reason for each in ALL)


def test_a_replacement_that_completes_in_its_first_pass_is_judged() -> None:
    numbered = list(everything("6.12.117").numbered())
    [leg] = [each for each in history(numbered).legs if each.replace and each.ended_ns]
    ended = leg.ended_ns or 0
    first_pass = [
        (number, each)
        for number, each in numbered
        if not (isinstance(each, ev.PatchStack) and leg.patch in each.patches and each.ts_ns < ended)
    ]
    verdicts = {each.rule.id: each for each in judge_all(history(first_pass))}
    assert len(first_pass) < len(numbered)
    assert verdicts["L3"].verdict is Verdict.HELD
