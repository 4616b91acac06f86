# SPDX-License-Identifier: Apache-2.0
"""What the klp probes write: events in columns for people, or as JSON lines, in order and numbered."""

from __future__ import annotations

import io
import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 2

Fields = dict[str, Any]
# Made once: json.dumps would make one for each event.
_ENCODE = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode
# A task may call itself anything, and a terminal obeys some of it: each such character becomes its picture,
# or the replacement character if it has none (C1, and what turns the direction of text).
_HARMLESS = {
    **{code: chr(0x2400 + code) for code in range(0x20)},
    0x7F: "\u2421",
    **dict.fromkeys(
        (*range(0x80, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd"
    ),
}


@dataclass
class Output:
    """Writes events, to people in columns or to programs as JSON, and numbers them."""

    probe: str
    as_json: bool
    columns: Callable[[str, Fields], str | None]
    write: Callable[[str], Any] = sys.stdout.write
    seq: int = 0
    marks: int = 0
    lost: int = 0
    _began_ns: int = field(default_factory=time.monotonic_ns)

    def event(self, kind: str, ts_ns: int, /, **fields: Any) -> None:
        """Write one event; in columns with the time at which it ended, for then it is written."""
        if self.as_json:
            head = {"type": kind, "probe": self.probe, "seq": self.seq, "ts_ns": ts_ns}
            self.write(_ENCODE(head | fields) + "\n")
        elif line := self.columns(kind, harmless(fields)):
            at_ns = ts_ns + fields.get("duration_ns", 0)
            self.write(f"{max(0, at_ns - self._began_ns) / 1e9:<12.6f}{line}\n")
        self.seq += 1

    def now(self, kind: str, /, **fields: Any) -> None:
        """Write an event of the tool's own; people get these on stderr, if at all."""
        if self.as_json:
            self.event(kind, time.monotonic_ns(), **fields)

    def header(self, attached: Iterable[str], missing: Iterable[Fields], facts: Fields) -> None:
        """Write the first event; `facts` are what only some tools tell of the kernel."""
        kernel = os.uname().release
        self.now(
            "header", schema=SCHEMA, kernel=kernel, attached=list(attached), missing=list(missing), **facts
        )

    def mark(self) -> None:
        """Say that all that happened before this moment has been written."""
        self.marks += 1
        self.now("mark", number=self.marks)

    def lose(self, total: int) -> None:
        """Report what the ring buffer had no room for, given the total of the whole run."""
        count, self.lost = total - self.lost, total
        if count:
            self.now("lost", count=count)
            complain(f"{self.probe}: lost {count} events")

    def end(self) -> None:
        """Write the last event."""
        self.now("end", events=self.seq, lost=self.lost)


def harmless(value: Any) -> Any:
    """Return fields with pictures of what a terminal would act on: any task can call itself anything."""
    if isinstance(value, str):
        return value.translate(_HARMLESS)
    if isinstance(value, dict):
        return {name: harmless(each) for name, each in value.items()}
    return [harmless(each) for each in value] if isinstance(value, list | tuple) else value


def set_encoding(as_json: bool) -> None:
    """Have standard output take any name: JSON is UTF-8, columns escape what a terminal lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        if as_json:
            sys.stdout.reconfigure(encoding="utf-8")
        else:
            sys.stdout.reconfigure(errors="backslashreplace")


def complain(text: str) -> None:
    """Write a line to stderr."""
    print(text, file=sys.stderr, flush=True)


def unread() -> bool:
    """Tell whether nobody reads standard output any more: then there is nothing to go on for."""
    look = select.poll()
    look.register(
        1, 0
    )  # no event is asked for: an error, which a pipe without a reader has, is told anyhow
    return any(happened & select.POLLERR for _, happened in look.poll(0))


def task_fields(event: Any) -> Fields:
    """Return the task of a BPF event."""
    return {"pid": event.pid, "tgid": event.tgid, "comm": text(event.comm)}


def text(raw: bytes) -> str:
    """Return a C string of the kernel's as text; a comm can hold any bytes."""
    return raw.decode(errors="replace")
