# SPDX-License-Identifier: Apache-2.0
"""Random histories of shadow variables: right ones are never accused, and a single fault is noticed.

``KLP_EXAMPLES=10000`` in the environment sets how many are drawn; without it there are a few hundred.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klp.analysis.evidence import Verdict
from klp.analysis.history import history
from klp.analysis.rules.registry import RULES, judge_all
from tests.unit.shadow_histories import shadow_history, with_losses
from tests.unit.shadow_model import Fault
from tests.unit.traces import Trace

ALL = tuple(name for name in RULES if name.startswith("S"))
HISTORIES = int(os.environ.get("KLP_EXAMPLES", "300"))
DATA = st.binary(min_size=400, max_size=400)
DRAWN = settings(
    max_examples=HISTORIES,
    deadline=None,
    database=None,
    derandomize="KLP_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
FEWER = settings(DRAWN, max_examples=max(20, HISTORIES // len(Fault)))


def violated(trace: Trace) -> dict[str, str]:
    verdicts = judge_all(history(trace.end().numbered()), ALL)
    return {each.rule.id: each.why for each in verdicts if each.verdict is Verdict.VIOLATED}


@DRAWN
@given(data=DATA)
def test_a_right_history_is_never_accused(data: bytes) -> None:
    trace, _ = shadow_history(data)
    assert violated(trace) == {}


@DRAWN
@given(data=DATA, lost=st.sets(st.integers(0, 400), min_size=1, max_size=20))
def test_a_right_history_of_which_events_were_lost_is_never_accused(data: bytes, lost: set[int]) -> None:
    trace, _ = shadow_history(data)
    assert violated(with_losses(trace, lost)) == {}


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
@FEWER
@given(data=DATA, wait=st.integers(0, 6))
def test_a_fault_is_noticed_by_its_rule(fault: Fault, data: bytes, wait: int) -> None:
    trace, happened = shadow_history(data, fault, wait)
    assert happened
    assert fault.value[0] in violated(trace)


def test_every_rule_has_a_fault() -> None:
    assert {fault.value[0] for fault in Fault} == set(ALL)


def test_the_table_of_rules_and_corruptions_is_whole(root: Path) -> None:
    text = (root / "docs/rules-proved.md").read_text()
    rows = [f"| {fault.value[0]} | {fault.value[1]} |" for fault in Fault]
    assert [row for row in rows if row not in text.splitlines()] == []
