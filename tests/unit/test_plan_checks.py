# SPDX-License-Identifier: Apache-2.0
"""What a plan is checked for besides the rules; never held on no observation."""

from __future__ import annotations

import msgspec
import pytest

from klp.analysis import plan_checks
from klp.analysis.evidence import Verdict, overall
from klp.analysis.history import history
from klp.analysis.legs import LegOutcome
from klp.analysis.plan_checks import log_agrees, none_lost, transitions_complete
from klp.analysis.result import callback_calls
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


# --- transitions ------------------------------------------------------------------------------------


def test_transitions_that_completed() -> None:
    found = transitions_complete(BOTH)
    assert (found.verdict, found.evidence) == (HELD, "patching complete, unpatching complete")


def test_no_transition_is_a_violation_not_a_success() -> None:
    assert transitions_complete([]).verdict is VIOLATED


@pytest.mark.parametrize("outcome", [LegOutcome.CANCELLED, LegOutcome.UNFINISHED, LegOutcome.REVERSED])
def test_one_that_did_not_complete(outcome: LegOutcome) -> None:
    found = transitions_complete([transition(1, outcome), transition(0)])
    assert found.verdict is VIOLATED
    assert f"patching {outcome.value}" in found.evidence


# --- the kernel's log -------------------------------------------------------------------------------


def test_the_log_agrees() -> None:
    found = log_agrees(BOTH, BOTH_LOGGED, "p")
    assert found.verdict is HELD
    assert found.evidence == (
        "patching started 1, unpatching started 1, patching complete 1, unpatching complete 1"
    )


@pytest.mark.parametrize("missing", range(4))
def test_a_line_the_log_lacks(missing: int) -> None:
    found = log_agrees(BOTH, BOTH_LOGGED[:missing] + BOTH_LOGGED[missing + 1 :], "p")
    assert found.verdict is VIOLATED
    assert found.evidence.count("traced 1, logged 0") == 1


def test_a_transition_the_trace_lacks() -> None:
    found = log_agrees([transition(1)], BOTH_LOGGED, "p")
    assert found.verdict is VIOLATED
    assert "unpatching complete: traced 0, logged 1" in found.evidence


def test_neither_saw_anything() -> None:
    assert log_agrees([], [], "p").verdict is not HELD


def test_of_other_livepatches_nothing_counts() -> None:
    assert log_agrees(BOTH, BOTH_LOGGED, "q").verdict is not HELD
    others = [*BOTH_LOGGED, "livepatch: 'q': patching complete"]
    assert log_agrees([*BOTH, transition(1, patch="q")], others, "p").verdict is HELD


def test_a_reversal_agrees() -> None:
    # core.c logs no line for a reversal that begins with "starting patching transition"; but for the start.
    traced = [transition(1, LegOutcome.REVERSED), transition(0)]
    said = log("starting patching transition", "starting unpatching transition", "unpatching complete")
    assert log_agrees(traced, said, "p").verdict is HELD


def test_a_cancelled_one_agrees() -> None:
    traced = [transition(1, LegOutcome.CANCELLED, started=False)]
    assert log_agrees(traced, log("unpatching complete"), "p").verdict is HELD
    assert log_agrees(traced, log("patching complete"), "p").verdict is VIOLATED


# --- steps, observations, losses --------------------------------------------------------------------


@pytest.mark.parametrize("held", [True, False])
def test_what_a_command_said(held: bool) -> None:
    found = plan_checks.behaved("enabled", "cat x", "first\nlast", held=held)
    assert (found.name, found.evidence) == ("enabled: cat x", "says 'last'")
    assert found.verdict is (HELD if held else VIOLATED)
    assert plan_checks.behaved("after", "true", "", held=held).evidence == "says 'nothing'"


def test_a_line_that_came_and_one_that_did_not() -> None:
    came = plan_checks.awaited("enabled", "done$", "livepatch: done", 0.0)
    assert (came.name, came.verdict, came.evidence) == ("enabled: log has done$", HELD, "livepatch: done")
    late = plan_checks.awaited("enabled", "done$", None, 2.5)
    assert (late.verdict, late.evidence) == (VIOLATED, "no such line within 2.5 s")


def test_enabled_after_loading() -> None:
    assert [plan_checks.enabled(shown).verdict for shown in (True, False)] == [HELD, VIOLATED]


def test_losses() -> None:
    mark = ev.Mark(probe="a", seq=0, ts_ns=0, number=1)
    lost = ev.Lost(probe="a", seq=1, ts_ns=1, count=3)
    assert none_lost([mark]).verdict is HELD
    found = none_lost([mark, lost, lost])
    assert found.verdict is VIOLATED
    assert found.evidence == "3 events, 6 lost"
    assert none_lost([]).verdict is not HELD


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
    told = history(enumerate(events, 1))
    assert [each.kind for each in callback_calls(told, "p")] == ["pre_patch", "post_patch", "pre_unpatch"]


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
