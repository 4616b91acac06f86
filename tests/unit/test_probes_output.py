# SPDX-License-Identifier: Apache-2.0
"""What the probes write: JSON that the harness decodes, columns for people, marks and the end."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.trace import events

sys.path.insert(0, str(Path(__file__).parents[2] / "probes"))

import klpprobe

PROBES = Path(klpprobe.__file__).parent


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
    out.event("synchronize", 7, duration_ns=1)
    out.mark()
    out.lose(3)
    out.lose(3)
    out.end()
    header, wait, mark, lost, end = decoded(lines)
    assert [one.seq for one in (header, wait, mark, lost, end)] == [0, 1, 2, 3, 4]
    assert header.missing == (events.Missing(symbol="klp_sync", unseen="nothing"),)
    assert (mark.number, lost.count, end.events, end.lost) == (1, 3, 4, 3)


@pytest.mark.parametrize("tool", ["klptransition", "klpshadow", "klpcallbacks"])
def test_a_tool_shows_its_program_without_bcc(tool):
    run = subprocess.run([PROBES / f"{tool}.py", "--ebpf"], capture_output=True, check=True)
    shown, program = run.stdout.decode(), (PROBES / f"{tool}.bpf.c").read_text()
    assert set(program.splitlines()) - set(shown.splitlines()) <= {'#include "klpcensus.bpf.c"'}


def test_a_program_is_shown_with_its_parts():
    shown = klpprobe.program_text("klptransition")
    assert (PROBES / "klpcensus.bpf.c").read_text() in shown
    assert 'klpcensus.bpf.c"' not in shown


def test_marks_then_stops_at_signals(out, lines):
    drained = []

    def drain():
        drained.append(1)
        if len(drained) == 1:
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    caught = {signal.SIGUSR1, *klpprobe.STOP_SIGNALS}
    old = signal.pthread_sigmask(signal.SIG_BLOCK, caught)
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        klpprobe.follow(drain, out, tick_s=5, duration_s=None)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    mark, end = decoded(lines)
    assert (mark.number, end.events, len(drained)) == (1, 1, 2)


def test_a_duration_ends_the_trace(out, lines):
    klpprobe.follow(lambda: None, out, tick_s=0.01, duration_s=0.03)
    assert isinstance(decoded(lines)[-1], events.End)
