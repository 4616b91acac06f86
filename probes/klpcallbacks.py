#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
#
# klpcallbacks  Trace the callbacks of livepatched objects.
#               For Linux, uses BCC, eBPF. x86-64 only.
#
# USAGE: klpcallbacks [-h] [-j] [-d SECONDS] [-P PATCH] [-p PID]
#
# Callbacks are functions of modules that may not be loaded yet, called by wrappers that the compiler
# inlines. So this finds the indirect calls in the text of the livepatch core, puts a kprobe on each
# and one on the instruction after it, and compares the pointer that is called with the object's four
# callbacks. There is no return probe, so nothing is put on the stack of a callback that sleeps.
"""Trace the callbacks of livepatched objects."""

from __future__ import annotations

import argparse
import errno
import sys
from itertools import groupby
from typing import Any

import klpbtf
import klpoutput
import klpprobe
import klptext
from klpattach import Probes
from klpoutput import Fields, Output
from klpsymbols import ProbeError, Symbols

NAME = "klpcallbacks"
EXAMPLES = """examples:
    ./klpcallbacks                                # trace all callbacks
    ./klpcallbacks -P livepatch_callbacks_demo    # only this livepatch's
    ./klpcallbacks -p 181                         # only calls in this task or process
    ./klpcallbacks -j -d 10                       # JSON lines for 10 seconds
"""
KINDS = ("pre_patch", "post_patch", "pre_unpatch", "post_unpatch")  # as in struct klp_callbacks
MEMBERS = {
    "klp_object": ("name", "callbacks", "kobj"),
    "klp_patch": ("mod", "kobj"),
    "kobject": ("parent",),
    "mod_kallsyms": ("symtab", "num_symtab", "strtab"),
    "module": ("name", "kallsyms"),
}

HEAD = f"{'TIME(s)':<11} {'PID':<7} {'CALLBACK':<12} {'RESULT':<7} {'ms':>9}  OBJECT FUNCTION"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = klpprobe.parser(NAME, "Trace the callbacks of livepatched objects", EXAMPLES)
    parser.add_argument("-P", "--patch", help="trace this livepatch only")
    parser.add_argument("-p", "--pid", type=int, help="trace this task or process only")
    return parser.parse_args()


def calls(symbols: Symbols) -> list[klptext.Call]:
    """Return the instructions of the livepatch core that may call a callback.

    A wrapper that was not inlined (klp_post_unpatch_callback on 6.12) can hold no probe, because the
    kernel marks all inline functions notrace: then the calls of the wrapper are taken instead.
    """
    thunk_at = klptext.thunks(symbols)
    wrapper_at = {symbols.address(f"klp_{kind}_callback"): kind for kind in KINDS}

    def search(code: bytes, base: int) -> list[klptext.Call]:
        found = (
            *klptext.indirect_calls(code, base, thunk_at),
            *klptext.direct_calls(code, base, wrapper_at),
        )
        return [call for call in found if may_call(call, symbols)]

    spans = klptext.livepatch_text(symbols)
    return sorted({call for start, end in spans for call in klptext.calls(symbols, start, end, search)})


def may_call(call: klptext.Call, symbols: Symbols) -> bool:
    """Leave out what cannot call a callback, or cannot be probed."""
    inside = symbols.describe(call.site).partition("+")[0]
    return (
        call.target not in ("rdi", "rsp")  # the object and the stack
        and "klp_shadow_" not in inside
        and not inside.endswith("patch_callback")
    )


def cflags(_symbols: Symbols) -> list[str]:
    """Tell the BPF program where members lie, and this file's numbers."""
    return [*klpbtf.offsets(MEMBERS), *klpprobe.numbered("CALLBACK", KINDS)]


def attach(probes: Probes) -> None:
    """Probe each call and the instruction it returns to."""
    try:
        found = calls(probes.symbols)
    except ProbeError as error:  # another machine, or a kernel that does not let us read it
        probes.miss("klp_object.callbacks", f"callbacks ({error})")
        return
    for after, readings in groupby(found, lambda call: call.after):
        candidates = list(readings)
        where = probes.symbols.describe(candidates[0].site)
        # The return first: no callback is then seen to begin and not to end.
        if probes.at(after, "on_return") and any(
            probes.at(call.site, f"on_call_{call.target}") for call in candidates
        ):
            probes.note(where)
        else:
            probes.miss(where, "callbacks called there")
    if not probes.attached:
        raise ProbeError("found no indirect call in the livepatch core")


def fields_of(event: Any, symbols: Symbols) -> Fields:
    """Return the fields of a BPF event."""
    kind = KINDS[event.kind]
    patch, function = klpoutput.text(event.patch), klpoutput.text(event.name)
    return {
        "patch": patch,
        "object": klpoutput.text(event.object) or "vmlinux",
        "kind": kind,
        "also": [other for bit, other in enumerate(KINDS) if event.kinds >> bit & 1 and other != kind],
        "function": f"{function} [{patch}]" if function else symbols.describe(event.function),
        "result": event.result if kind == "pre_patch" else None,
        "duration_ns": event.duration_ns,
        "task": klpoutput.task_fields(event),
    }


def wants(fields: Fields, patch: str | None, pid: int | None) -> bool:
    """Tell whether an event is of the livepatch and the task or process asked for."""
    task = fields["task"]
    return patch in (None, fields["patch"]) and pid in (None, task["pid"], task["tgid"])


def columns(_kind: str, fields: Fields) -> str:
    """Return a line for people."""
    result = fields["result"]
    shown = "-" if result is None else errno.errorcode.get(-result, str(result))
    return (
        f"{fields['task']['pid']:<7} {fields['kind']:<12} {shown:<7} "
        f"{fields['duration_ns'] / 1e6:>9.3f}  {fields['object']} {fields['function']}"
    )


def main() -> int:
    """Trace as the command line says."""
    args = arguments()
    patch = args.patch and args.patch.replace("-", "_")

    def wanted(_kind: str, fields: Fields) -> bool:
        return wants(fields, patch, args.pid)

    def show(out: Output, symbols: Symbols, event: Any) -> None:
        fields = fields_of(event, symbols)
        if wanted("callback", fields):
            out.event("callback", event.ts_ns, **fields)

    tool = klpprobe.Tool(NAME, HEAD, 0.1, columns, cflags, attach, show, wants=wanted)
    return klpprobe.run(tool, args)


if __name__ == "__main__":
    sys.exit(main())
