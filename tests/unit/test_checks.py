# SPDX-License-Identifier: Apache-2.0
"""From what was seen to verdicts; never held on no observation."""

from __future__ import annotations

import msgspec
import pytest

from klp.analysis.checks import (
    alarm_check,
    callback_calls,
    log_check,
    loss_check,
    shadow_check,
    transition_checks,
)
from klp.analysis.evidence import Verdict, overall
from klp.analysis.legs import LegOutcome
from klp.analysis.result import Check
from klp.analysis.shadow import ShadowLedger, ShadowVariable
from klp.analysis.transitions import Transition
from klp.trace import events as ev

HELD, VIOLATED, NOT_OBSERVED = Verdict.HELD, Verdict.VIOLATED, Verdict.NOT_OBSERVED


def transition(target: int = 1, outcome: LegOutcome = LegOutcome.COMPLETE, **more: object) -> Transition:
    known = {
        "patch": "p", "target": target, "outcome": outcome, "started": True, "begun_ns": 1,
        "ended_ns": 2, "passes": 1, "attempts": 5, "tasks": {"attempt": 5, "exit": 2}, "twice": (),
        "stragglers": (), "signals": 0, "forced": False, **more,
    }  # fmt: skip
    return msgspec.convert(known, Transition, strict=False)


def log(*said: str) -> list[str]:
    return [f"[    1.0] livepatch: 'p': {what}" for what in said]


BOTH = [transition(1), transition(0)]
BOTH_LOGGED = log(
    "starting patching transition", "patching complete", "starting unpatching transition",
    "unpatching complete",
)  # fmt: skip


def verdicts(checks: list[Check]) -> list[Verdict]:
    return [each.verdict for each in checks]


# --- transitions ------------------------------------------------------------------------------------


def test_transitions_that_completed() -> None:
    checks = transition_checks(BOTH)
    assert verdicts(checks) == [HELD, HELD]
    assert checks[0].evidence == "patching complete, unpatching complete"
    assert checks[1].evidence == "14 switches"


def test_no_transition_is_a_violation_not_a_success() -> None:
    assert verdicts(transition_checks([])) == [VIOLATED]


@pytest.mark.parametrize("outcome", [LegOutcome.CANCELLED, LegOutcome.UNFINISHED, LegOutcome.REVERSED])
def test_one_that_did_not_complete(outcome: LegOutcome) -> None:
    checks = transition_checks([transition(1, outcome), transition(0)])
    assert verdicts(checks) == [VIOLATED, HELD]
    assert f"patching {outcome.value}" in checks[0].evidence


def test_a_task_that_switched_twice() -> None:
    checks = transition_checks([transition(1), transition(0, twice=(7,))])
    assert verdicts(checks) == [HELD, VIOLATED]
    assert checks[1].evidence == "14 switches; more than one by [7]"


def test_no_switch_at_all_is_not_held() -> None:
    assert transition_checks([transition(tasks={})])[1].verdict is not HELD


# --- the kernel's log -------------------------------------------------------------------------------


def test_the_log_agrees() -> None:
    found = log_check(BOTH, BOTH_LOGGED, "p")
    assert found.verdict is HELD
    assert found.evidence == (
        "patching started 1, unpatching started 1, patching complete 1, unpatching complete 1"
    )


@pytest.mark.parametrize("missing", range(4))
def test_a_line_the_log_lacks(missing: int) -> None:
    found = log_check(BOTH, BOTH_LOGGED[:missing] + BOTH_LOGGED[missing + 1 :], "p")
    assert found.verdict is VIOLATED
    assert found.evidence.count("traced 1, logged 0") == 1


def test_a_transition_the_trace_lacks() -> None:
    found = log_check([transition(1)], BOTH_LOGGED, "p")
    assert found.verdict is VIOLATED
    assert "unpatching complete: traced 0, logged 1" in found.evidence


def test_neither_saw_anything() -> None:
    assert log_check([], [], "p").verdict is not HELD


def test_of_other_livepatches_nothing_counts() -> None:
    assert log_check(BOTH, BOTH_LOGGED, "q").verdict is not HELD
    others = [*BOTH_LOGGED, "livepatch: 'q': patching complete"]
    assert log_check([*BOTH, transition(1, patch="q")], others, "p").verdict is HELD


def test_a_reversal_agrees() -> None:
    # core.c logs no line for a reversal that begins with "starting patching transition"; but for the start.
    traced = [transition(1, LegOutcome.REVERSED), transition(0)]
    said = log("starting patching transition", "starting unpatching transition", "unpatching complete")
    assert log_check(traced, said, "p").verdict is HELD


def test_a_cancelled_one_agrees() -> None:
    traced = [transition(1, LegOutcome.CANCELLED, started=False)]
    assert log_check(traced, log("unpatching complete"), "p").verdict is HELD
    assert log_check(traced, log("patching complete"), "p").verdict is VIOLATED


# --- shadow variables, losses, alarms ---------------------------------------------------------------

LEDGER = ShadowLedger(allocated=2, found=0, refused=0, freed=2, strays=0, left=())
LEFT = ShadowVariable(obj="0xa", id=7, size=8, made_ns=1, caller="f+0x1 [m]")


def test_shadow_variables() -> None:
    assert shadow_check(LEDGER).verdict is HELD
    assert shadow_check(LEDGER).evidence == "2 made, 2 freed"


def test_a_shadow_variable_that_is_left() -> None:
    found = shadow_check(msgspec.structs.replace(LEDGER, freed=1, left=(LEFT,)))
    assert found.verdict is VIOLATED
    assert "left: id 7 by f+0x1 [m]" in found.evidence


def test_no_shadow_variable_was_made() -> None:
    none = msgspec.structs.replace(LEDGER, allocated=0, freed=0)
    assert shadow_check(none).verdict is NOT_OBSERVED


def test_losses() -> None:
    mark = ev.Mark(probe="a", seq=0, ts_ns=0, number=1)
    lost = ev.Lost(probe="a", seq=1, ts_ns=1, count=3)
    assert loss_check([mark]).verdict is HELD
    found = loss_check([mark, lost, lost])
    assert found.verdict is VIOLATED
    assert found.evidence == "3 events, 6 lost"
    assert loss_check([]).verdict is not HELD


def test_alarms() -> None:
    assert alarm_check([]).verdict is HELD
    found = alarm_check(["WARNING: a", "BUG: b"])
    assert (found.verdict, found.evidence) == (VIOLATED, "WARNING: a")


# --- callbacks --------------------------------------------------------------------------------------


def callback(ts_ns: int, kind: str, patch: str = "p") -> ev.Callback:
    return msgspec.convert(
        {
            "type": "callback", "probe": "klpcallbacks", "seq": ts_ns, "ts_ns": ts_ns, "patch": patch,
            "object": "vmlinux", "kind": kind, "function": "f", "result": None, "duration_ns": 5,
            "task": {"pid": 1, "tgid": 1, "comm": "insmod"},
        },
        ev.Callback,
    )  # fmt: skip


def test_callbacks_of_one_livepatch_in_their_order() -> None:
    events = [
        callback(1, "pre_patch"), callback(2, "pre_patch", "q"), callback(3, "post_patch"),
        ev.Mark(probe="a", seq=0, ts_ns=4, number=1), callback(5, "pre_unpatch"),
    ]  # fmt: skip
    assert [each.kind for each in callback_calls(events, "p")] == ["pre_patch", "post_patch", "pre_unpatch"]


# --- verdicts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([], NOT_OBSERVED),
        ([NOT_OBSERVED], NOT_OBSERVED),
        ([HELD, NOT_OBSERVED], HELD),
        ([HELD, HELD], HELD),
        ([HELD, VIOLATED, NOT_OBSERVED], VIOLATED),
        ([NOT_OBSERVED, VIOLATED], VIOLATED),
    ],
)
def test_the_whole_of_verdicts(parts: list[Verdict], whole: Verdict) -> None:
    assert overall(parts) is whole
    assert overall(reversed(parts)) is whole
