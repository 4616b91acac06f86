# SPDX-License-Identifier: Apache-2.0
"""A recorded trace changed in one documented place: tests/data/events/mutations.toml says where and why."""

from __future__ import annotations

import gzip
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import msgspec

from klp.trace import events as ev
from tests.unit.everything import everything

EVENTS = Path(__file__).parents[1] / "data" / "events"
Line = dict[str, Any]


class Mutation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One change of one event of a trace that makes it break a rule.

    Attributes:
        rule: the rule that must become violated.
        base: ``everything``, the trace of everything.py, or a file of tests/data/events/.
        edit: ``alter`` sets fields, ``drop`` takes the event away, ``insert`` adds a changed copy.
        where: fields of the event, by dotted path, and their values.
        nth: which of those that fit, from 0; negative from the end.
        set: fields to change, by dotted path.
        delay_ns: how much later the event is made to be, negative for earlier.
        also: further rules that the same change breaks, and must.
        reason: what a kernel would have done wrong to write such a trace.
    """

    rule: str
    base: str = "everything"
    edit: Literal["alter", "drop", "insert"] = "alter"
    where: dict[str, Any]
    nth: int = 0
    set: dict[str, Any] = {}
    delay_ns: int = 0
    also: tuple[str, ...] = ()
    reason: str


def mutations() -> list[Mutation]:
    """Return the table."""
    table = tomllib.loads((EVENTS / "mutations.toml").read_text())
    return msgspec.convert(table["mutation"], list[Mutation])


def base(name: str) -> list[Line]:
    """Return the lines of a trace, decoded to plain values."""
    if name == "everything":
        return [msgspec.json.decode(msgspec.json.encode(each)) for each in everything().events]
    data = (EVENTS / name).read_bytes()
    text = gzip.decompress(data) if name.endswith(".gz") else data
    return [msgspec.json.decode(line) for line in text.splitlines()]


def mutated(mutation: Mutation) -> list[Line]:
    """Return the base with the change made, its streams renumbered so that they are whole."""
    lines = base(mutation.base)
    fitting = [place for place, line in enumerate(lines) if _fits(line, mutation.where)]
    assert fitting, f"{mutation.rule}: no event of {mutation.base} is like {mutation.where}"
    place = fitting[mutation.nth]
    changed = msgspec.json.decode(msgspec.json.encode(lines[place]))
    for path, value in mutation.set.items():
        _put(changed, path, None if value == "null" else value)
    changed["ts_ns"] += mutation.delay_ns
    lines[place : place + 1] = {
        "alter": [changed], "drop": [], "insert": [lines[place], changed],
    }[mutation.edit]  # fmt: skip
    return _renumbered(lines)


def events(lines: list[Line]) -> list[tuple[int, ev.AnyEvent]]:
    """Return lines as they would be read: typed, numbered, in the order of time."""
    typed = [msgspec.convert(line, ev.AnyEvent) for line in lines]
    return sorted(enumerate(typed, 1), key=lambda each: each[1].ts_ns)


def _fits(line: Line, where: Line) -> bool:
    return all(_get(line, path) == (None if value == "null" else value) for path, value in where.items())


def _get(line: Any, path: str) -> Any:
    for name in path.split("."):
        if isinstance(line, list):
            line = line[int(name)] if int(name) < len(line) else None
        elif isinstance(line, dict):
            line = line.get(name)
        else:
            return None
    return line


def _put(line: Line, path: str, value: Any) -> None:
    before, _, last = path.rpartition(".")
    holder = _get(line, before) if before else line
    if isinstance(holder, list):
        holder[int(last)] = value
    else:
        assert last in holder, f"no field {path}"
        holder[last] = value


def _renumbered(lines: list[Line]) -> list[Line]:
    count: Counter[str] = Counter()
    for line in lines:
        line["seq"] = count[line["probe"]]
        if line["type"] == "end":
            line["events"] = line["seq"]
        count[line["probe"]] += 1
    return lines
