# SPDX-License-Identifier: Apache-2.0
"""The run's event store: every event on disk as it arrives, and in memory for the analysis."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import msgspec

from klp.diskspace import disk_full, is_full
from klp.errors import HostLacks, KlpError
from klp.trace.events import UNREADABLE, AnyEvent, End, Event, Header, Lost, Mark, decode


class TornStream(KlpError):
    """A probe's output is not what its schema promises: a line is broken, or a number is missing."""


class EventStore:
    """Appends lines to a run's events.jsonl; safe to feed from several threads.

    A guest that dies leaves in the file all it had said; a disk that is full leaves whole lines.

    Args:
        listen: gets every event as it comes, in the thread that brings it; must be quick.
    """

    def __init__(self, file: Path, listen: Callable[[AnyEvent], None] | None = None) -> None:
        self._listen = listen
        self._place = file
        # Unbuffered: what a full disk did not take is not to be written once more at the end.
        self._file = file.open("ab", buffering=0)
        self._lock = threading.Lock()
        self._events: list[AnyEvent] = []
        self._next: Counter[str] = Counter()
        self._marks: Counter[str] = Counter()
        self._latest_ns = 0
        self._failure: KlpError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._file.close()

    def append(self, lines: list[bytes]) -> None:
        """Take whole lines as a probe wrote them; what is wrong with them is raised by `check`."""
        with self._lock:
            if self._file.closed:  # the thread that follows a probe ends with its connection, maybe later
                return
            # Before they are decoded: who looks for what was wrong with a line needs the line.
            if self._write(lines):
                for line in lines:
                    self._take(line)

    def _write(self, lines: list[bytes]) -> bool:
        """Write whole lines, or none where the disk refuses them; from then on nothing is written."""
        # What is wrong is kept for `check`: in the thread that feeds the store nobody would catch it.
        if isinstance(self._failure, HostLacks):
            return False
        whole = os.fstat(self._file.fileno()).st_size
        left = b"".join(line + b"\n" for line in lines)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            os.ftruncate(self._file.fileno(), whole)
            self._failure = self._refused(error)
            return False
        return True

    def _refused(self, error: OSError) -> HostLacks:
        hint = f"free some; what was recorded until then is in {self._place.parent}"
        if is_full(error):
            return disk_full(self._place, hint=hint)
        return HostLacks(f"{self._place}: {error.strerror}", hint=hint)

    def _take(self, line: bytes) -> None:
        try:
            event = decode(line)
        except UNREADABLE as error:
            shown = line[:80].decode(errors="replace")
            self._failure = self._failure or TornStream(f"a probe wrote {shown!r}: {error}")
            return
        expected = self._next[event.probe]
        if event.seq != expected:
            self._failure = self._failure or TornStream(
                f"{event.probe}: event {event.seq} came where {expected} was due"
            )
        self._next[event.probe] = event.seq + 1
        self._latest_ns = max(self._latest_ns, event.ts_ns)
        if isinstance(event, Mark):
            self._marks[event.probe] = event.number
        self._events.append(event)
        if self._listen:
            self._listen(event)

    def record(
        self,
        probe: str,
        kind: type[Event],
        ts_ns: int = 0,
        *,
        lasts_from_ns: int | None = None,
        **fields: Any,
    ) -> None:
        """Add an event that is made on the host, by `probe`, after all that is in the store so far.

        Args:
            ts_ns: the guest's clock as far as the host knows it, which is an estimate. It must not put an
                observation before what was seen earlier, so the event is stamped later than every other.
            lasts_from_ns: when an event with a duration began: `duration_ns` is the time since then.

        Raises:
            HostLacks: the disk is full, or cannot be written.
        """
        with self._lock:
            if self._file.closed:
                return
            after = max(ts_ns, self._latest_ns + 1)
            if lasts_from_ns is not None:
                fields["duration_ns"] = max(0, after - lasts_from_ns)
            event = kind(probe=probe, seq=self._next[probe], ts_ns=after, **fields)
            line = msgspec.json.encode(event)
            if not self._write([line]):
                assert self._failure is not None
                raise self._failure
            self._take(line)

    def check(self) -> None:
        """Return if the streams so far are whole, and on the disk.

        Raises:
            TornStream: a line was broken, or a number was missing.
            HostLacks: the disk is full, or cannot be written.
        """
        with self._lock:
            if self._failure:
                raise self._failure

    def header(self, probe: str) -> Header | None:
        """Return a probe's first event, or None before it is armed."""
        with self._lock:
            heads = (each for each in self._events if isinstance(each, Header))
            return next((head for head in heads if head.probe == probe), None)

    def ended(self, probe: str) -> bool:
        """Whether a probe has written its last event."""
        with self._lock:
            return any(isinstance(each, End) and each.probe == probe for each in self._events)

    def marked(self, probe: str, number: int) -> bool:
        """Whether a probe has written its `number`-th mark."""
        with self._lock:
            return self._marks[probe] >= number

    def count(self) -> int:
        """Return how many events there are; a position for `since`."""
        with self._lock:
            return len(self._events)

    def since(self, position: int = 0) -> tuple[AnyEvent, ...]:
        """Return the events from `position` on, in the order of their time stamps."""
        with self._lock:
            return tuple(sorted(self._events[position:], key=lambda event: event.ts_ns))

    def numbered_since(self, position: int = 0) -> tuple[tuple[int, AnyEvent], ...]:
        """Return (line number in the file, event) from `position` on, ordered by time."""
        with self._lock:
            numbered = enumerate(self._events[position:], position + 1)
            return tuple(sorted(numbered, key=lambda each: each[1].ts_ns))

    def numbered_before(self, position: int) -> tuple[tuple[int, AnyEvent], ...]:
        """Return (line number in the file, event) up to `position`, in the order of lines.

        For a span that begins there: headers, for one, say what the probes cannot see in any span.
        """
        with self._lock:
            return tuple(enumerate(self._events[:position], 1))

    def lost(self) -> int:
        """Return how many events the probes said they lost."""
        with self._lock:
            return sum(each.count for each in self._events if isinstance(each, Lost))
