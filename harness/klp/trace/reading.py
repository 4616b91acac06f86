# SPDX-License-Identifier: Apache-2.0
"""A recorded events.jsonl, read back in the order of time, or refused.

The streams of all probes are mixed in it. `seq` orders the events of one stream, `ts_ns` those of different
streams. The file is read twice: once for the four fields that every event has, which is enough to check
the streams, and once in the order of time, each line decoded only when it is asked for. So only two
numbers a line stay in memory, for traces of a million events.

What is refused, with the number of the line: a line that is no event (torn, no UTF-8, with a time that no
clock can tell), a `seq` that does not follow (reordered, or a line was lost), a header of another schema
version or of none, an event after its probe's last, and a stream that ends without its `End` although
another probe's has one (cut). If *no* probe has an `End`, the guest went away under all of them, and
everything up to there is true: the history then has a hole at its end, and no rule that depends on it can
be held.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import msgspec

from klp.errors import UsageError
from klp.trace.events import SCHEMA, UNREADABLE, AnyEvent, decode
from klp.trace.events.base import Nanoseconds

HARNESS = "klp"
_AGAIN = "record it again with `klp run`"
# How many lines are read before the pages of the file are let go again, which count as this process's.
_LINES_KEPT = 1 << 16


class BadTrace(UsageError):
    """A recorded trace that cannot be trusted; the message starts with file and line."""


class _Outline(msgspec.Struct, gc=False):
    """What every event has."""

    type: str
    probe: str
    seq: int
    ts_ns: Nanoseconds


class _Head(msgspec.Struct):
    schema: int


_OUTLINE = msgspec.json.Decoder(_Outline)
_HEAD = msgspec.json.Decoder(_Head)


def read_events(file: Path) -> Iterator[tuple[int, AnyEvent]]:
    """Yield each event with the number of its line, ordered by time.

    Events of equal time come in the order of their lines. The whole file is checked before the first is
    yielded.

    Raises:
        BadTrace: it is torn, reordered, cut, empty, or of another schema version.
        UsageError: there is no such file.
    """
    try:
        with file.open("rb") as opened:
            if not file.stat().st_size:  # which mmap refuses
                raise BadTrace(f"{file}: no events in it", hint=_AGAIN)
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield from _in_time(file, data)
    except OSError as error:
        raise UsageError(
            f"{file}: {error.strerror}", hint="name a run folder, or its events.jsonl"
        ) from None


def _in_time(file: Path, data: mmap.mmap) -> Iterator[tuple[int, AnyEvent]]:
    offsets, times = _Streams(file).outline(data)
    order = array(
        "q", sorted(range(len(times)), key=times.__getitem__)
    )  # stable: equal times as in the file
    del times
    for read, index in enumerate(order, 1):
        line = data[offsets[index] : offsets[index + 1] - 1]
        try:
            yield index + 1, decode(line)
        except UNREADABLE as error:
            raise _no_event(file, index + 1, line, error) from None
        if not read % _LINES_KEPT:
            data.madvise(mmap.MADV_DONTNEED)


def _no_event(file: Path, number: int, line: bytes, error: Exception) -> BadTrace:
    shown = line[:60].decode(errors="replace")
    # Whole JSON that is no event was not torn: what is wrong is a value in it.
    what = "no event" if isinstance(error, msgspec.ValidationError) else "torn"
    return BadTrace(f"{file}:{number}: {what}: {shown!r}: {error}", hint=_AGAIN)


class _Streams:
    """The streams of one file, as far as they have been read."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._next: dict[str, int] = {}
        self._last_line: dict[str, int] = {}
        self._ended: set[str] = set()

    def outline(self, data: mmap.mmap) -> tuple[array[int], array[int]]:
        """Check every stream; return where each line begins (and the last ends), and its time."""
        offsets, times = array("q", [0]), array("q")
        position, due = 0, self._next
        for number in count(1):
            line = data.readline()
            if not line:
                break
            event = self._outlined(number, line)
            # What most events are is all that is looked at: the next of a stream that goes on.
            if event.seq == due.get(event.probe) and event.type not in ("header", "end"):
                due[event.probe] += 1
                self._last_line[event.probe] = number
            else:
                self._take(number, line, event)
            times.append(event.ts_ns)
            position += len(line)
            offsets.append(position)
            if not number % _LINES_KEPT:
                data.madvise(mmap.MADV_DONTNEED)
        self._check_ends()
        return offsets, times

    def _outlined(self, number: int, line: bytes) -> _Outline:
        if line[-1:] != b"\n":
            raise _no_event(self._file, number, line, ValueError("the line has no end"))
        try:
            return _OUTLINE.decode(line)
        except UNREADABLE as error:
            raise _no_event(self._file, number, line[:-1], error) from None

    def _take(self, number: int, line: bytes, event: _Outline) -> None:
        """Take the first or last event of a stream, or one that does not follow."""
        probe, due = event.probe, self._next.get(event.probe, 0)
        # Before the numbers: of another schema version is what the reader must know, not that it has a gap.
        if event.type == "header":
            self._check_schema(number, line)
        if probe in self._ended:
            raise self._refused(number, f"reordered: {probe}: an event after its last")
        if event.seq != due:
            raise self._refused(
                number, f"reordered or torn: {probe}: event {event.seq} where {due} was due"
            )
        if due == 0 and event.type != "header" and probe != HARNESS:
            raise self._refused(number, f"cut: {probe} begins without its header")
        self._next[probe] = due + 1
        if event.type == "end":
            self._ended.add(probe)
            del self._next[probe]
        self._last_line[probe] = number

    def _check_schema(self, number: int, line: bytes) -> None:
        try:
            found = _HEAD.decode(line).schema
        except UNREADABLE as error:
            raise _no_event(self._file, number, line[:-1], error) from None
        if found != SCHEMA:
            raise BadTrace(
                f"{self._file}:{number}: events of schema version {found}; this klp reads version {SCHEMA}",
                hint="analyse it with the klp that recorded it (run.json names its version), or " + _AGAIN,
            )

    def _check_ends(self) -> None:
        """Refuse a probe that stopped before the others did; see the module's text."""
        cut = sorted(set(self._next) - {HARNESS})
        if self._ended - {HARNESS} and cut:
            raise self._refused(
                self._last_line[cut[0]], f"cut: {cut[0]} ends here without its end, others have theirs"
            )

    def _refused(self, number: int, what: str) -> BadTrace:
        return BadTrace(f"{self._file}:{number}: {what}", hint=_AGAIN)
