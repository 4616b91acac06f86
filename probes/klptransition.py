#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
#
# klptransition  Trace livepatch transitions, task by task.
#                For Linux, uses BCC, eBPF. x86-64 only.
#
# USAGE: klptransition [-h] [-j] [-a] [-P PATCH] [-p PID] [-d SECONDS]
#
# This puts kprobes on kernel/livepatch/transition.c. It shows when a transition is initialised and
# started, each pass over the tasks, which tasks a pass left behind and why, how the others switched
# (on their way to user space, in the idle loop, in the scheduler, by force, with their CPU offline),
# forks and exits, reversals and the end; and it counts all tasks by their state before and after each
# step. Return probes are only on short functions of the livepatch core: one on a function that a
# task sleeps in could hold up the very transition that it watches.
"""Trace livepatch transitions, task by task."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import klpbtf
import klpoutput
import klpprobe
import klptext
import klptransitionview as view
from klpattach import Probes
from klpoutput import Fields, Output
from klpsymbols import ProbeError, Symbols

NAME = "klptransition"
EXAMPLES = """examples:
    ./klptransition                       # trace all transitions
    ./klptransition -a                    # with every task, function and census
    ./klptransition -P livepatch_sample   # only this livepatch's
    ./klptransition -p 181                # only what happens to this task
    ./klptransition -j -d 10              # JSON lines for 10 seconds
"""

MEMBERS = {
    "klp_func": ("node", "old_name", "old_sympos", "nop", "patched", "transition"),
    "klp_object": ("name", "func_list", "kobj", "callbacks"),
    "klp_patch": ("kobj", "replace", "enabled", "forced"),
    "kobject": ("name", "parent"),
    "rq": ("idle",),
    "signal_struct": ("thread_head",),
    "task_struct": (
        "pid", "tgid", "comm", "patch_state", "thread_info", "tasks", "signal", "thread_node",
    ),
    "thread_info": ("flags",),
}  # fmt: skip
VARIABLES = (
    "klp_target_state",
    "klp_transition_patch",
    "init_task",
    "runqueues",
    "__per_cpu_offset",
    "__cpu_possible_mask",
    "__cpu_online_mask",
)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = klpprobe.parser(NAME, "Trace livepatch transitions, task by task", EXAMPLES)
    parser.add_argument("-a", "--all", action="store_true", help="show every task, function and census")
    parser.add_argument("-P", "--patch", help="trace this livepatch only")
    parser.add_argument("-p", "--pid", type=int, help="trace this task or process only")
    return parser.parse_args()


def cflags(symbols: Symbols) -> list[str]:
    """Tell the BPF program where the kernel's variables, members and functions are."""
    hidden = [name for name in VARIABLES if not symbols.address(name)]
    if hidden:
        raise ProbeError(f"/proc/kallsyms gives no address for {' and '.join(hidden)}")
    flags = [*klpbtf.offsets(MEMBERS), f"-DCPUS={klpprobe.cpus()}"]
    flags += [f"-D{name.upper()}=0x{symbols.address(name):x}UL" for name in (*VARIABLES, "klp_signals_cnt")]
    for prefix, name in (("PASS", "klp_try_complete_transition"), ("FORCE", "klp_force_transition")):
        start, end = symbols.span(name)
        flags += [f"-D{prefix}_START=0x{start:x}UL", f"-D{prefix}_END=0x{end:x}UL"]
    if not symbols.resolve("klp_check_and_switch_task"):
        flags.append("-DCHECK_UNSEEN")
    for prefix, names in view.NUMBERED.items():
        flags += klpprobe.numbered(prefix, names)
    return flags + [f"-DFLAG_{name.upper()}={1 << bit}" for bit, name in enumerate(view.FLAGS)]


# --- attaching -----------------------------------------------------------------------------------

# What is probed where it begins and, for those with a second text, where it returns: what is then not
# seen if this kernel has no such function.
POINTS = (
    ("klp_init_transition", "on_init", "the beginning of transitions", "the census after init"),
    ("klp_complete_transition", "on_complete", "the end of transitions", "the census after completion"),
    ("klp_force_transition", "on_force", "forced transitions", "the census after a force"),
    ("klp_cancel_transition", "on_cancel", "cancelled transitions", None),
    ("klp_reverse_transition", "on_reverse", "reversals", None),
    ("klp_update_patch_state", "on_update", "tasks that switch at exit, idle or by force", None),
    ("klp_try_complete_transition", "on_pass", "the passes over the tasks", "their ends"),
    ("klp_try_switch_task", "on_attempt", "attempts to switch a task", "their results"),
    ("klp_check_and_switch_task", "on_check", "why a task stays behind", "the reason's errno"),
    ("klp_copy_process", "on_fork", "tasks forked in a transition", "their states"),
    ("klp_patch_object", "on_patch_object", "objects being patched", "their results"),
    # Not klp_unpatch_object: its callers inline that thin wrapper.
    ("__klp_unpatch_object", "on_unpatch_object", "objects being unpatched", None),
)


def attach(probes: Probes) -> None:
    """Put the probes on the livepatch core."""
    probes.tail_calls("census_steps", ["census_step"])
    for name, function, unseen, unseen_after in POINTS:
        probes.enter(name, function, unseen)
        if unseen_after:
            probes.leave(name, f"{function}_return", unseen_after)
    probes.enter_body("klp_start_transition", "on_start", "the start of transitions")
    probes.leave_body("klp_start_transition", "on_start_return", "the census after the start")
    probes.tracepoint("sched:sched_process_exit", "on_exit", "tasks that end in a transition")
    attach_synchronize(probes)
    probes.facts |= facts(probes.symbols)
    if not probes.symbols.address("klp_signals_cnt"):
        probes.miss("klp_signals_cnt", "signals to the tasks that remain")


def facts(symbols: Symbols) -> Fields:
    """Return what the header says of the kernel: not by its version, for vendors take functions back."""
    return {"scheduler_switch": symbols.resolve("__klp_sched_try_switch") is not None}


def attach_synchronize(probes: Probes) -> None:
    """Probe the calls of klp_synchronize_transition, or of what it does where it was inlined."""
    attached = False
    for call in synchronizing_calls(probes.symbols):
        # The return first: none is then seen to begin and not to end.
        if probes.at(call.after, "on_synchronize_return") and probes.at(call.site, "on_synchronize"):
            probes.note(probes.symbols.describe(call.site))
            attached = True
    if not attached:
        probes.miss("klp_synchronize_transition", "the wait for every CPU")


def synchronizing_calls(symbols: Symbols) -> list[klptext.Call]:
    """Return the livepatch core's calls that wait for every CPU."""
    name = symbols.resolve("klp_synchronize_transition") or "schedule_on_each_cpu"
    name_at = {symbols.address(name): name}

    def search(code: bytes, base: int) -> Iterator[klptext.Call]:
        return klptext.direct_calls(code, base, name_at)

    try:
        return [
            call
            for start, end in klptext.livepatch_text(symbols)
            for call in klptext.calls(symbols, start, end, search)
        ]
    except ProbeError as error:  # lockdown: the rest is seen all the same
        klpoutput.complain(str(error))
        return []


# --- filters -------------------------------------------------------------------------------------


@dataclass
class Filter:
    """Which events were asked for. Attempts name no livepatch: there is one in transition at a time."""

    patch: str | None
    pid: int | None
    current: str = ""

    def wants(self, kind: str, fields: Fields) -> bool:
        """Tell whether to show an event, given the ones before it."""
        patch = fields.get("patch", self.current)
        if kind not in ("function", "object"):  # a module may come for another livepatch meanwhile
            self.current = patch
        if self.patch is not None and patch != self.patch:
            return False
        if self.pid is None or kind not in view.ABOUT_TASKS:
            return True
        tasks = [fields[role] for role in ("task", "child", "parent") if role in fields]
        return any(self.pid in (task["pid"], task["tgid"]) for task in tasks)


def in_transition() -> str:
    """Return the livepatch that is in transition now, if any."""
    for flag in klpprobe.LIVEPATCHES.glob("*/transition"):
        if flag.read_text().strip() == "1":
            return flag.parent.name
    return ""


def main() -> int:
    """Trace as the command line says."""
    args = arguments()
    wanted = Filter(args.patch, args.pid, in_transition())

    def show(out: Output, _symbols: Symbols, event: Any) -> None:
        kind, fields = view.fields_of(event)
        if wanted.wants(kind, fields):
            out.event(kind, event.ts_ns, **fields)

    columns = view.Columns(args.all).line
    tool = klpprobe.Tool(NAME, view.HEAD, 0.1, columns, cflags, attach, show, wants=wanted.wants)
    return klpprobe.run(tool, args)


if __name__ == "__main__":
    sys.exit(main())
