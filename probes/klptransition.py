#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
#
# klptransition  Trace livepatch transitions, task by task.
#                For Linux, uses BCC, eBPF.
#
# USAGE: klptransition [-h] [-j] [-a] [-P PATCH] [-p PID] [-d SECONDS]
#
# This puts kprobes on kernel/livepatch/transition.c. It shows when a transition is initialised and
# started, each pass over the tasks, which tasks a pass left behind and why, how the others switched
# (on their way to user space, in the idle loop, in the scheduler, by force), reversals and the end.
# Return probes are only on short functions of the livepatch core: one on a function that a task
# sleeps in could hold up the very transition that it watches.
#
# Not seen: the switch of an offline CPU's idle task, which the core does in place; and attempts of
# the scheduler that fail, of which a busy task makes thousands.
"""Trace livepatch transitions, task by task."""

from __future__ import annotations

import argparse
import errno
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import klpbtf
import klpprobe
from klpprobe import Fields, Output, Probes
from klpsymbols import ProbeError, Symbols

NAME = "klptransition"
EXAMPLES = """examples:
    ./klptransition                       # trace all transitions
    ./klptransition -a                    # with every task: also those switched at once, or forked
    ./klptransition -P livepatch_sample   # only this livepatch's
    ./klptransition -p 181                # only attempts and switches of this task
    ./klptransition -j -d 10              # JSON lines for 10 seconds
"""
# fmt: off
EVENTS = (
    "init", "start", "pass", "attempt", "switch", "signals", "complete", "cancel", "reverse", "force",
    "object",
)
# fmt: on
RESULTS = ("switched", "already", "refused")
PATHS = ("exit", "idle", "scheduler", "fork", "force")
# What klp_check_and_switch_task returns, and only it.
REASONS = {-errno.EBUSY: "running", -errno.EINVAL: "unreliable", -errno.EADDRINUSE: "sleeping"}
STATES = {-1: "idle", 0: "unpatched", 1: "patched"}

MEMBERS = {
    "klp_object": ("name", "dynamic"),
    "klp_patch": ("kobj",),
    "kobject": ("name",),
    "task_struct": ("pid", "tgid", "comm", "patch_state", "thread_info"),
    "thread_info": ("flags",),
}

HEAD = f"{'TIME(s)':<11} {'EVENT':<9} {'PID':<7} {'COMM':<16} DETAIL"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = klpprobe.parser(NAME, "Trace livepatch transitions, task by task", EXAMPLES)
    parser.add_argument("-a", "--all", action="store_true", help="show every task")
    parser.add_argument("-P", "--patch", help="trace this livepatch only")
    parser.add_argument("-p", "--pid", type=int, help="trace this task or process only")
    return parser.parse_args()


def cflags(symbols: Symbols) -> list[str]:
    """Tell the BPF program where the core's variables and functions are."""
    needed = ("klp_target_state", "klp_transition_patch")
    hidden = [name for name in needed if not symbols.address(name)]
    if hidden:
        raise ProbeError(f"/proc/kallsyms gives no address for {' and '.join(hidden)}")
    flags = klpbtf.offsets(MEMBERS)
    flags += [f"-D{name.upper()}=0x{symbols.address(name):x}UL" for name in needed]
    flags += [f"-DKLP_SIGNALS_CNT=0x{symbols.address('klp_signals_cnt'):x}UL"]
    for prefix, name in (("PASS", "klp_try_complete_transition"), ("FORCE", "klp_force_transition")):
        start, end = symbols.span(name)
        flags += [f"-D{prefix}_START=0x{start:x}UL", f"-D{prefix}_END=0x{end:x}UL"]
    if not symbols.resolve("klp_check_and_switch_task"):
        flags.append("-DCHECK_UNSEEN")
    for prefix, names in (("EVENT", EVENTS), ("RESULT", RESULTS), ("PATH", PATHS)):
        flags += klpprobe.numbered(prefix, names)
    return flags


def attach(probes: Probes) -> None:
    """Put the probes on the livepatch core."""
    for name, function, unseen in (
        ("klp_init_transition", "on_init", "the beginning of transitions"),
        ("klp_complete_transition", "on_complete", "the end of transitions"),
        ("klp_cancel_transition", "on_cancel", "cancelled transitions"),
        ("klp_reverse_transition", "on_reverse", "reversals"),
        ("klp_force_transition", "on_force", "forced transitions"),
        ("klp_update_patch_state", "on_update", "tasks that switch at exit, idle or by force"),
        ("klp_copy_process", "on_fork", "tasks forked in a transition"),
        # Not klp_unpatch_object: its callers inline that thin wrapper.
        ("__klp_unpatch_object", "on_unpatch_object", "objects being unpatched"),
    ):
        probes.enter(name, function, unseen)
    probes.enter_body("klp_start_transition", "on_start", "the start of transitions")
    for name, function, unseen in (
        ("klp_try_complete_transition", "on_pass", "the passes over the tasks"),
        ("klp_try_switch_task", "on_attempt", "attempts to switch a task"),
        ("klp_check_and_switch_task", "on_check", "why a task stays behind"),
        ("klp_patch_object", "on_patch_object", "objects being patched"),
    ):
        probes.enter(name, function, unseen)
        probes.leave(name, f"{function}_return", unseen)
    if not probes.symbols.address("klp_signals_cnt"):
        probes.miss("klp_signals_cnt", "signals to the tasks that remain")


# --- from BPF events to fields -------------------------------------------------------------------


def _patch(event: Any) -> Fields:
    return {"patch": klpprobe.text(event.name)}


def _directed(event: Any) -> Fields:
    return _patch(event) | {"target": event.state}


def _init(event: Any) -> Fields:
    return _directed(event) | {"task": klpprobe.task_fields(event)}


def _pass(event: Any) -> Fields:
    return _patch(event) | {"number": event.detail, "duration_ns": event.duration_ns}


def _attempt(event: Any) -> Fields:
    result = RESULTS[event.detail]
    return {
        "task": klpprobe.task_fields(event),
        "result": REASONS.get(event.error, result) if result == "refused" else result,
        "errno": event.error,
        "function": klpprobe.text(event.name) or None,
        "patch_state": event.state,
        "duration_ns": event.duration_ns,
    }


def _switch(event: Any) -> Fields:
    task = klpprobe.task_fields(event)
    return {"task": task, "path": PATHS[event.detail], "patch_state": event.state}


def _object(event: Any) -> Fields:
    return {
        "object": klpprobe.text(event.name) or "vmlinux",
        "action": "patch" if event.detail else "unpatch",
        "errno": event.error,
    }


FIELDS: dict[str, Callable[[Any], Fields]] = {
    "init": _init,
    "start": _directed,
    "pass": _pass,
    "attempt": _attempt,
    "switch": _switch,
    "signals": _patch,
    "complete": _directed,
    "cancel": _patch,
    "reverse": _directed,
    "force": _patch,
    "object": _object,
}


@dataclass
class Filter:
    """Which events were asked for. Attempts and objects name no livepatch: there is one at a time."""

    patch: str | None
    pid: int | None
    current: str = ""

    def wants(self, fields: Fields) -> bool:
        """Tell whether to show an event, given the ones before it."""
        self.current = fields.get("patch", self.current)
        if self.patch is not None and self.current != self.patch:
            return False
        if self.pid is None or "patch_state" not in fields:  # not about a task
            return True
        return self.pid in (fields["task"]["pid"], fields["task"]["tgid"])


def in_transition() -> str:
    """Return the livepatch that is in transition now, if any."""
    for flag in klpprobe.LIVEPATCHES.glob("*/transition"):
        if flag.read_text().strip() == "1":
            return flag.parent.name
    return ""


# --- columns -------------------------------------------------------------------------------------


@dataclass
class Columns:
    """Lines for people: the tasks of a pass are counted, those that stay behind are shown."""

    every_task: bool
    results: Counter[str] = field(default_factory=Counter)

    def line(self, kind: str, fields: Fields) -> str | None:
        """Return an event's line, or None for one that is only counted."""
        if kind == "attempt":
            self.results[fields["result"]] += 1
        if not self.every_task and _usual(fields):
            return None
        task = fields.get("task", {"pid": "", "comm": ""})
        detail = self._detail(kind, fields)
        return f"{kind:<9} {task['pid']:<7} {task['comm']:<16} {detail}".rstrip()

    def _detail(self, kind: str, fields: Fields) -> str:
        match kind:
            case "attempt":
                return f"{fields['result']} {fields['function'] or ''}"
            case "switch":
                return f"{fields['path']}: {STATES.get(fields['patch_state'], '?')}"
            case "pass":
                return self._pass(fields)
            case "object":
                failed = f": {errno.errorcode.get(-fields['errno'], '?')}" if fields["errno"] else ""
                return f"{fields['action']} {fields['object']}{failed}"
        target = f" -> {STATES.get(fields['target'], '?')}" if "target" in fields else ""
        return f"{fields['patch']}{target}"

    def _pass(self, fields: Fields) -> str:
        counts = ", ".join(f"{count} {result}" for result, count in sorted(self.results.items()))
        self.results.clear()
        return f"{fields['number']}: {fields['duration_ns'] / 1e6:.1f} ms, {counts or 'no tasks'}"


def _usual(fields: Fields) -> bool:
    """Tell whether an event is one of the many that need no line: switched at once, or just forked."""
    return fields.get("result") in ("switched", "already") or fields.get("path") == "fork"


def main() -> int:
    """Trace as the command line says."""
    args = arguments()
    wanted = Filter(args.patch, args.pid, in_transition())

    def show(out: Output, _symbols: Symbols, event: Any) -> None:
        kind = EVENTS[event.kind]
        fields = FIELDS[kind](event)
        if wanted.wants(fields):
            out.event(kind, event.ts_ns, **fields)

    columns = Columns(args.all).line
    return klpprobe.run(klpprobe.Tool(NAME, HEAD, 0.1, columns, cflags, attach, show), args)


if __name__ == "__main__":
    sys.exit(main())
