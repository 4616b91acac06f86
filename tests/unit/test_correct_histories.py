# SPDX-License-Identifier: Apache-2.0
"""Random histories of a correct kernel are accused of nothing; one corruption is noticed by its rule."""

from __future__ import annotations

import os
import random
from collections import Counter

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klp.analysis.evidence import Verdict
from klp.analysis.history import history
from klp.analysis.rules.registry import RULES, RuleVerdict, judge_all
from klp.trace import events as ev
from tests.unit.coremodel import Shape, correct
from tests.unit.traces import Trace

EXAMPLES = int(os.environ.get("KLP_EXAMPLES", "300"))
MINE = tuple(name for name in RULES if name.startswith("T"))
SHAPES = st.builds(
    Shape,
    seed=st.integers(0, 2**32),
    lives=st.integers(1, 6),
    tasks=st.integers(1, 6),
    patience=st.integers(0, 4) | st.just(17),
    **{
        name: st.booleans()
        for name in ("births", "deaths", "execs", "races", "modules", "reversals", "forces", "replaces",
                     "refusals", "waits_seen", "open_end")
    },
)  # fmt: skip
many = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip


def verdicts(trace: Trace) -> dict[str, RuleVerdict]:
    return {each.rule.id: each for each in judge_all(history(trace.numbered()), MINE)}


def violated(trace: Trace) -> dict[str, str]:
    return {name: each.why for name, each in verdicts(trace).items() if each.verdict is Verdict.VIOLATED}


@many
@given(SHAPES)
def test_a_correct_history_is_accused_of_nothing(shape: Shape) -> None:
    assert violated(correct(shape)) == {}
