# SPDX-License-Identifier: Apache-2.0
"""What a selftest wrote, with the time of each piece; and the verdicts on a trace that has a hole."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.analysis.result import Verdict
from harness.suite.selftest_guest import Transcript
from harness.suite.selftest_rules import log_checks, trace_checks


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
    monkeypatch.setattr("harness.suite.selftest_guest.time.monotonic", lambda: next(now))
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
