#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
#
# klpconsistency  Count which version of a livepatched function tasks run, by their patch_state.
#                 For Linux, uses BCC, eBPF. x86-64 only.
#
# USAGE: klpconsistency [-h] [-j] [-d SECONDS] -f PATCH:OBJECT:OLD:NEW [-f ...]
#
# In a transition a task must run the old version of each function before its own switch, and the new
# one after it. This puts one kprobe on each version: on the new one's entry, and on the old one's
# first instruction behind the ftrace call, which is reached only if the call did not redirect. They
# are plain kprobes, without post-handler or return, so that the livepatch can still be loaded.
# Start this before the livepatch is loaded: its probes are kprobe events named `module:symbol`, which
# the kernel arms when the module comes, before any of it runs.
#
# Where names come from: `nm PATCH.ko | grep ' t '` lists the livepatch's functions; once it is enabled,
# /sys/kernel/livepatch/PATCH/OBJECT/ has a folder `OLD,POSITION` for each function that it changes,
# and `grep PATCH /proc/kallsyms` has the new ones.
"""Count which version of a livepatched function tasks run, by their patch_state."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import klpbtf
import klpoutput
import klpprobe
from klpattach import Probes
from klpkprobes import TRACEFS, KprobeEvents
from klpoutput import Fields, Output
from klpring import unpreempted
from klpsymbols import ProbeError, Symbols, own_name

NAME = "klpconsistency"
EXAMPLES = """examples:
    ./klpconsistency -f livepatch_sample:vmlinux:cmdline_proc_show:livepatch_cmdline_proc_show
    ./klpconsistency -f klp_module_target:klp_target:klp_target_answer:livepatch_target_answer
"""
# Where a function's work begins: behind the 5 bytes of the ftrace call, before which stand the 4 of an
# endbr64 if it can be called indirectly. A probe is refused where no instruction begins: so +5 is taken
# only without endbr64. There +9 may be taken as well, where an instruction happens to begin; not every
# call need reach it.
SITES = ("old_bare", "old_endbr", "new")
OFFSETS = {"old_bare": 5, "old_endbr": 9, "new": 0}
MAX_FUNCTIONS = 16  # as many as the BPF program has entries
NAME_LEN = 64
MODULES = Path("/sys/module")
MEMBERS = {"klp_patch": ("mod",), "module": ("name",), "task_struct": ("patch_state",)}

HEAD = f"{'TIME(s)':<11} {'VERSION':<8} {'STATE':<6} {'TARGET':<7} {'COUNT':>9}  FUNCTION"


class Watched(NamedTuple):
    """A function of `target` (vmlinux or a module), and its new version in the module `patch`."""

    patch: str
    target: str
    old: str
    new: str

    @property
    def pending(self) -> bool:
        """Tell whether the old version's module is still to come."""
        return self.target != "vmlinux" and not (MODULES / self.target).is_dir()


def watched(text: str) -> Watched:
    """Read PATCH:OBJECT:OLD:NEW."""
    parts = text.split(":")
    if len(parts) != 4 or not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not PATCH:OBJECT:OLD:NEW")
    patch, target, old, new = parts
    return Watched(patch.replace("-", "_"), target.replace("-", "_"), old, new)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = klpprobe.parser(NAME, "Count which version of a livepatched function tasks run", EXAMPLES)
    parser.add_argument(
        "-f",
        "--function",
        type=watched,
        action="append",
        default=[],
        metavar="PATCH:OBJECT:OLD:NEW",
        help="livepatch, vmlinux or a module, and the two functions; may be repeated",
    )
    args = parser.parse_args()
    if not (args.ebpf or args.compile) and not 0 < len(args.function) <= MAX_FUNCTIONS:
        parser.error(f"name from 1 to {MAX_FUNCTIONS} functions with -f PATCH:OBJECT:OLD:NEW")
    return args


# --- attaching ---------------------------------------------------------------------------------------


def cflags(symbols: Symbols) -> list[str]:
    """Tell the BPF program where the core's variables are, and this file's numbers."""
    needed = ("klp_target_state", "klp_transition_patch")
    hidden = [name for name in needed if not symbols.address(name)]
    if hidden:
        raise ProbeError(f"/proc/kallsyms gives no address for {' and '.join(hidden)}")
    flags = [f"-D{name.upper()}=0x{symbols.address(name):x}UL" for name in needed]
    return [
        *flags,
        *klpbtf.offsets(MEMBERS),
        *klpprobe.numbered("SITE", SITES),
        f"-DFUNCTIONS={MAX_FUNCTIONS}",
    ]


def livepatches(functions: list[Watched]) -> dict[str, int]:
    """Number the livepatches from 1, in the order of their first function."""
    return {name: at for at, name in enumerate(dict.fromkeys(one.patch for one in functions), 1)}


def tell_owners(bpf: Any, functions: list[Watched]) -> None:
    """Fill the maps by which the BPF program knows whose transition is under way."""
    numbers = livepatches(functions)
    names, owners = bpf["patches"], bpf["owners"]
    for name, number in numbers.items():
        key = names.Key()
        key.text = name.encode()[: NAME_LEN - 1]
        names[key] = names.Leaf(number)
        flag = klpprobe.LIVEPATCHES / name / "transition"
        if flag.exists() and flag.read_text().strip() == "1":
            bpf["moving"][0] = bpf["moving"].Leaf(number)
    for at, one in enumerate(functions):
        owners[at] = owners.Leaf(numbers[one.patch])


def attach(probes: Probes, functions: list[Watched]) -> None:
    """Put the probes on both versions of each function, and on the ends of transitions.

    Raises:
        ProbeError: a function does not exist, or its name is that of several; tracefs is not mounted.
    """
    events = probes.events
    if events is None:
        raise ProbeError(f"tracefs is not mounted (mount -t tracefs tracefs {TRACEFS[0]})")
    with unpreempted():
        tell_owners(probes.bpf, functions)
    probes.enter("klp_init_transition", "on_init", "which livepatch is in transition")
    probes.enter("klp_complete_transition", "on_complete", "the end of transitions")
    for at, one in enumerate(functions):
        check(probes.symbols, one)
        _attach_old(probes, events, at, one)
        new = f"{one.patch}:{one.new}"
        if events.add(probes.bpf, f"new_{at}", new, f"on_new_{at}"):
            probes.note(new)
        else:
            probes.miss(new, f"who runs the new {one.old}")


def _attach_old(probes: Probes, events: KprobeEvents, at: int, one: Watched) -> None:
    """Probe behind the ftrace call; of a module that is still to come, at both possible places."""
    prefix = "" if one.target == "vmlinux" else f"{one.target}:"
    added = 0
    for site in ("old_bare", "old_endbr"):
        where = f"{prefix}{one.old}+{OFFSETS[site]}"
        added += events.add(probes.bpf, f"{site}_{at}", where, f"on_{site}_{at}")
        if added and not one.pending:
            break
    if added:
        probes.note(f"{prefix}{one.old}")
    else:
        probes.miss(f"{prefix}{one.old}", f"who runs the old {one.old}")


def check(symbols: Symbols, one: Watched) -> None:
    """Refuse a function of the kernel's that is not exactly one.

    Raises:
        ProbeError: as said.
    """
    if one.target != "vmlinux":
        return
    # A livepatch, and a kprobe, name a function without what clang adds to it (kernel/kallsyms.c).
    count = sum(own_name(each.name) == one.old and each.kind in "tTwW" for each in symbols.named(one.old))
    if count != 1:
        raise ProbeError(f"vmlinux has {count} functions named {one.old}; it takes exactly one")


# --- from counts to fields -----------------------------------------------------------------------


@dataclass
class Counter:
    """Tells what was counted in the kernel since it last did."""

    functions: list[Watched]
    told: dict[tuple[int, ...], int] = field(default_factory=dict)

    def tell(self, out: Output, rows: list[tuple[Any, Any]]) -> None:
        """Write a `ran` event for each row that grew."""
        bare = {row.function for row, _ in rows if SITES[row.site] == "old_bare"}
        for row, count in sorted(rows, key=lambda pair: pair[1].ts_ns):
            if SITES[row.site] == "old_endbr" and row.function in bare:
                continue  # a second probe in the same body
            key = (row.function, row.site, row.patch_state, row.target, row.transition)
            fresh = count.count - self.told.get(key, 0)
            if fresh:
                self.told[key] = count.count
                out.event("ran", count.ts_ns, **self._fields(row, count, fresh))

    def _fields(self, row: Any, count: Any, fresh: int) -> Fields:
        one = self.functions[row.function]
        return {
            "patch": one.patch,
            "object": one.target,
            "function": one.old,
            "version": "new" if SITES[row.site] == "new" else "old",
            "patch_state": row.patch_state,
            "target": row.target,
            "count": fresh,
            "task": klpoutput.task_fields(count),
        }


def wrong(fields: Fields) -> bool:
    """Tell whether a row breaks the rule: the old version after a task's switch, or the new before."""
    early_or_late = 1 if fields["version"] == "old" else 0
    return bool(fields["target"] >= 0 and fields["patch_state"] == early_or_late)


def columns(_kind: str, fields: Fields) -> str:
    """Return a line for people."""
    task = fields["task"]
    shown = f"  WRONG: {task['comm']}[{task['pid']}] was the first" if wrong(fields) else ""
    return (
        f"{fields['version']:<8} {fields['patch_state']:<6} {fields['target']:<7} "
        f"{fields['count']:>9}  {fields['object']} {fields['function']}{shown}"
    )


def main() -> int:
    """Trace as the command line says."""
    args = arguments()
    counter = Counter(args.function)
    maps: list[Any] = []

    def attach_all(probes: Probes) -> None:
        maps.append(probes.bpf)
        attach(probes, args.function)

    def count(out: Output) -> None:
        with unpreempted():
            rows = list(maps[0]["counts"].items())
        counter.tell(out, rows)

    def show(out: Output, _symbols: Symbols, _event: Any) -> None:
        count(out)

    def tell(out: Output, drain: Any) -> None:
        count(out)
        drain()

    tool = klpprobe.Tool(NAME, HEAD, 0.1, columns, cflags, attach_all, show, tell=tell)
    return klpprobe.run(tool, args)


if __name__ == "__main__":
    sys.exit(main())
