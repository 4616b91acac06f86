# SPDX-License-Identifier: Apache-2.0
"""What the probes write: JSON that the harness decodes, columns for people, marks and the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.trace import events

sys.path.insert(0, str(Path(__file__).parents[2] / "probes"))

import klpprobe
import klptransition

PROBES = Path(klpprobe.__file__).parent
TASK = {"pid": 181, "tgid": 181, "comm": b"sh\xff"}


def bpf_event(**fields):
    """A BPF event with a task, and zero in what is not given."""
    zero = dict.fromkeys(("detail", "error", "state", "duration_ns", "age_ns", "call", "count"), 0)
    return SimpleNamespace(**{"ts_ns": 5, "name": b"", **zero, **TASK, **fields})


@pytest.fixture
def lines():
    return []


@pytest.fixture
def out(lines):
    return klpprobe.Output("klptransition", True, lambda kind, _fields: kind, write=lines.append)


def decoded(lines):
    return [events.decode(line.encode()) for line in lines]


def test_a_stream_decodes_and_counts_itself(out, lines):
    out.header(["klp_init_transition"], [{"symbol": "klp_sync", "unseen": "nothing"}])
    out.event("start", 7, patch="p", target=1)
    out.mark()
    out.lose(3)
    out.lose(3)
    out.end()
    header, start, mark, lost, end = decoded(lines)
    assert [one.seq for one in (header, start, mark, lost, end)] == [0, 1, 2, 3, 4]
    assert header.missing == (events.Missing(symbol="klp_sync", unseen="nothing"),)
    assert (mark.number, lost.count, end.events, end.lost) == (1, 3, 4, 3)


@pytest.mark.parametrize("number", range(len(klptransition.EVENTS)))
def test_every_transition_event_decodes(out, lines, number):
    kind = klptransition.EVENTS[number]
    out.event(kind, 5, **klptransition.FIELDS[kind](bpf_event(kind=number, name=b"sample")))
    assert decoded(lines)[0].ts_ns == 5


@pytest.mark.parametrize(
    ("result", "error", "told"),
    [
        ("switched", 0, "switched"),
        ("already", 0, "already"),
        ("refused", -16, "running"),
        ("refused", -22, "unreliable"),
        ("refused", -98, "sleeping"),
        ("refused", 0, "refused"),
        ("refused", -11, "refused"),
    ],
)
def test_an_errno_is_told_as_a_reason(result, error, told):
    detail = klptransition.RESULTS.index(result)
    fields = klptransition.FIELDS["attempt"](bpf_event(detail=detail, error=error))
    assert (fields["result"], fields["function"]) == (told, None)


def test_a_filter_follows_the_livepatch_in_transition():
    wanted = klptransition.Filter("mine", None)
    attempt = {"task": {"pid": 1, "tgid": 1}, "patch_state": 0}
    assert not wanted.wants(attempt)
    assert wanted.wants({"patch": "mine"})
    assert wanted.wants(attempt)
    assert not wanted.wants({"patch": "other"})
    assert not wanted.wants(attempt)


def test_a_filter_by_task_keeps_what_is_about_no_task():
    wanted = klptransition.Filter(None, 7)
    assert wanted.wants({"patch": "p", "target": 1})
    assert wanted.wants({"task": {"pid": 8, "tgid": 7}, "patch_state": 0})
    assert not wanted.wants({"task": {"pid": 8, "tgid": 8}, "patch_state": 0})


def test_columns_count_the_tasks_of_a_pass():
    columns = klptransition.Columns(every_task=False)
    attempt = {"task": {"pid": 1, "comm": "a"}, "function": None}
    assert columns.line("attempt", {**attempt, "result": "switched"}) is None
    assert columns.line("switch", {**attempt, "path": "fork", "patch_state": 1}) is None
    assert "sleeping" in columns.line("attempt", {**attempt, "result": "sleeping"})
    done = columns.line("pass", {"number": 1, "duration_ns": 2_000_000})
    assert done.endswith("1: 2.0 ms, 1 sleeping, 1 switched")


@pytest.mark.parametrize("tool", ["klptransition", "klpshadow", "klpcallbacks"])
def test_a_tool_shows_its_program_without_bcc(tool):
    run = subprocess.run([PROBES / f"{tool}.py", "--ebpf"], capture_output=True, check=True)
    assert run.stdout.decode() == (PROBES / f"{tool}.bpf.c").read_text()


def test_marks_then_stops_at_signals(out, lines):
    drained = []

    def drain():
        drained.append(1)
        if len(drained) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    caught = {signal.SIGUSR1, *klpprobe.STOP_SIGNALS}
    old = signal.pthread_sigmask(signal.SIG_BLOCK, caught)
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        klpprobe.follow(drain, out, tick_s=5, duration_s=None)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    mark, end = decoded(lines)
    assert (mark.number, end.events, len(drained)) == (1, 1, 2)


def test_a_duration_ends_the_trace(out, lines):
    klpprobe.follow(lambda: None, out, tick_s=0.01, duration_s=0.03)
    assert isinstance(decoded(lines)[-1], events.End)
