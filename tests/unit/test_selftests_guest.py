# SPDX-License-Identifier: Apache-2.0
"""What a selftest wrote, with the time of each piece; and the verdicts on a trace that has a hole."""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec
import pytest

from klp.analysis.evidence import Verdict
from klp.analysis.result import Check
from klp.analysis.selftests import CaseResult, KernelResult, ScriptResult, SelftestsResult, Status
from klp.records.encoding import encode
from klp.report.junit import selftests_junit
from klp.report.ktap import ktap
from klp.report.selftest_table import selftest_problems
from klp.selftests.rules import log_checks, trace_checks
from klp.selftests.script import Transcript
from klp.trace import events as ev
from tests.unit.traces import Trace

RECORDINGS = Path(__file__).parents[1] / "data/events/real"


def test_positions_in_the_text_are_bytes_of_the_stream(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "output.txt")
    transcript.add("TEST: ü ... ".encode())
    transcript.add(b"ok\nklp: exit 0\n")
    text = transcript.text
    assert len(text) == len("TEST: ü ... ok\nklp: exit 0\n".encode())
    transcript.cut(text.index("klp: exit"))
    assert transcript.text.endswith("... ok\n")
    assert (tmp_path / "output.txt").read_bytes() == "TEST: ü ... ok\n".encode()


def test_a_position_was_reached_when_the_piece_with_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([100.0, 101.0, 103.5])
    monkeypatch.setattr("klp.selftests.script.time.monotonic", lambda: next(now))
    transcript = Transcript(tmp_path / "output.txt")
    transcript.add(b"0123")
    transcript.add(b"4567")
    assert [transcript.seconds_at(position) for position in (0, 1, 4, 5, 8, 99)] == [
        0.0, 1.0, 1.0, 3.5, 3.5, 3.5,
    ]  # fmt: skip


def test_a_trace_with_a_broken_line_proves_nothing(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_bytes(b'{"type":"no such eve')
    [only] = trace_checks(events)
    assert (only.name, only.verdict) == ("trace whole", Verdict.VIOLATED)


def test_a_report_in_the_kernel_log_is_a_violation() -> None:
    [clean] = log_checks(["[    1.0] livepatch: enabling patch 'x'"])
    assert clean.verdict is Verdict.HELD
    [alarmed] = log_checks(["[    1.0] WARNING: CPU: 0 PID: 1 at kernel/livepatch/core.c:1"])
    assert alarmed.verdict is Verdict.VIOLATED


def written(file: Path, trace: Trace) -> Path:
    file.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in trace.events))
    return file


def by_name(checks: tuple[Check, ...]) -> dict[str, Check]:
    return {each.name: each for each in checks}


def test_a_recording_of_a_real_kernel_is_judged_by_every_rule_it_shows(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_bytes(gzip.decompress((RECORDINGS / "shadow-wrong-6.12.jsonl.gz").read_bytes()))
    checks = by_name(trace_checks(events))
    assert checks["rule S2"].verdict is Verdict.VIOLATED
    assert "klp_shadow_get" in checks["rule S2"].evidence
    assert "(#" in checks["rule S2"].evidence
    # A hole in the trace: 142763 events were lost, so nothing that rests on all of them is held.
    assert checks["no event lost"].verdict is Verdict.VIOLATED
    assert "rule S7" not in checks
    assert checks["other rules"].verdict is Verdict.NOT_OBSERVED
    assert " T1 " in checks["other rules"].evidence
    assert "rule T1" not in checks


def test_rules_that_hold_are_told_with_their_observations(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_bytes(gzip.decompress((RECORDINGS / "states-6.12.jsonl.gz").read_bytes()))
    held = by_name(trace_checks(events))["rule V2"]
    assert (held.verdict, held.evidence) == (Verdict.HELD, "4 observations")


def test_the_log_is_judged_once(tmp_path: Path) -> None:
    trace = Trace()
    trace.put(ev.LoggedLine, text="WARNING: CPU: 0 PID: 1 at kernel/livepatch/core.c:1", expected=None)
    judged = trace_checks(written(tmp_path / "events.jsonl", trace))
    assert by_name(judged)["rule L6"].verdict is Verdict.VIOLATED
    assert log_checks(["WARNING: x"], judged) == ()
    assert log_checks(["WARNING: x"], judged[:1]) != ()


def test_a_trace_that_was_cut_is_violated_and_not_raised(tmp_path: Path) -> None:
    trace = Trace()
    trace.put(ev.End, probe="klpshadow", events=1, lost=0)
    [only] = trace_checks(written(tmp_path / "events.jsonl", trace))
    assert (only.name, only.verdict) == ("trace whole", Verdict.VIOLATED)
    assert "cut: " in only.evidence


def test_a_violated_rule_is_told_everywhere_and_makes_the_result_bad(tmp_path: Path) -> None:
    trace = Trace()
    trace.init("p", 1)
    trace.init("q", 1)
    checks = trace_checks(written(tmp_path / "events.jsonl", trace))
    case = CaseResult(name="c", status=Status.OK, seconds=1.0, detail="")
    script = ScriptResult(
        name="test-x.sh", status=Status.OK, exit_status=0, seconds=1.0, message="", report=(),
        cases=(case,), checks=checks, folder="x",
    )  # fmt: skip
    kernel = KernelResult(
        name="6.12", release="6.12.1", kernel_digest="", image_digest="", accelerator="tcg", modules={},
        planned=("test-x.sh",), scripts=(script,),
    )  # fmt: skip
    result = SelftestsResult(
        schema=1, klp="", qemu="", begun_at=0.0, ended_at=1.0, kernels=(kernel,), error=None
    )
    evidence = by_name(checks)["rule T1"].evidence
    assert not result.good
    assert f"6.12.1 test-x.sh: rule T1: {evidence}" in selftest_problems(result)
    assert f"# rule T1: violated: {evidence}" in ktap(result)
    assert "not ok 1 test-x.sh" in ktap(result)
    assert b'name="rule T1"' in selftests_junit(result)
    assert b'"name": "rule T1"' in encode(result)
