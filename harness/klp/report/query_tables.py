# SPDX-License-Identifier: Apache-2.0
"""The tables of `klp query`: their columns, types and units, and their documentation.

docs/query.md is made from here (``python -m klp.report.query_tables``), and a test keeps the two equal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect

from klp.trace.events import AnyEvent
from klp.trace.events.base import Unsigned

_S = Annotated[str, msgspec.Meta(description="the run folder's name")]
_Guest = Annotated[
    int, msgspec.Meta(description="guest of the run, from 1: each has a file of events and a clock")
]
_Plan = Annotated[str | None, msgspec.Meta(description="the plan that was under way; null where none was")]
_Leg = Annotated[int, msgspec.Meta(description="of the guest's transitions, from 1 in order of time")]
_Target = Annotated[int, msgspec.Meta(description="1 patching, 0 unpatching")]
_Patch = Annotated[str, msgspec.Meta(description="the livepatch's module name")]
_Verdict = Annotated[str, msgspec.Meta(description="held, violated or not observed")]


def _(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """A run."""

    run: _S
    path: Annotated[str, _("its folder")]
    kernel: Annotated[str, _("the kernel's release")]
    kernel_name: Annotated[str, _("what the kernel was asked for by, such as 6.12")]
    begun_at: Annotated[datetime, _("UTC, the host's clock")]
    duration_s: Annotated[float, _("seconds from begin to end, the host's clock")]
    verdict: _Verdict
    plans: Annotated[int, _("plans that were run")]
    events: Annotated[int, _("events that the probes wrote")]
    lost_events: Annotated[int, _("events that the probes said were lost")]
    error: Annotated[str | None, _("why it ended early; null if it did not")]
    accelerator: Annotated[str, _("kvm or tcg")]
    cpus: Annotated[int, _("of the guest")]
    memory_mib: Annotated[int, _("of the guest, MiB")]
    klp: Annotated[str, _("version of klp")]


class VerdictRow(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict: of a check of one plan, or of a rule of `klp rules` on the whole run."""

    run: _S
    kernel: Annotated[str, _("the kernel's release")]
    kind: Annotated[str, _("check or rule")]
    plan: Annotated[str | None, _("for a check: its plan; null for a rule")]
    repetition: Annotated[int | None, _("for a check: its plan's repetition, from 1; null for a rule")]
    guest: Annotated[int | None, _("for a check: the guest it was made in, from 1; null for a rule")]
    name: Annotated[str, _("what was checked, or the rule's id, such as T4")]
    verdict: _Verdict
    observations: Annotated[int | None, _("for a rule: how often the trace could have shown it broken")]
    evidence: Annotated[str, _("what it rests on, in words")]


class TransitionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A transition in one direction; a reversal ends one and begins the next."""

    run: _S
    guest: _Guest
    plan: _Plan
    transition: _Leg
    patch: _Patch
    target: _Target
    outcome: Annotated[str, _("complete, reversed, cancelled or unfinished")]
    begun_ns: Annotated[int, _("ns of the guest's CLOCK_MONOTONIC")]
    duration_ns: Annotated[int | None, _("ns to its completion or reversal; null where that was not seen")]
    passes: Annotated[int, _("calls of klp_try_complete_transition")]
    attempts: Annotated[int, _("calls of klp_try_switch_task that had something to do")]
    stragglers: Annotated[int, _("tasks that an attempt left behind")]
    signals: Annotated[int, _("times the tasks that remained were signalled")]
    forced: Annotated[bool, _("ended by klp_force_transition")]
    mixed_ns: Annotated[int, _("ns for which some tasks had switched and others had not")]


class TaskRow(msgspec.Struct, frozen=True, kw_only=True):
    """A task in a transition."""

    run: _S
    guest: _Guest
    plan: _Plan
    transition: _Leg
    patch: _Patch
    target: _Target
    pid: Annotated[int, _("thread id; 0 for an idle task")]
    tgid: Annotated[int, _("process id")]
    comm: Annotated[str, _("its name")]
    path: Annotated[
        str | None,
        _(
            "how it switched: first pass, retry pass, exit, idle, scheduler, force, offline, fork (born"
            " switched), ended (died without), already (seen switched); null: left pending"
        ),
    ]
    attempts: Annotated[int, _("attempts of passes on it that failed")]
    wait_ns: Annotated[int, _("ns from the transition's begin to its switch, or to when it was last seen")]
    reasons: Annotated[dict[str, int], _("each reason with the number of attempts it made fail")]


class ShadowRow(msgspec.Struct, frozen=True, kw_only=True):
    """A shadow variable."""

    run: _S
    guest: _Guest
    obj: Annotated[str, _("address of the object it hangs on")]
    id: Annotated[int, msgspec.Meta(ge=0, description="its id")]
    variable: Annotated[str, _("address of its data")]
    size: Annotated[
        Unsigned | None, msgspec.Meta(description="bytes; null where it was made before the trace")
    ]
    made_ns: Annotated[int | None, _("ns of the guest's CLOCK_MONOTONIC; null as for size")]
    freed_ns: Annotated[int | None, _("ns of the guest's CLOCK_MONOTONIC; null: not freed in the trace")]
    age_ns: Annotated[int | None, _("ns from made to freed; null where one is")]
    caller: Annotated[str | None, _("who made it: function+0xOFFSET [module]")]


class CallsRow(msgspec.Struct, frozen=True, kw_only=True):
    """How often one of a livepatch's own functions ran, counted at its entry in one plan or scenario."""

    run: _S
    guest: _Guest
    plan: _Plan
    patch: _Patch
    object: Annotated[str, _("what it changes: vmlinux, or a module")]
    old: Annotated[str, _("the function whose place it takes")]
    new: Annotated[str, _("the livepatch's own; empty where its file does not tell it")]
    calls: Annotated[int, _("how often it ran")]
    tasks: Annotated[int, _("tasks that called it")]
    callers: Annotated[dict[str, int], _("each name of a task with its calls")]
    dropped: Annotated[int, _("calls that the kernel gave to no task; they are among `calls`")]
    uncounted: Annotated[str | None, _("why it was not counted; null where it was")]


ROWS: Mapping[str, type[msgspec.Struct]] = {
    "runs": RunRow,
    "verdicts": VerdictRow,
    "transitions": TransitionRow,
    "tasks": TaskRow,
    "shadows": ShadowRow,
    "calls": CallsRow,
}


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column: its DuckDB type, and what it holds with its unit."""

    name: str
    sql: str
    meaning: str


_PLAIN: Mapping[type, str] = {
    inspect.IntType: "BIGINT",
    inspect.FloatType: "DOUBLE",
    inspect.BoolType: "BOOLEAN",
    inspect.StrType: "VARCHAR",
    inspect.LiteralType: "VARCHAR",
    inspect.DateTimeType: "TIMESTAMP",
}


def _sql(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.UnionType):
        [kind] = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
    if isinstance(kind, inspect.Metadata):
        return _sql(kind.type)
    if isinstance(kind, inspect.IntType) and kind.ge == 0 and kind.le is None:
        return "UBIGINT"
    if isinstance(kind, inspect.StructType):
        parts = ", ".join(f"{each.name} {_sql(each.type)}" for each in kind.fields)
        return f"STRUCT({parts})"
    if isinstance(kind, inspect.VarTupleType) and isinstance(kind.item_type, inspect.StrType):
        return "VARCHAR[]"
    # Lists of structures and open dictionaries: DuckDB's JSON functions read them.
    return _PLAIN.get(type(kind), "JSON")


@cache
def columns(table: str) -> tuple[TableColumn, ...]:
    """Return the columns of a table."""
    return _event_columns() if table == "events" else _row_columns(ROWS[table])


def _row_columns(row: type[msgspec.Struct]) -> tuple[TableColumn, ...]:
    hints = get_type_hints(row, include_extras=True)
    kinds = {each.name: each.type for each in _fields(row)}
    return tuple(TableColumn(name, _sql(kinds[name]), _meaning(hint)) for name, hint in hints.items())


def _fields(struct: type) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    return info.fields


def _meaning(hint: Any) -> str:
    metas = [each for each in get_args(hint)[1:] if get_origin(hint) is Annotated]
    return next((str(each.description) for each in metas if isinstance(each, msgspec.Meta)), "")


def _event_columns() -> tuple[TableColumn, ...]:
    """One column for each field that any event has; what differs between events is told as text."""
    kinds: dict[str, set[str]] = {}
    users: dict[str, list[str]] = {}
    for struct in get_args(AnyEvent):
        for each in _fields(struct):
            kinds.setdefault(each.name, set()).add(_sql(each.type))
            users.setdefault(each.name, []).append(str(struct.__struct_config__.tag))
    own = (
        TableColumn("run", "VARCHAR", "the run folder's name"),
        TableColumn("guest", "BIGINT", "guest of the run, from 1"),
        TableColumn("type", "VARCHAR", "which event it is"),
    )
    shared = len(get_args(AnyEvent))
    return own + tuple(
        TableColumn(name, _one(sql), "all" if len(users[name]) == shared else ", ".join(users[name]))
        for name, sql in kinds.items()
    )


def _one(kinds: Iterable[str]) -> str:
    different = list(kinds)
    return different[0] if len(different) == 1 else "VARCHAR"


@cache
def documentation() -> str:
    """Return the part of docs/query.md that lists the tables."""
    parts = [_table_text(name, row.__doc__ or "", "meaning and unit") for name, row in ROWS.items()]
    events = (
        "An event as a probe, or klp itself (`probe` is `klp`), wrote it, a row a line; what each field"
        " means, with its unit, stands in [the event classes](../harness/klp/trace/events). A field is"
        " null in events that have none of that name."
    )
    return "\n".join([*parts, _table_text("events", events, "of the events")])


def _table_text(name: str, text: str, heading: str) -> str:
    rows = "\n".join(f"| `{each.name}` | {each.sql} | {each.meaning} |" for each in columns(name))
    return f"## {name}\n\n{text}\n\n| column | type | {heading} |\n|---|---|---|\n{rows}\n"


if __name__ == "__main__":
    sys.stdout.write(documentation())
