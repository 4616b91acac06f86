# SPDX-License-Identifier: Apache-2.0
"""Perfetto's own trace processor reads our traces, and finds in them what the events say."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from klp.analysis.curve import tasks_left
from klp.analysis.recording import GuestTrace, RecordedRun, guest_trace
from klp.report.perfetto import perfetto_trace
from klp.trace import events as ev
from tests.integration.browser import chromium
from tests.integration.traceprocessor import trace_processor
from tests.unit.runfolders import sample


@pytest.fixture(scope="module")
def guest() -> GuestTrace:
    return guest_trace("a run", sample().numbered())


@pytest.fixture(scope="module")
def asked(guest, tool, tmp_path_factory):
    with chromium(tool, tmp_path_factory.mktemp("profile")) as driver:
        guests = (guest, dataclasses.replace(guest, title="another"))
        runs = [RecordedRun(each.title, "", None, guests=(each,)) for each in guests]
        with trace_processor(driver, perfetto_trace(runs)) as loaded:
            yield loaded


OF = """
    SELECT slice.name, slice.ts, slice.dur FROM slice JOIN track ON slice.track_id = track.id
    JOIN track parent ON track.parent_id = parent.id
    WHERE track.name = '{}' AND parent.name = 'a run' ORDER BY slice.ts
"""


def events(kind):
    return [each for each in sample().events if isinstance(each, kind)]


def test_nothing_was_dropped(asked) -> None:
    bad = asked.ask("SELECT name, value FROM stats WHERE severity IN ('error', 'data_loss') AND value > 0")
    assert bad == []
    assert asked.ask("SELECT count(*) FROM slice WHERE dur < 0") == [(0,)]


def test_passes(asked, guest) -> None:
    told = [(f"pass {each.number}", each.ts_ns, each.duration_ns) for each in events(ev.Pass)]
    assert [each for each in asked.ask(OF.format("passes")) if each[2]] == told
    signals = [each.ts_ns for each in events(ev.Signals)]
    assert [ts for name, ts, _ in asked.ask(OF.format("passes")) if name == "signals sent"] == signals


def test_transitions(asked, guest) -> None:
    told = [(each.told(), each.begun_ns, each.ended_ns - each.begun_ns) for each in guest.history.legs]
    assert asked.ask(OF.format("transitions")) == told


def test_plans(asked, guest) -> None:
    begin, end = (each.ts_ns for each in events(ev.Plan))
    assert asked.ask(OF.format("plans")) == [("livepatch-sample", begin, end - begin)]


def test_callbacks(asked, guest) -> None:
    told = [(f"{each.kind} of {each.object}", each.ts_ns, each.duration_ns) for each in events(ev.Callback)]
    assert asked.ask(OF.format("callbacks")) == told
    assert len(told) == 4


def test_a_track_for_each_task_with_its_wait_and_attempts(asked, guest) -> None:
    rows = asked.ask("""
        SELECT track.name AS track, slice.name, slice.dur, slice.depth
        FROM slice JOIN track ON track_id = track.id
        JOIN track tasks ON track.parent_id = tasks.id JOIN track root ON tasks.parent_id = root.id
        WHERE tasks.name = 'tasks' AND root.name = 'a run' ORDER BY slice.ts, slice.depth""")
    who = {f"{each.comm} [{each.pid}]" for leg in guest.history.legs for each in leg.tasks}
    assert {name for name, *_ in rows} == who
    attempts = Counter(f"attempt: {each.result}" for each in events(ev.Attempt) if each.result != "already")
    assert Counter(name for _, name, *_ in rows if name.startswith("attempt")) == attempts
    held = [(name, depth) for track, name, _, depth in rows if track == "task3 [3]"]
    assert held[:4] == [
        ("patching: retry pass", 0), ("attempt: sleeping", 1), ("attempt: sleeping", 1),
        ("attempt: switched", 1),
    ]  # fmt: skip
    [wait] = [dur for track, name, dur, _ in rows if (track, name) == ("task3 [3]", "patching: retry pass")]
    assert wait >= 2_000_000_000


def test_arguments(asked) -> None:
    rows = asked.ask("""
        SELECT DISTINCT args.key, args.display_value FROM slice JOIN args USING (arg_set_id)
        WHERE slice.name = 'attempt: sleeping'""")
    assert {("debug.function", "cmdline_proc_show"), ("debug.errno", "-98")} <= set(rows)


def test_the_counter_of_tasks_left(asked, guest) -> None:
    rows = asked.ask("""
        SELECT counter.ts, counter.value FROM counter JOIN track ON counter.track_id = track.id
        JOIN track root ON track.parent_id = root.id
        WHERE track.name = 'tasks left' AND root.name = 'a run' ORDER BY counter.id""")
    told = [point for leg in guest.history.legs for point in tasks_left(leg)]
    assert [(ts, int(value)) for ts, value in rows] == told
    assert told[0][1] == 8
    assert told[-1][1] == 0


def test_shadow_variables_overlap(asked, guest) -> None:
    rows = asked.ask("""
        SELECT slice.name, slice.ts, slice.dur FROM slice JOIN track ON slice.track_id = track.id
        JOIN track parent ON track.parent_id = parent.id JOIN track root ON parent.parent_id = root.id
        WHERE parent.name = 'shadow variables' AND root.name = 'a run' ORDER BY slice.ts""")
    end = guest.history.last_ns
    assert rows == [
        (f"<{each.obj}, {each.id}>", each.made_ns, (each.freed_ns or end) - each.made_ns)
        for each in guest.lifetimes
    ]
    assert len(rows) == 2
