#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
#
# klpshadow  Trace shadow variables: who makes, gets and frees them, and how old they get.
#            For Linux, uses BCC, eBPF. What happens inside the functions is seen on x86-64 only.
#
# USAGE: klpshadow [-h] [-j] [-d SECONDS] [-i ID] [-P PATCH] [-p PID] [-s]
#
# This puts kprobes on kernel/livepatch/shadow.c. Whether klp_shadow_get_or_alloc found a variable or
# made one cannot be told from its result, and constructors and destructors are called through a
# pointer: so there are kprobes on these calls, too. klp_shadow_get, which patched functions may call
# very often, is judged and counted in the kernel; only a wrong answer is an event.
"""Trace shadow variables."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import klpoutput
import klpprobe
import klptext
from klpattach import Probes
from klpoutput import Fields, Output
from klpring import unpreempted
from klpsymbols import Names, ProbeError, Symbols

NAME = "klpshadow"
EXAMPLES = """examples:
    ./klpshadow                          # trace all shadow variables
    ./klpshadow -i 1                     # only those of id 1
    ./klpshadow -p 181                   # only calls of this task or process
    ./klpshadow -P livepatch_shadow_fix1 # only calls by this livepatch
    ./klpshadow -s                       # with the kernel stacks of those who make them
    ./klpshadow -j -d 10                 # JSON lines for 10 seconds
"""
# The last one is counted in the kernel, and has no BPF event.
EVENTS = (
    "shadow_alloc",
    "shadow_free",
    "shadow_free_all",
    "shadow_freed",
    "shadow_get_wrong",
    "shadow_gets",
)
CALLS = ("alloc", "get_or_alloc")
RESULTS = ("made", "found", "exists", "failed")
TOTALS = (*RESULTS, "freed")
GETS = ("found", "absent", "racing", "wrong", "unknown", "raced_right", "raced_wrong")
# Where a variable is made, and where it is freed, whichever function was called.
CORE = "__klp_shadow_get_or_alloc"
FREE = "klp_shadow_free_struct"
# A caller in a module that is about to go must be named before its symbols are gone.
TICK_S = 0.05
# klp_shadow_get and those that free do not sleep: a call that began this long ago has returned unseen.
OVERDUE_NS = 1_000_000_000
# How often totals are read again because the kernel went on counting.
TRIES = 5

HEAD = f"{'TIME(s)':<11} {'EVENT':<10} {'OBJ':<18} {'ID':<6} {'PID':<7} DETAIL"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = klpprobe.parser(NAME, "Trace shadow variables", EXAMPLES)
    parser.add_argument("-i", "--id", type=lambda given: int(given, 0), help="trace this id only")
    parser.add_argument(
        "-P", "--patch", help="trace calls by this livepatch only (gets and totals are not counted)"
    )
    parser.add_argument("-p", "--pid", type=int, help="trace this task or process only")
    parser.add_argument("-s", "--stacks", action="store_true", help="show stacks (-j always does)")
    return parser.parse_args()


def cflags(_symbols: Symbols) -> list[str]:
    """Tell the BPF program this file's numbers."""
    flags = [f"-DCPUS={klpprobe.cpus()}"]
    lists = {"EVENT": EVENTS, "CALL": CALLS, "RESULT": RESULTS, "TOTAL": TOTALS, "GET": GETS}
    for prefix, names in lists.items():
        flags += [*klpprobe.numbered(prefix, names), f"-D{prefix}_COUNT={len(names)}"]
    return flags


def options(args: argparse.Namespace) -> tuple[str, ...]:
    """Tell the BPF program what was asked for."""
    flags = [] if args.id is None else [f"-DFILTER_ID={args.id}UL"]
    flags += [] if args.pid is None else [f"-DFILTER_PID={args.pid}"]
    return tuple(flags + (["-DSTACKS"] if args.stacks or args.json else []))


# --- attaching -----------------------------------------------------------------------------------

# Kernel function, BPF functions at its entry and at its return, and what they see.
POINTS = (
    ("klp_shadow_alloc", "on_alloc", "on_alloc_return", "calls of klp_shadow_alloc"),
    ("klp_shadow_get_or_alloc", "on_get_or_alloc", "on_alloc_return", "calls of klp_shadow_get_or_alloc"),
    ("klp_shadow_free_all", "on_free_all", "on_free_all_return", "calls of klp_shadow_free_all"),
    ("klp_shadow_free", "on_free", "on_free_return", "calls of klp_shadow_free"),
    ("klp_shadow_get", "on_get", "on_get_return", "calls of klp_shadow_get"),
)  # fmt: skip


def attach(probes: Probes) -> None:
    """Put the probes on the shadow variable functions, those inside of them first.

    A call is followed from its entry on: by then whatever happens in it is seen.
    """
    attach_inside(probes)
    probes.enter(FREE, "on_freed", "which variables were freed, and their age")
    for name, entry, leave, unseen in POINTS:
        probes.leave(name, leave, unseen)
        probes.enter(name, entry, unseen)


def attach_inside(probes: Probes) -> None:
    """Probe what is called in the functions: allocator, constructor and destructor."""
    symbols = probes.symbols
    # All of the text is looked at before any of it is probed.
    made, constructors, destructors = (
        allocations(symbols), pointer_calls(symbols, CORE), pointer_calls(symbols, FREE)
    )  # fmt: skip
    memory = [probes.at(call.after, "on_memory") for call in made]
    require(probes, any(memory), CORE, "whether a variable was made or found")
    constructed = [
        probes.at(after, "on_constructed") and any(probes.at(site, "on_construct") for site in sites)
        for after, sites in constructors
    ]
    require(probes, any(constructed), CORE, "constructors")
    destructed = [any(probes.at(site, "on_destruct") for site in sites) for _after, sites in destructors]
    require(probes, any(destructed), FREE, "calls of destructors")


def require(probes: Probes, attached: bool, name: str, unseen: str) -> None:
    """Note a function as attached, or say what is not seen."""
    if attached:
        probes.note(probes.symbols.resolve(name) or name)
    else:
        probes.miss(name, unseen)


def allocations(symbols: Symbols) -> list[klptext.Call]:
    """Return the calls of kmalloc, by any of its names, where a variable's memory comes from."""
    allocators = {one.address: one.name for one in symbols.named("kmalloc")}
    return calls_in(symbols, CORE, lambda code, base: klptext.direct_calls(code, base, allocators))


def pointer_calls(symbols: Symbols, name: str) -> list[tuple[int, list[int]]]:
    """Return the calls through a pointer: where each returns to, and where it may begin.

    The instruction after a call can also be reached without it, as where there is no destructor: so
    calls are counted at the call.
    """
    thunk_at = klptext.thunks(symbols)
    found = calls_in(symbols, name, lambda code, base: klptext.indirect_calls(code, base, thunk_at))
    calls = sorted(found, key=lambda call: call.after)
    return [
        (after, sorted({call.site for call in readings}))
        for after, readings in groupby(calls, lambda call: call.after)
    ]


def calls_in(symbols: Symbols, name: str, search: klptext.Search) -> list[klptext.Call]:
    """Return the calls of a function that a search finds; none where its text cannot be read."""
    start, end = symbols.span(name)
    try:
        return klptext.calls(symbols, start, end, search) if start else []
    except ProbeError as error:
        klpoutput.complain(f"{NAME}: {error}")
        return []


# --- from BPF events to fields -------------------------------------------------------------------


def hex_or_none(address: int) -> str | None:
    """Return an address as events have it; none for NULL."""
    return hex(address) if address else None


def _alloc(event: Any, names: Names) -> Fields:
    return {
        "call": CALLS[event.call],
        "obj": hex(event.obj),
        "id": event.id,
        "size": event.size,
        "flags": event.flags,
        "ctor": bool(event.function),
        "ctor_calls": event.calls,
        "ctor_result": event.returned if event.calls else None,
        "result": RESULTS[event.result],
        "variable": hex_or_none(event.variable),
        "zeroed": None if event.zeroed < 0 else bool(event.zeroed),
        "caller": names.of(event.caller),
        "stack": None if event.stack < 0 else event.stack,
        "duration_ns": event.duration_ns,
        "task": klpoutput.task_fields(event),
    }


def _free(event: Any, names: Names) -> Fields:
    return {
        "obj": hex(event.obj),
        "id": event.id,
        "dtor": bool(event.function),
        "freed": event.count > 0,
        "caller": names.of(event.caller),
        "task": klpoutput.task_fields(event),
    }


def _free_all(event: Any, names: Names) -> Fields:
    return {
        "id": event.id,
        "dtor": bool(event.function),
        "count": event.count,
        "duration_ns": event.duration_ns,
        "caller": names.of(event.caller),
        "task": klpoutput.task_fields(event),
    }


def _freed(event: Any, _names: Names) -> Fields:
    return {
        "obj": hex(event.obj),
        "id": event.id,
        "variable": hex(event.variable),
        "age_ns": event.age_ns or None,
        "dtor": bool(event.function),
        "dtor_calls": event.calls,
    }


def _get_wrong(event: Any, names: Names) -> Fields:
    return {
        "obj": hex(event.obj),
        "id": event.id,
        "returned": hex_or_none(event.variable),
        "expected": hex_or_none(event.expected),
        "caller": names.of(event.caller),
        "task": klpoutput.task_fields(event),
        "raced": event.result == GETS.index("raced_wrong"),
    }


FIELDS: dict[str, Callable[[Any, Names], Fields]] = {
    "shadow_alloc": _alloc,
    "shadow_free": _free,
    "shadow_free_all": _free_all,
    "shadow_freed": _freed,
    "shadow_get_wrong": _get_wrong,
}


@dataclass
class Shadow:
    """What klpshadow knows while it follows: the stacks it has told, and the counts it has."""

    patch: str | None = None
    _told: dict[int, str] = field(default_factory=dict)
    _gets: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _overdue: set[tuple[int, int]] = field(default_factory=set)

    def attach(self, probes: Probes) -> None:
        """Attach the probes, and remember whose they are."""
        self.bpf, self.names = probes.bpf, Names(probes.symbols.describe)
        attach(probes)

    def begin(self) -> None:
        """Prepare for a batch of events."""
        self.names.forget()

    def show(self, out: Output, event: Any) -> None:
        """Write a BPF event, and before it the stack that it names, if that is new."""
        kind = EVENTS[event.kind]
        if self.patch is not None and not self._by_patch(event):
            return
        if event.stack >= 0:
            self._tell_stack(out, event)
        if kind == "shadow_free" and event.variable:  # a call and what it freed are one BPF event
            out.event("shadow_freed", event.freed_ns, **_freed(event, self.names))
        out.event(kind, event.ts_ns, **FIELDS[kind](event, self.names))

    def _by_patch(self, event: Any) -> bool:
        """A call is a livepatch's if it comes from that module, or its constructor or destructor."""
        names = (self.names.of(address) for address in (event.caller, event.function) if address)
        return any(name.endswith(f" [{self.patch}]") for name in names)

    def _tell_stack(self, out: Output, event: Any) -> None:
        """Tell a stack once; again if a module with other names has come to where its caller was."""
        caller = self.names.of(event.caller)
        if self._told.get(event.stack) != caller:
            self._told[event.stack] = caller
            with unpreempted():
                stack = list(self.bpf["stacks"].walk(event.stack))
            frames = [self.names.of(address) for address in stack]
            out.event("callers", event.ts_ns, stack=event.stack, frames=frames)

    def tell_counts(self, out: Output, drain: Callable[[], None]) -> None:
        """Write what the kernel counted, once all that it counted has been drained."""
        with unpreempted():
            self._count_overdue()
        counted, before = read_counts(self.bpf), None
        for _ in range(TRIES):
            drain()
            before, counted = counted, read_counts(self.bpf)
            if before == counted:
                break
        if self.patch is None:
            self._write_counts(out, *counted)

    def _write_counts(self, out: Output, gets: dict[int, tuple[int, ...]], totals: tuple[int, ...]) -> None:
        now = time.monotonic_ns()
        for number, counts in sorted(gets.items()):
            if self._gets.get(number) != counts:
                out.event("shadow_gets", now, id=number, **dict(zip(GETS, counts, strict=True)))
        self._gets = gets
        out.event("shadow_totals", now, **dict(zip(TOTALS, totals, strict=True)))

    def _count_overdue(self) -> None:
        """Count as lost the calls whose return was not seen, as when the kernel is out of return probes.

        The next call of the same task tells the kernel side; this is for tasks that call no more.
        """
        now = time.monotonic_ns()
        for table in ("frees", "getting"):
            for task, call in list(self.bpf[table].items()):
                if call.ts_ns and now - call.ts_ns > OVERDUE_NS:
                    self._overdue.add((task.value, call.ts_ns))
                    del self.bpf[table][task]

    def missed(self) -> int:
        """Return how many calls were seen to begin and not to end."""
        return len(self._overdue)


def read_counts(bpf: Any) -> tuple[dict[int, tuple[int, ...]], tuple[int, ...]]:
    """Return the gets by id, and the totals, summed over CPUs."""
    with unpreempted():
        by_id = list(bpf["gets"].items())
        totals = [bpf["totals"][index] for index in range(len(TOTALS))]
    gets = {
        key.value: tuple(sum(one.count[kind] for one in cpus) for kind in range(len(GETS)))
        for key, cpus in by_id
    }
    return gets, tuple(sum(cpus) for cpus in totals)


# --- columns -------------------------------------------------------------------------------------


def columns(kind: str, fields: Fields) -> str:
    """Return a line, or for a stack some lines, for people."""
    match kind:
        case "callers":
            return "stack\n" + "\n".join(f"{'':<12}    {frame}" for frame in fields["frames"])
        case "shadow_totals":
            return "totals     " + ", ".join(f"{fields[name]} {name}" for name in TOTALS)
    pid = fields["task"]["pid"] if "task" in fields else ""
    start = f"{kind.removeprefix('shadow_'):<10} {fields.get('obj', '*'):<18} {fields['id']:<6}"
    return f"{start} {pid:<7} {_detail(kind, fields)}"


def _detail(kind: str, fields: Fields) -> str:
    match kind:
        case "shadow_alloc":
            ran = f", constructor: {fields['ctor_result']}" if fields["ctor_calls"] else ""
            return f"{fields['result']} {fields['size']} B by {fields['caller']}{ran}"
        case "shadow_freed":
            age_ns = fields["age_ns"]
            return f"aged {age_ns / 1e9:.3f} s" if age_ns else "older than this trace"
        case "shadow_free_all":
            return f"{fields['count']} by {fields['caller']}"
        case "shadow_gets":
            return ", ".join(f"{fields[name]} {name}" for name in GETS if fields[name])
        case "shadow_get_wrong":
            beside = ", beside a change" if fields["raced"] else ""
            return f"{fields['returned']} in place of {fields['expected']} by {fields['caller']}{beside}"
    return f"by {fields['caller']}" + ("" if fields["freed"] else ": there was none")


def main() -> int:
    """Trace as the command line says."""
    args = arguments()
    shadow = Shadow(args.patch and args.patch.replace("-", "_"))
    tool = klpprobe.Tool(
        *(NAME, HEAD, TICK_S, columns, cflags, shadow.attach),
        show=lambda out, _symbols, event: shadow.show(out, event),
        begin=shadow.begin, tell=shadow.tell_counts, missed=shadow.missed,
        wants=klpprobe.unfiltered(args), options=options(args),
    )  # fmt: skip
    return klpprobe.run(tool, args)


if __name__ == "__main__":
    sys.exit(main())
