# SPDX-License-Identifier: Apache-2.0
"""A recorded trace is read back in the order of time, or refused with the number of the line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from klp.analysis.history import history
from klp.analysis.rules.registry import judge_all
from klp.errors import UsageError
from klp.trace.reading import BadTrace, read_events
from tests.unit.everything import everything
from tests.unit.traces import Trace


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return everything().write(tmp_path / "events.jsonl")


def lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines(keepends=True)


def refused(file: Path, changed: list[bytes]) -> str:
    file.write_bytes(b"".join(changed))
    with pytest.raises(BadTrace) as caught:
        list(read_events(file))
    assert caught.value.hint
    return caught.value.message.replace(str(file), "FILE")


def test_events_come_in_the_order_of_time_with_their_lines_numbers(file: Path) -> None:
    read = list(read_events(file))
    times = [event.ts_ns for _, event in read]
    assert times == sorted(times)
    assert sorted(number for number, _ in read) == list(range(1, len(lines(file)) + 1))
    assert read == everything().numbered()


def test_a_file_is_judged_as_the_events_were(file: Path) -> None:
    from_file = judge_all(history(read_events(file)))
    assert from_file == judge_all(history(everything().numbered()))


def test_streams_may_be_interleaved_in_any_way(file: Path) -> None:
    by_probe = sorted(lines(file), key=lambda line: json.loads(line)["probe"])
    file.write_bytes(b"".join(by_probe))
    times = [event.ts_ns for _, event in read_events(file)]
    assert times == sorted(times)


@pytest.mark.parametrize("at", [0, 1, 40, -1])
def test_a_torn_line_is_refused(file: Path, at: int) -> None:
    whole = lines(file)
    number = at % len(whole) + 1
    whole[at] = whole[at][:-20] + b"\n"
    assert refused(file, whole).startswith(f"FILE:{number}: torn: ")


def test_a_last_line_without_its_end_is_refused(file: Path) -> None:
    whole = lines(file)
    assert refused(file, [*whole[:-1], whole[-1][:-1]]).startswith(f"FILE:{len(whole)}: torn: ")


@pytest.mark.parametrize(("line", "says"), [
    (b"[]\n", "no event"), (b"\n", "torn"), (b"null\n", "no event"), (b'{"type": "mark"}\n', "no event"),
    (b"\xff\xfe\n", "torn"), (b'{"a": ' + b"[" * 100_000 + b"\n", "torn"),
])  # fmt: skip
def test_a_line_that_is_no_event_is_refused(file: Path, line: bytes, says: str) -> None:
    whole = lines(file)
    assert refused(file, [*whole[:9], line, *whole[9:]]).startswith(f"FILE:10: {says}: ")


def test_an_event_of_no_known_kind_is_refused(file: Path) -> None:
    whole = lines(file)
    whole[20] = whole[20].replace(b'"type":"', b'"type":"x')
    assert refused(file, whole).startswith("FILE:21: no event: ")


def test_a_missing_event_is_refused(file: Path) -> None:
    whole = lines(file)
    del whole[20]
    said = refused(file, whole)
    assert said.startswith("FILE:")
    assert "reordered or torn: klptransition: event" in said


def test_events_in_another_order_are_refused(file: Path) -> None:
    whole = lines(file)
    whole[20], whole[21] = whole[21], whole[20]
    assert refused(file, whole).startswith("FILE:21: reordered or torn: klptransition: event")


def test_a_stream_without_its_header_is_refused(file: Path) -> None:
    first = [line for line in lines(file) if b'"klpshadow"' not in line]
    begun = next(line for line in lines(file) if b'"klpshadow","seq":1,' in line)
    said = refused(file, [*first, begun.replace(b'"seq":1', b'"seq":0')])
    assert "cut: klpshadow begins without its header" in said


def test_a_stream_that_stops_before_the_others_is_refused(file: Path) -> None:
    whole = [line for line in lines(file) if b'"end"' not in line or b"klpshadow" not in line]
    last = max(number for number, line in enumerate(whole, 1) if b'"klpshadow"' in line)
    assert refused(file, whole).startswith(f"FILE:{last}: cut: klpshadow ends here")


def test_an_event_after_the_last_is_refused(file: Path) -> None:
    whole = lines(file)
    [end] = [json.loads(line) for line in whole if b'"end"' in line and b"klpshadow" in line]
    more = json.dumps({**end, "type": "mark", "number": 1, "seq": end["seq"] + 1}).encode() + b"\n"
    assert "an event after its last" in refused(file, [*whole, more])


def test_a_guest_that_was_lost_leaves_a_hole_and_no_error(tmp_path: Path) -> None:
    trace = Trace()
    trace.enable("p")
    holes = history(read_events(trace.write(tmp_path / "events.jsonl"))).holes
    assert {each.probe for each in holes} == {
        "klptransition", "klpshadow", "klpcallbacks", "klpstates", "klpconsistency",
    }  # fmt: skip
    assert all("no end" in each.words for each in holes)


def test_another_schema_version_is_refused(file: Path) -> None:
    whole = lines(file)
    whole[0] = whole[0].replace(b'"schema":2', b'"schema":1')
    said = refused(file, whole)
    assert said.startswith("FILE:1: events of schema version 1; this klp reads version 2")


@pytest.mark.parametrize("found", [b"", b'"schema":null,', b'"schema":"2",'])
def test_a_header_without_a_schema_version_is_refused(file: Path, found: bytes) -> None:
    whole = lines(file)
    whole[0] = whole[0].replace(b'"schema":2,', found)
    assert refused(file, whole).startswith("FILE:1: no event: ")


def spoilt(line: bytes, field: bytes, value: bytes) -> bytes:
    found = re.sub(rb'("%s":)[^,}]+' % field, rb"\g<1>" + value, line, count=1)
    assert found != line
    return found


@pytest.mark.parametrize("value", [b"-1", b"9223372036854775808", b"1" + b"0" * 40, b"1e300", b"null"])
@pytest.mark.parametrize("field", [b"ts_ns", b"duration_ns"])
def test_a_time_that_no_clock_can_tell_is_refused(file: Path, field: bytes, value: bytes) -> None:
    whole = lines(file)
    number = next(at for at, line in enumerate(whole, 1) if b'"type":"pass"' in line)
    whole[number - 1] = spoilt(whole[number - 1], field, value)
    assert refused(file, whole).startswith(f"FILE:{number}: no event: ")


@pytest.mark.parametrize("field", [b"probe", b"comm", b"function"])
def test_what_is_no_utf8_is_refused(file: Path, field: bytes) -> None:
    whole = lines(file)
    number = next(at for at, line in enumerate(whole, 1) if b'"result":"sleeping"' in line)
    whole[number - 1] = spoilt(whole[number - 1], field, b'"\xff\xfe"')
    assert refused(file, whole).startswith(f"FILE:{number}: torn: ")


def test_no_events_at_all(file: Path) -> None:
    assert refused(file, []) == "FILE: no events in it"


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        list(read_events(tmp_path / "events.jsonl"))


def test_a_folder_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Is a directory"):
        list(read_events(tmp_path))
