# SPDX-License-Identifier: Apache-2.0
"""The event store keeps every line on the disk, and notices when one is missing or torn."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from klp.trace.events import Step, Taint
from klp.trace.store import EventStore, TornStream


def line(kind: str, seq: int, probe: str = "a", ts_ns: int | None = None, **fields: object) -> bytes:
    ts = seq * 10 if ts_ns is None else ts_ns
    return json.dumps({"type": kind, "probe": probe, "seq": seq, "ts_ns": ts, **fields}).encode()


def header(probe: str = "a") -> bytes:
    return line("header", 0, probe, schema=2, kernel="6.12", attached=["f"], missing=[])


def cancel(seq: int, probe: str = "a", ts_ns: int | None = None) -> bytes:
    core = {"target_state": 1, "transition_patch": "p", "signals_cnt": 0, "enabled": False}
    return line("cancel", seq, probe, ts_ns, patch="p", core=core)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def store(file: Path) -> Iterator[EventStore]:
    with EventStore(file) as opened:
        yield opened


def test_lines_are_on_the_disk_at_once_as_they_came(store: EventStore, file: Path) -> None:
    lines = [header(), cancel(1), b"torn {", cancel(2)]
    for each in lines:
        store.append([each])
        assert file.read_bytes().splitlines()[-1] == each
    assert file.read_bytes() == b"\n".join(lines) + b"\n"


def test_whole_streams_pass(store: EventStore) -> None:
    store.append([header(), header("b"), cancel(1, "b"), cancel(1), cancel(2)])
    store.check()
    assert store.count() == 5


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([header(), cancel(2)], "a: event 2 came where 1 was due"),
        ([cancel(1)], "a: event 1 came where 0 was due"),
        ([header(), header()], "a: event 0 came where 1 was due"),
        ([header(), header("b"), cancel(1), cancel(2, "b")], "b: event 2 came where 1 was due"),
    ],
)
def test_a_gap_is_noticed(store: EventStore, lines: list[bytes], says: str) -> None:
    store.append(lines)
    with pytest.raises(TornStream, match=f"^{says}$"):
        store.check()


@pytest.mark.parametrize(
    "torn",
    [
        b"",
        b"{",
        cancel(1)[:-5],
        b"Traceback (most recent call last):",
        b'{"type": "new"}',
        b"\xff\xfe",
        b"[]",
    ],
)
def test_a_torn_line_is_noticed(store: EventStore, torn: bytes) -> None:
    store.append([header(), torn])
    with pytest.raises(TornStream, match=r"^a probe wrote"):
        store.check()


def test_a_field_that_is_missing_or_of_another_kind_is_noticed(store: EventStore) -> None:
    store.append([header(), line("cancel", 1)])
    with pytest.raises(TornStream, match="patch"):
        store.check()


@pytest.mark.parametrize(
    ("lines", "says"),
    [([cancel(2), b"{", cancel(4)], "event 2 came"), ([b"{", cancel(2), cancel(4)], "a probe wrote")],
)
def test_the_first_failure_stands_and_events_go_on(
    store: EventStore, lines: list[bytes], says: str
) -> None:
    store.append([header(), *lines])
    for _ in range(2):
        with pytest.raises(TornStream, match=says):
            store.check()
    assert store.count() == 3


def test_headers(store: EventStore) -> None:
    assert store.header("a") is None
    store.append([header("b")])
    assert store.header("a") is None
    store.append([header()])
    found = store.header("a")
    assert found is not None
    assert (found.probe, found.attached) == ("a", ("f",))


def test_marks(store: EventStore) -> None:
    store.append([header(), line("mark", 1, number=1)])
    assert store.marked("a", 1)
    assert not store.marked("a", 2)
    assert not store.marked("b", 1)
    store.append([line("mark", 2, number=2)])
    assert store.marked("a", 2)
    assert store.marked("a", 1)


def test_ends(store: EventStore) -> None:
    store.append([header(), header("b")])
    assert not store.ended("a")
    store.append([line("end", 1, events=1, lost=0)])
    assert store.ended("a")
    assert not store.ended("b")


def test_losses_are_added_up(store: EventStore) -> None:
    store.append([header(), line("lost", 1, count=3), header("b"), line("lost", 1, "b", count=4)])
    assert store.lost() == 7
    store.append([line("end", 2, events=2, lost=3)])
    assert store.lost() == 7


def test_events_since_a_position_in_the_order_of_time(store: EventStore) -> None:
    store.append([header()])
    begun = store.count()
    store.append([cancel(1, ts_ns=30), cancel(2, ts_ns=10), cancel(3, ts_ns=20)])
    assert [event.ts_ns for event in store.since(begun)] == [10, 20, 30]
    assert len(store.since()) == 4
    assert store.since(4) == ()


def test_what_the_harness_saw_comes_after_all_that_was_there(store: EventStore) -> None:
    store.append([header(), cancel(1, ts_ns=1000)])
    store.record("klp", Taint, 900, flags="K")
    store.record("klp", Step, 800, lasts_from_ns=700, action="load", subject="fix", errno=0)
    taint, step = store.since(2)
    assert taint.ts_ns == 1001
    assert isinstance(step, Step)
    assert (step.ts_ns, step.ts_ns - step.duration_ns) == (1002, 700)


def test_a_closed_store_takes_nothing_more(file: Path) -> None:
    with EventStore(file) as store:
        store.append([header()])
    before = file.read_bytes()
    store.append([cancel(1)])
    assert file.read_bytes() == before
    assert store.count() == 1


def test_nothing_of_an_earlier_run_is_written_over(file: Path) -> None:
    file.write_bytes(b"before\n")
    with EventStore(file) as store:
        store.append([header()])
    assert file.read_bytes().startswith(b"before\n")


def test_probes_write_at_once(store: EventStore, file: Path) -> None:
    def feed(probe: str) -> None:
        store.append([header(probe)])
        for seq in range(1, 300):
            store.append([cancel(seq, probe)])

    threads = [threading.Thread(target=feed, args=(probe,)) for probe in "abc"]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    store.check()
    assert store.count() == 900
    assert len([json.loads(each) for each in file.read_bytes().splitlines()]) == 900
