# SPDX-License-Identifier: Apache-2.0
"""Timelines of the report page and of Perfetto, and the page's words and numbers, without a browser."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from klp.analysis.recording import GuestTrace, RecordedRun, guest_trace
from klp.report import html_timeline, html_words
from klp.report.html_timeline import Timeline, lifetimes_timeline, transition_timeline
from klp.report.html_words import counted_reasons, named, phase_words, quantity, span, span_range
from klp.report.perfetto import perfetto_trace
from klp.trace import events as ev
from klp.trace.reading import read_events
from tests.unit.runfolders import PATCH, sample, shadow
from tests.unit.traces import Trace

RECORDINGS = Path(__file__).parents[1] / "data/events/real"


def told(ns: int | None) -> str:
    return span(ns).replace("\N{NO-BREAK SPACE}", " ")


def guest_of(trace: Trace) -> GuestTrace:
    return guest_trace("a run", trace.numbered())


Recorded = Callable[[str], GuestTrace]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Reads a recording of a real guest, each one once."""
    folder = tmp_path_factory.mktemp("recordings")

    @functools.cache
    def read(name: str) -> GuestTrace:
        file = folder / f"{name}.jsonl"
        file.write_bytes(gzip.decompress((RECORDINGS / f"{name}.jsonl.gz").read_bytes()))
        return guest_trace(name, read_events(file))

    return read


def first(guest: GuestTrace) -> Timeline:
    return transition_timeline(guest.legs[0])


def test_tasks_that_did_the_same_share_a_lane_and_who_held_it_up_is_first() -> None:
    lanes = first(guest_of(sample(tasks=30))).lanes
    assert [(each.kind, each.count, each.who) for each in lanes] == [
        ("retry pass", 1, "task3[3]"), ("exit", 1, "task2[2]"), ("first pass", 32, "32 tasks"),
    ]  # fmt: skip
    assert lanes[0].why == "sleeping in cmdline_proc_show (2 times)"
    assert (lanes[2].why, len(lanes[2].names)) == ("", 32)


@pytest.mark.parametrize("version", ["6.1", "6.12", "7.2"])
def test_every_task_of_a_recording_is_in_few_lanes(recorded: Recorded, version: str) -> None:
    guest = recorded(f"samples-{version}")
    assert len(guest.legs) > 5
    for traced in guest.legs:
        drawn = transition_timeline(traced)
        assert sum(each.count for each in drawn.lanes) == len(traced.leg.tasks) > 50
        assert len(drawn.lanes) < 15
        assert drawn.unshown == 0


@pytest.mark.parametrize("version", ["6.1", "6.12", "7.2"])
def test_nothing_of_a_recording_is_drawn_outside_its_axis(recorded: Recorded, version: str) -> None:
    guest = recorded(f"samples-{version}")
    drawn = [*map(transition_timeline, guest.legs), lifetimes_timeline(guest)]
    for each in drawn:
        assert each
        assert 2 <= len(each.ticks) <= 7
        places = [tick.at for tick in each.ticks]
        places += [at + width for lane in each.lanes for at, width in lane.stretches]
        places += [at for lane in each.lanes for at in lane.moments]
        places += [strip.at + strip.width for strip in each.passes]
        assert all(0 <= place <= 100.01 for place in places)


def test_a_task_born_switched_waited_for_nothing_and_comes_last() -> None:
    trace = Trace()
    trace.begin_enabling(PATCH)
    trace.put(
        ev.Fork, child=ev.Task(pid=50, tgid=50, comm="new"), child_state=1, child_pending=False,
        parent=ev.Task(pid=1, tgid=1, comm="task1"), parent_state=1, parent_pending=False,
    )  # fmt: skip
    trace.try_once()
    *_, last = first(guest_of(trace)).lanes
    assert (last.who, last.did.partition(",")[0], last.stretches) == ("new[50]", "born switched", ())
    assert len(last.moments) == 1


def test_a_task_left_pending_is_drawn_to_where_it_was_seen_last() -> None:
    trace = Trace()
    trace.begin_enabling(PATCH)
    trace.try_once({3: ("sleeping", "f")})
    pending, *_ = first(guest_of(trace)).lanes
    assert pending.kind == html_words.PENDING
    assert pending.did.startswith("never switched, last seen after ")


def test_the_curve_ends_at_the_bottom_when_all_have_switched() -> None:
    drawn = first(guest_of(sample()))
    assert drawn.left == (8, 0)
    assert drawn.curve.startswith("M")
    assert "V100 H100 V100 Z" in drawn.curve.replace("V100.0", "V100")


def test_more_lanes_than_can_be_read_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_timeline, "MOST_LANES", 1)
    drawn = first(guest_of(sample(tasks=30)))
    assert [each.who for each in drawn.lanes] == ["task3[3]"]
    assert drawn.unshown == 33


def test_passes_that_stand_close_are_not_all_numbered() -> None:
    trace = Trace()
    trace.begin_enabling(PATCH)
    for _ in range(60):
        trace.try_once({3: ("sleeping", "f")})
        trace.wait(1_000)
    passes = first(guest_of(trace)).passes
    labels = [each.label for each in passes if each.label]
    assert len(passes) == 60
    assert 5 < len(labels) < 20
    assert passes[0].words.startswith("pass 1, ")


def test_shadow_variables_of_one_caller_share_a_lane_and_those_left_come_first() -> None:
    drawn = lifetimes_timeline(guest_of(sample()))
    assert drawn
    assert [(each.kind, each.who) for each in drawn.lanes] == [
        ("left", "1 variable of id 1"), ("freed", "1 variable of id 1"),
    ]  # fmt: skip
    assert drawn.lanes[0].did == "made by f, not freed within the trace"
    assert lifetimes_timeline(guest_of(Trace())) is None


def test_perfetto_has_no_attempt_of_a_task_that_had_switched(recorded: Recorded) -> None:
    guest = recorded("samples-6.12")
    costs = {each.result for leg in guest.legs for each in leg.costs}
    assert {"already", "switched"} <= costs
    trace = pb.Trace()
    trace.ParseFromString(perfetto_trace([RecordedRun("a run", "", None, guests=(guest,))]))
    names = {packet.track_event.name for packet in trace.packet}
    assert "attempt: switched" in names
    assert "attempt: already" not in names


def test_perfetto_has_variables_that_follow_on_each_other_on_one_track() -> None:
    trace = Trace()
    for _ in range(20):
        shadow(trace, "0xffff888000001000")
    for variable in ("0xffff888000001000", "0xffff888000002000"):
        shadow(trace, variable, freed_after_ms=None)
    trace.end()
    made = pb.Trace()
    made.ParseFromString(perfetto_trace([RecordedRun("a run", "", None, guests=(guest_of(trace),))]))
    tracks = {
        each.track_descriptor.uuid for each in made.packet if "shadow id" in each.track_descriptor.name
    }
    assert len(tracks) == 2
    events = [each for each in made.packet if each.track_event.track_uuid in tracks]
    assert [each.timestamp for each in events] == sorted(each.timestamp for each in events)
    for track in tracks:
        kinds = [each.track_event.type for each in events if each.track_event.track_uuid == track]
        half = len(kinds) // 2
        assert kinds == [pb.TrackEvent.TYPE_SLICE_BEGIN, pb.TrackEvent.TYPE_SLICE_END] * half
    assert len(events) == 2 * 22


@pytest.mark.parametrize(
    ("ns", "words"),
    [
        (None, "did not end"), (0, "0 s"), (420, "420 ns"), (70_000, "70.0 µs"), (999_900, "1.00 ms"),
        (5_509_166, "5.51 ms"), (116_065_051, "116 ms"), (1_084_000_000, "1.08 s"),
        (12_340_000_000, "12.3 s"), (63_700_000_000_000, "63700 s"),
    ],
)  # fmt: skip
def test_a_span_has_three_digits(ns: int | None, words: str) -> None:
    assert told(ns) == words


def test_a_range_of_one_is_one() -> None:
    assert span_range(1_084_000_000, 1_084_900_000) == span(1_084_000_000)
    assert span_range(1_000, 2_000) == f"{span(1_000)} to {span(2_000)}"


def test_words() -> None:
    assert [quantity(each, "pass") for each in (1, 2, 1_240)] == ["1 pass", "2 passes", "1,240 passes"]
    assert counted_reasons({"running on a CPU": 1, "sleeping in f": 3}) == (
        "running on a CPU (1 time), sleeping in f (3 times)"
    )
    assert named(["a"]) == "a"
    assert named("abcde") == "5 tasks (a, b, c and 2 more)"
    assert [phase_words(each) for each in ("retry 1", "first pass", "new")] == [
        "pass 2", "the first pass", "new",
    ]  # fmt: skip


def test_every_way_to_switch_has_words(recorded: Recorded) -> None:
    met = {task.path for name in ("samples-6.1", "samples-7.2", "force-unpinned-6.12")
           for traced in recorded(name).legs for task in traced.leg.tasks}  # fmt: skip
    assert len(met) > 5
    assert met - {None} <= html_words.SWITCHED.keys()
