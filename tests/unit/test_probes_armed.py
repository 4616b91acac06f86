# SPDX-License-Identifier: Apache-2.0
"""What a probe shows of one that is armed already: its events from now on, in columns, and no more."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "probes"))

import klparmed
import klpoutput
import klpprobe

PROBES = Path(klpprobe.__file__).parent


def line(kind, seq=0, **fields):
    return json.dumps({"type": kind, "probe": "klpshadow", "seq": seq, "ts_ns": 7, **fields}) + "\n"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "klpshadow.jsonl"


@pytest.fixture
def probe(file):
    """A process that writes to the file as an armed probe does, and marks it when asked."""
    program = """
import json, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
print(json.dumps({"type": "header", "probe": "klpshadow", "seq": 0, "ts_ns": 1}), flush=True)
print("started", file=sys.stderr, flush=True)
signal.sigwait({signal.SIGUSR1})
for kind in ("counts", "mark"):
    print(json.dumps({"type": kind, "probe": "klpshadow", "seq": 1, "ts_ns": 2}), flush=True)
signal.sigwait({signal.SIGUSR1})
"""
    with file.open("w") as out:
        child = subprocess.Popen([sys.executable, "-c", program], stdout=out, stderr=subprocess.PIPE)
    assert child.stderr.readline() == b"started\n"
    yield child
    child.kill()
    child.wait()
    child.stderr.close()


@pytest.fixture
def shown():
    return []


@pytest.fixture
def out(shown):
    def columns(kind, fields):
        shown.append((kind, fields))

    return klpoutput.Output("klpshadow", False, columns, write=lambda _text: None)


@pytest.fixture
def following(file, out):
    """Make a follower of the file, of what is in it now or comes."""
    with ExitStack() as stack:

        def follower(pid, wants=lambda *_: True):
            stream = stack.enter_context(file.open("rb"))
            return klparmed.Follower(klparmed.Lines(stream), pid, out, wants)

        yield follower


def test_the_writer_of_a_file_is_found_while_it_lives(file, probe):
    assert klparmed.writer(file) == probe.pid
    probe.kill()
    probe.wait()
    assert klparmed.writer(file) is None


def test_no_writer_is_found_of_a_file_that_is_not_there(tmp_path):
    assert klparmed.writer(tmp_path / "absent") is None


def test_only_what_comes_from_now_on_is_shown_also_of_a_line_that_was_begun(file, following, shown):
    begun = line("held", id=2)
    file.write_text(line("held", id=1) + begun[:9])
    follower = following(os.getpid())
    follower.read()
    assert shown == []
    with file.open("a") as stream:
        stream.write(begun[9:] + line("held", id=3) + line("mark", number=1))
    follower.read()
    assert shown == [("held", {"id": 2}), ("held", {"id": 3})]


def test_an_event_that_is_not_wanted_is_not_shown(file, following, shown):
    file.write_text("")
    wanted = following(os.getpid(), lambda kind, fields: fields["id"] == 2)
    file.write_text(line("held", id=1) + line("held", id=2))
    wanted.read()
    assert shown == [("held", {"id": 2})]


def test_at_the_end_the_probe_tells_what_it_counted(probe, following, shown):
    follower = following(probe.pid)
    follower.follow(klpprobe.STOP_SIGNALS, 0.0)
    assert shown == [("counts", {})]


def test_it_ends_with_the_armed_probe_and_says_so(file, following, capsys):
    file.write_text("")
    follower = following(os.getpid())
    file.write_text(line("end", events=1, lost=0))
    follower.follow(klpprobe.STOP_SIGNALS, None)
    assert capsys.readouterr().err == "klpshadow: the armed probe has ended\n"


def test_what_was_lost_is_said(file, following, capsys):
    file.write_text("")
    follower = following(os.getpid())
    file.write_text(line("lost", count=3) + line("lost", count=2))
    follower.read()
    assert capsys.readouterr().err == "klpshadow: lost 3 events\nklpshadow: lost 2 events\n"


@pytest.mark.parametrize("given", [{"id": 1}, {"pid": 1}, {"patch": "x"}])
def test_what_is_filtered_in_the_kernel_takes_a_probe_of_its_own(given):
    args = argparse.Namespace(**{"id": None, "pid": None, "patch": None, "stacks": False} | given)
    assert klpprobe.unfiltered(args) is None


@pytest.mark.parametrize("stacks", [True, False])
def test_without_a_filter_all_is_shown_and_stacks_where_asked_for(stacks):
    wants = klpprobe.unfiltered(argparse.Namespace(id=None, pid=None, patch=None, stacks=stacks))
    assert wants("shadow_alloc", {})
    assert bool(wants("callers", {})) is stacks


def test_it_ends_when_nobody_reads_any_more(file, probe):
    tool = [sys.executable, PROBES / "klptransition.py", "--armed", file, "-P", "none"]
    with subprocess.Popen(tool, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout.readline().startswith(b"Tracing")
        assert running.stdout.readline().startswith(b"TIME(s)")
        running.stdout.close()
        try:
            assert running.wait(timeout=60) == 0
        finally:
            running.kill()


def test_a_tool_shows_an_armed_probe_without_a_compiler(file, probe):
    """The whole command, as it is started in a guest: no bcc is there, nor are we root."""
    tool = [sys.executable, PROBES / "klptransition.py", "--armed", file, "-P", "none", "-d", "0.2"]
    done = subprocess.run(tool, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "Tracing the livepatch core... Hit Ctrl-C to end."
    assert second.startswith("TIME(s)")
    assert done.stderr.splitlines()[0] == "ready"
