# SPDX-License-Identifier: Apache-2.0
"""Random histories of a correct kernel are accused of nothing; one corruption is noticed by its rule."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from klp.analysis.evidence import Verdict
from klp.analysis.history import history
from klp.analysis.rules.registry import RULES, RuleVerdict, judge_all
from klp.trace import events as ev
from tests.unit import corruptions_callbacks, corruptions_life  # noqa: F401 they add to CORRUPTIONS
from tests.unit.coremodel import Shape, correct
from tests.unit.corruptions import CORRUPTIONS, Corruption, NoPlace, corrupted
from tests.unit.shadow_model import Fault
from tests.unit.traces import Trace

EXAMPLES = int(os.environ.get("KLP_EXAMPLES", "300"))
MINE = tuple(name for name in RULES if name.startswith("T"))
# Shadow variables have a model of their own.
SHOWN = tuple(name for name in RULES if not name.startswith("S"))
FLAGS = (
    "births", "deaths", "execs", "races", "modules", "reversals", "forces", "replaces", "refusals",
    "waits_seen", "open_end", "callbacks", "states", "watched",
)  # fmt: skip
TABLE = sorted(CORRUPTIONS, key=lambda each: list(RULES).index(each.rule))
# What a history must have in it for a fault to find its place: by the rule's letter, and by the rule.
NEEDS: dict[str, dict[str, object]] = {
    "C": {"callbacks": True, "lives": 5}, "V": {"states": True, "callbacks": True, "lives": 6},
    "L": {"watched": True, "lives": 6, "open_end": False},
    "T7": {"patience": 17}, "T8": {"reversals": True}, "T9": {"forces": True}, "T10": {"refusals": True},
    "T11": {"births": True}, "C2": {"modules": True, "refusals": True}, "C3": {"modules": True},
    "C4": {"modules": True, "refusals": True}, "C5": {"reversals": True}, "C6": {"refusals": True},
    "C7": {"replaces": True}, "C8": {"reversals": True}, "V3": {"replaces": True}, "V6": {"watched": True},
    "L1": {"modules": True}, "L3": {"replaces": True},
}  # fmt: skip
SHAPES = st.builds(
    Shape,
    seed=st.integers(0, 2**32),
    lives=st.integers(1, 6),
    tasks=st.integers(1, 6),
    patience=st.integers(0, 4) | st.just(17),
    **dict.fromkeys(FLAGS, st.booleans()),
)
many = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip
few = settings(many, max_examples=max(5, EXAMPLES // 30))


def verdicts(trace: Trace) -> dict[str, RuleVerdict]:
    return {each.rule.id: each for each in judge_all(history(trace.numbered()))}


def violated(trace: Trace) -> dict[str, str]:
    return {name: each.why for name, each in verdicts(trace).items() if each.verdict is Verdict.VIOLATED}


@many
@given(SHAPES)
def test_a_correct_history_is_accused_of_nothing(shape: Shape) -> None:
    assert violated(correct(shape)) == {}


def with_losses(trace: Trace, chance: random.Random) -> Trace:
    """Lose runs of klptransition's events; it tells how many, with the next that it wrote."""
    own = [n for n, each in enumerate(trace.events) if each.probe == "klptransition"][1:-1]
    gone = {
        each
        for _ in range(chance.randint(1, 3))
        for begun in [chance.randrange(len(own))]
        for each in own[begun : begun + chance.choice((1, 1, 3, 30))]
    }
    kept: list[ev.AnyEvent] = []
    lost = 0
    for place, each in enumerate(trace.events):
        if place in gone:
            lost += 1
            continue
        if lost and each.probe == "klptransition":
            kept.append(ev.Lost(probe=each.probe, seq=0, ts_ns=each.ts_ns, count=lost))
            lost = 0
        kept.append(each)
    seq: Counter[str] = Counter()
    for place, each in enumerate(kept):
        kept[place] = msgspec.structs.replace(each, seq=seq[each.probe])
        seq[each.probe] += 1
    trace.events = kept
    return trace


# A disabling whose end was lost, and a new life after it that was taken for its reversal (C8).
LOST_END = Shape(
    seed=353614, lives=6, tasks=3, patience=2, births=True, deaths=True, execs=True, races=False,
    modules=True, reversals=True, forces=True, replaces=True, refusals=True, waits_seen=False,
    open_end=False, callbacks=False, states=True, watched=True,
)  # fmt: skip


@many
@given(SHAPES, st.integers(0, 2**32))
@example(LOST_END, 0)
def test_a_correct_history_with_losses_is_accused_of_nothing(shape: Shape, seed: int) -> None:
    trace = with_losses(correct(shape), random.Random(seed))
    found = verdicts(trace)
    assert violated(trace) == {}
    assert {found[name].verdict for name in MINE} == {Verdict.NOT_OBSERVED}


@many
@given(SHAPES, st.floats(0, 1))
def test_a_probe_that_came_in_the_midst_accuses_nobody(shape: Shape, share: float) -> None:
    trace = correct(shape)
    begun = trace.events[0].ts_ns + int(share * (trace.now - trace.events[0].ts_ns))
    trace.events = [
        msgspec.structs.replace(each, ts_ns=begun) if isinstance(each, ev.Header) else each
        for each in trace.events
        if isinstance(each, ev.Header) or each.ts_ns > begun
    ]
    assert violated(trace) == {}


def test_what_the_model_writes_shows_every_rule_but_needs_no_luck() -> None:
    """Were a rule never held, the histories would say nothing of it."""
    held: Counter[str] = Counter()
    chance = random.Random(19)
    for _ in range(100):
        flags = {name: chance.random() < 0.7 for name in FLAGS}
        shape = Shape(seed=chance.randrange(2**32), patience=chance.choice((2, 17)), **flags)
        held.update(name for name, each in verdicts(correct(shape)).items() if each.verdict is Verdict.HELD)
    assert set(held) == set(SHOWN)


@pytest.mark.parametrize("wanted", CORRUPTIONS, ids=[f"{each.rule}: {each.words}" for each in CORRUPTIONS])
def test_one_corruption_is_noticed_by_the_rule_that_states_it(wanted: Corruption) -> None:
    @few
    @given(SHAPES, st.integers(0, 2**32))
    def notices(shape: Shape, seed: int) -> None:
        needed = {"waits_seen": True, **NEEDS.get(wanted.rule[0], {}), **NEEDS.get(wanted.rule, {})}
        likely = msgspec.structs.replace(shape, **needed)
        try:
            trace = corrupted(correct(likely), wanted, random.Random(seed))
        except NoPlace:
            assume(False)
        assert wanted.rule in violated(trace)

    notices()


def test_the_table_of_rules_and_corruptions_is_whole(root: Path) -> None:
    text = (root / "docs/rules-proved.md").read_text()
    part = text.partition("## Livepatches\n")[2].partition("\n## ")[0]
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in part.splitlines()
        if re.match(r"\| [A-Z]\d+ \|", line)
    ]
    assert rows == [(each.rule, each.words) for each in TABLE]


def test_every_rule_has_a_corruption() -> None:
    assert {each.rule for each in CORRUPTIONS} | {fault.value[0] for fault in Fault} == set(RULES)
