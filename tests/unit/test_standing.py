# SPDX-License-Identifier: Apache-2.0
"""What sysfs may show at a moment, judged to the event, however fast the guest is (L1)."""

from __future__ import annotations

from typing import Any

import pytest

from klp.analysis.evidence import Verdict
from klp.analysis.history import history
from klp.analysis.rules.registry import judge_all
from klp.trace import events as ev
from tests.unit.traces import Trace


def read(t: Trace, *, begun_ns: int, ended_ns: int, **fields: Any) -> None:
    """Sysfs of the livepatch p, which is enabled and at rest unless `fields` say otherwise."""
    shown = {"enabled": True, "transition": False, "objects": {"vmlinux": True}, **fields}
    patch = ev.SysfsPatch(name="p", replace=False, stack_order=None, **shown)
    t.put(ev.Sysfs, patches=(patch,), begun_ns=begun_ns, ended_ns=ended_ns)


def judged(t: Trace) -> Verdict:
    verdicts = judge_all(history(t.end().numbered()))
    return next(each.verdict for each in verdicts if each.rule.id == "L1")


@pytest.mark.parametrize(
    "wrong", [{"enabled": False}, {"transition": True}, {"objects": {"vmlinux": False}}], ids=str
)
def test_what_is_read_at_once_after_the_transition_is_sure(wrong: dict[str, Any]) -> None:
    for fields, verdict in (({}, Verdict.HELD), (wrong, Verdict.VIOLATED)):
        t = Trace()
        t.enable("p")
        read(t, begun_ns=t.now + 1, ended_ns=t.now + 2, **fields)
        assert judged(t) is verdict


@pytest.mark.parametrize("transition", [True, False])
def test_while_it_completes_either_is_right(transition: bool) -> None:
    t = Trace()
    t.begin_enabling("p")
    with t.try_all(), t.completing():
        begun = ended = t.now
    t.wait(1)
    read(t, begun_ns=begun, ended_ns=ended, transition=transition)
    assert judged(t) is Verdict.HELD


@pytest.mark.parametrize(
    ("after_ns", "patched", "verdict"),
    [(0, False, Verdict.HELD), (0, True, Verdict.HELD), (20_000, False, Verdict.VIOLATED)],
)
def test_an_object_is_patched_once_its_module_has_come(
    after_ns: int, patched: bool, verdict: Verdict
) -> None:
    t = Trace()
    t.enable("p")
    begun = t.now + 1_000
    t.object("p", "target")
    notice = {"action": "coming", "livepatch": False, "errno": 0, "duration_ns": t.now - begun + 10_000}
    t.put(ev.ModuleNotice, at=begun, module="target", **notice)
    at = t.now + after_ns
    read(t, begun_ns=at, ended_ns=at, objects={"vmlinux": True, "target": patched})
    assert judged(t) is verdict
