#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
#
# klpshadow  Trace shadow variables: who makes and frees them, and how old they get.
#            For Linux, uses BCC, eBPF. x86-64 only.
#
# USAGE: klpshadow [-h] [-j] [-i ID] [-d SECONDS]
#
# This puts kprobes on kernel/livepatch/shadow.c. Whether klp_shadow_get_or_alloc found a variable or
# made one cannot be told from its result, so two more kprobes stand inside __klp_shadow_get_or_alloc:
# after its call of the allocator and after its call of the constructor. klp_shadow_get, which patched
# functions may call very often, is only counted, and only for people.
"""Trace shadow variables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import klpprobe
import klptext
from klpprobe import Fields, Output, Probes
from klpsymbols import Symbols

NAME = "klpshadow"
EXAMPLES = """examples:
    ./klpshadow             # trace all shadow variables
    ./klpshadow -i 1        # only those of id 1
    ./klpshadow -j -d 10    # JSON lines for 10 seconds
"""
EVENTS = ("shadow_alloc", "shadow_free", "shadow_free_all", "shadow_freed")
CALLS = ("alloc", "get_or_alloc")
RESULTS = ("made", "found", "exists", "failed")
CORE = "__klp_shadow_get_or_alloc"
# A caller in a module that is about to go must be named before its symbols are gone.
TICK_S = 0.05

HEAD = f"{'TIME(s)':<11} {'EVENT':<10} {'OBJ':<18} {'ID':<6} {'PID':<7} DETAIL"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = klpprobe.parser(NAME, "Trace shadow variables", EXAMPLES)
    parser.add_argument("-i", "--id", type=lambda given: int(given, 0), help="trace this id only")
    return parser.parse_args()


def cflags(wanted_id: int | None) -> list[str]:
    """Tell the BPF program this file's numbers, and the id asked for."""
    flags = [] if wanted_id is None else [f"-DFILTER_ID={wanted_id}UL"]
    for prefix, names in (("EVENT", EVENTS), ("CALL", CALLS), ("RESULT", RESULTS)):
        flags += klpprobe.numbered(prefix, names)
    return flags


def attach(probes: Probes) -> None:
    """Put the probes on the shadow variable functions."""
    for name, entry, leave, unseen in (
        ("klp_shadow_alloc", "on_alloc", "on_alloc_return", "allocations by klp_shadow_alloc"),
        (
            "klp_shadow_get_or_alloc",
            "on_get_or_alloc",
            "on_alloc_return",
            "allocations by klp_shadow_get_or_alloc",
        ),
        ("klp_shadow_free_all", "on_free_all", "on_free_all_return", "calls of klp_shadow_free_all"),
    ):
        probes.enter(name, entry, unseen)
        probes.leave(name, leave, unseen)
    probes.enter("klp_shadow_free", "on_free", "calls of klp_shadow_free")
    probes.enter("klp_shadow_free_struct", "on_freed", "which variables were freed, and their age")
    attach_inside(probes)


def attach_inside(probes: Probes) -> None:
    """Probe what __klp_shadow_get_or_alloc gets from the allocator and from the constructor."""
    symbols = probes.symbols
    start, end = symbols.span(CORE)
    code = klptext.read_text(start, end) if start else b""
    allocators = {one.address: one.name for one in symbols.kernel if "kmalloc" in one.name}
    thunks = klptext.thunks(symbols)
    returns = {call.after for call in klptext.indirect_calls(code, start, thunks)}
    allocations = [
        probes.at(call.after, "on_memory") for call in klptext.direct_calls(code, start, allocators)
    ]
    constructions = [probes.at(after, "on_constructed") for after in returns]
    if any(allocations):
        probes.note(symbols.resolve(CORE) or CORE)
    else:
        probes.miss(CORE, "whether a variable was made or found")
    if not any(constructions):
        probes.miss(CORE, "constructors that fail")


# --- from BPF events to fields -------------------------------------------------------------------


def _alloc(event: Any, symbols: Symbols) -> Fields:
    return {
        "call": CALLS[event.call],
        "obj": hex(event.obj),
        "id": event.id,
        "size": event.size,
        "ctor": bool(event.function),
        "result": RESULTS[event.result],
        "variable": hex(event.variable) if event.variable else None,
        "caller": symbols.describe(event.caller),
        "task": klpprobe.task_fields(event),
    }


def _free(event: Any, symbols: Symbols) -> Fields:
    return {
        "obj": hex(event.obj),
        "id": event.id,
        "dtor": bool(event.function),
        "caller": symbols.describe(event.caller),
        "task": klpprobe.task_fields(event),
    }


def _free_all(event: Any, symbols: Symbols) -> Fields:
    return {
        "id": event.id,
        "dtor": bool(event.function),
        "count": event.count,
        "caller": symbols.describe(event.caller),
        "task": klpprobe.task_fields(event),
    }


def _freed(event: Any, _symbols: Symbols) -> Fields:
    return {
        "obj": hex(event.obj),
        "id": event.id,
        "variable": hex(event.variable),
        "age_ns": event.age_ns or None,
    }


FIELDS: dict[str, Callable[[Any, Symbols], Fields]] = {
    "shadow_alloc": _alloc,
    "shadow_free": _free,
    "shadow_free_all": _free_all,
    "shadow_freed": _freed,
}


def show(out: Output, symbols: Symbols, event: Any) -> None:
    """Write a BPF event."""
    kind = EVENTS[event.kind]
    out.event(kind, event.ts_ns, **FIELDS[kind](event, symbols))


# --- columns -------------------------------------------------------------------------------------


def columns(kind: str, fields: Fields) -> str:
    """Return a line for people."""
    pid = fields["task"]["pid"] if "task" in fields else ""
    start = f"{kind.removeprefix('shadow_'):<10} {fields.get('obj', '*'):<18} {fields['id']:<6}"
    return f"{start} {pid:<7} {_detail(kind, fields)}"


def _detail(kind: str, fields: Fields) -> str:
    match kind:
        case "shadow_alloc":
            return f"{fields['result']} {fields['size']} B by {fields['caller']}"
        case "shadow_freed":
            age_ns = fields["age_ns"]
            return f"aged {age_ns / 1e9:.3f} s" if age_ns else "older than this trace"
        case "shadow_free_all":
            return f"{fields['count']} by {fields['caller']}"
    return f"by {fields['caller']}"


def main() -> int:
    """Trace as the command line says."""
    args = arguments()

    def attach_all(probes: Probes) -> None:
        attach(probes)
        if not args.json:
            probes.enter("klp_shadow_get", "on_get", "calls of klp_shadow_get")

    def finish(bpf: Any) -> None:
        print(f"klp_shadow_get was called {bpf['gets'][0].value} times.")

    flags = cflags(args.id)
    tool = klpprobe.Tool(NAME, HEAD, TICK_S, columns, lambda _symbols: flags, attach_all, show, finish)
    return klpprobe.run(tool, args)


if __name__ == "__main__":
    sys.exit(main())
