#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
#
# klpstates  Trace system states, objects' modules and the stack of livepatches.
#            For Linux, uses BCC, eBPF.
#
# USAGE: klpstates [-h] [-j] [-a] [-P PATCH] [-i ID] [-d SECONDS]
#
# This puts kprobes on kernel/livepatch/core.c and state.c. It shows each klp_enable_patch with its
# result; the states that it was judged by, of the new livepatch and of those installed; which states
# callbacks asked for and got; the order of livepatches; which were replaced, and which were freed;
# and modules that come and go under the livepatch core's eyes.
# Return probes are only on functions of the livepatch core, which hold klp_mutex, so that no
# transition makes progress meanwhile.
#
# Not seen: more than 16 livepatches, or more than 16 states of one (the event is marked as cut).
"""Trace system states, objects' modules and the stack of livepatches."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Iterator
from typing import Any

import klpbtf
import klpoutput
import klpprobe
from klpattach import Probes
from klpoutput import Fields, Output
from klpsymbols import ProbeError, Symbols

NAME = "klpstates"
EXAMPLES = """examples:
    ./klpstates                       # trace all livepatches
    ./klpstates -a                    # with the states that the core itself looks up
    ./klpstates -P test_klp_state2    # only what concerns this livepatch
    ./klpstates -i 1                  # only requests for the state 1
    ./klpstates -j -d 10              # JSON lines for 10 seconds
"""
EVENTS = ("compatible", "state_get", "enable", "patch_stack", "replaced", "patch_free", "module")
CALLS = ("get", "get_prev")
WHYS = ("enable", "complete", "free")
ACTIONS = ("coming", "going")
MAX_STATES, MAX_PATCHES, NAME_LEN = 16, 16, 64
MEMBERS = {
    "klp_patch": ("mod", "states", "replace", "list", "forced", "free_work"),
    "klp_state": ("id", "version"),
    "module": ("name", "klp", "refcnt"),
}

HEAD = f"{'TIME(s)':<11} {'EVENT':<11} DETAIL"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = klpprobe.parser(
        NAME, "Trace system states, objects' modules and the stack of livepatches", EXAMPLES
    )
    parser.add_argument("-a", "--all", action="store_true", help="show the core's own look-ups, too")
    parser.add_argument("-P", "--patch", help="trace what concerns this livepatch only")
    parser.add_argument("-i", "--id", type=int, help="trace requests for this state only")
    return parser.parse_args()


def cflags(symbols: Symbols) -> list[str]:
    """Tell the BPF program where the list of livepatches is, and this file's numbers."""
    patches = symbols.address("klp_patches")
    if not patches:
        raise ProbeError("/proc/kallsyms gives no address for klp_patches")
    flags = [*klpbtf.offsets(MEMBERS), *klpbtf.sizes(("klp_state",)), f"-DKLP_PATCHES=0x{patches:x}UL"]
    flags += [f"-DMAX_STATES={MAX_STATES}", f"-DMAX_PATCHES={MAX_PATCHES}"]
    for prefix, names in (("EVENT", EVENTS), ("CALL", CALLS), ("WHY", WHYS), ("ACTION", ACTIONS)):
        flags += klpprobe.numbered(prefix, names)
    return flags


def attach(probes: Probes) -> None:
    """Put the probes on the livepatch core."""
    for name, entry, leave, unseen in (
        ("klp_is_patch_compatible", "on_check", "on_check_return", "decisions by states"),
        ("klp_enable_patch", "on_enable", "on_enable_return", "livepatches being enabled"),
        ("klp_get_state", "on_get", "on_get_return", "requests for a livepatch's state"),
        ("klp_get_prev_state", "on_get_prev", "on_get_prev_return", "requests for a former state"),
        ("klp_module_coming", "on_module", "on_coming_return", "modules that come"),
        ("klp_module_going", "on_module", "on_going_return", "modules that go"),
    ):
        probes.enter(name, entry, unseen)
        probes.leave(name, leave, unseen)
    for name, entry, unseen in (
        ("klp_complete_transition", "on_complete", "the order of livepatches at completion"),
        ("klp_unpatch_replaced_patches", "on_replace", "which livepatches were replaced"),
        ("klp_free_patch_work_fn", "on_free_work", "livepatches being freed"),
    ):
        probes.enter(name, entry, unseen)
    probes.tracepoint("module:module_put", "on_put", "livepatches being freed")


# --- from BPF events to fields -------------------------------------------------------------------


def _name(event: Any, slot: int) -> str:
    raw = bytes(event.names)[slot * NAME_LEN : (slot + 1) * NAME_LEN]
    return klpoutput.text(raw.partition(b"\0")[0])


def _states(event: Any, slot: int) -> list[Fields]:
    first = slot * MAX_STATES
    return [
        {"id": event.ids[at], "version": event.versions[at]}
        for at in range(first, first + _length(event.ids[first : first + MAX_STATES]))
    ]


def _length(ids: list[int]) -> int:
    return ids.index(0) if 0 in ids else len(ids)


def _compatible(event: Any, _symbols: Symbols) -> Fields:
    return {
        "patch": klpoutput.text(event.name),
        "replace": bool(event.detail),
        "states": _states(event, 0),
        "installed": [
            {"patch": _name(event, slot), "states": _states(event, slot)}
            for slot in range(1, event.patches)
        ],
        "compatible": bool(event.yes),
        "cut": bool(event.cut),
    }


def _state_get(event: Any, symbols: Symbols) -> Fields:
    return {
        "call": CALLS[event.detail],
        "patch": klpoutput.text(event.name) or None,
        "id": event.id,
        "found": {"id": event.id, "version": event.version} if event.yes else None,
        "caller": symbols.describe(event.caller),
        "task": klpoutput.task_fields(event),
    }


def _enable(event: Any, _symbols: Symbols) -> Fields:
    return {
        "patch": klpoutput.text(event.name),
        "replace": bool(event.detail),
        "errno": event.error,
        "duration_ns": event.duration_ns,
    }


def _patch_stack(event: Any, _symbols: Symbols) -> Fields:
    patches = [_name(event, slot) for slot in range(1, event.patches)]
    return {"why": WHYS[event.detail], "patches": patches, "cut": bool(event.cut)}


def _replaced(event: Any, _symbols: Symbols) -> Fields:
    return {"patch": klpoutput.text(event.name), "by": klpoutput.text(event.other)}


def _patch_free(event: Any, _symbols: Symbols) -> Fields:
    return {
        "patch": klpoutput.text(event.name),
        "forced": bool(event.yes),
        "module_refs": event.refs if event.refs >= 0 else None,
    }


def _module(event: Any, _symbols: Symbols) -> Fields:
    return {
        "module": klpoutput.text(event.name),
        "action": ACTIONS[event.detail],
        "livepatch": bool(event.yes),
        "errno": event.error,
        "duration_ns": event.duration_ns,
    }


FIELDS: dict[str, Callable[[Any, Symbols], Fields]] = {
    "compatible": _compatible,
    "state_get": _state_get,
    "enable": _enable,
    "patch_stack": _patch_stack,
    "replaced": _replaced,
    "patch_free": _patch_free,
    "module": _module,
}


# --- filters ---------------------------------------------------------------------------------------


def names(fields: Fields) -> Iterator[str]:
    """Yield the livepatches that an event is about."""
    yield from (fields[key] for key in ("patch", "by") if fields.get(key))
    yield from fields.get("patches", ())
    yield from (one["patch"] for one in fields.get("installed", ()))
    if fields.get("livepatch"):
        yield fields["module"]


def wants(fields: Fields, patch: str | None, state: int | None) -> bool:
    """Tell whether to show an event; one that is about no livepatch concerns them all."""
    if state is not None and fields.get("id", state) != state:
        return False
    about = list(names(fields))
    return patch is None or not about or patch in about


# --- columns -------------------------------------------------------------------------------------


def _failed(fields: Fields) -> str:
    return errno.errorcode.get(-fields["errno"], str(fields["errno"])) if fields["errno"] else "ok"


def _listed(states: list[Fields]) -> str:
    return " ".join(f"{one['id']}v{one['version']}" for one in states) or "none"


def _compatible_line(fields: Fields) -> str:
    sides = "; ".join(f"{one['patch']} {_listed(one['states'])}" for one in fields["installed"])
    verdict = "allowed" if fields["compatible"] else "refused"
    return f"{fields['patch']} {_listed(fields['states'])}: {verdict} over {sides or 'nothing'}"


def _state_get_line(fields: Fields) -> str:
    found = fields["found"]
    version = f"version {found['version']}" if found else "none"
    return f"{fields['id']} of {fields['patch'] or 'installed'}: {version}, for {fields['caller']}"


def _enable_line(fields: Fields) -> str:
    replace = " (replace)" if fields["replace"] else ""
    return f"{fields['patch']}{replace}: {_failed(fields)}, {fields['duration_ns'] / 1e6:.1f} ms"


def _patch_free_line(fields: Fields) -> str:
    forced = "forced, stays pinned, " if fields["forced"] else ""
    return f"{fields['patch']}: {forced}{fields['module_refs']} references to its module"


def _module_line(fields: Fields) -> str:
    what = "livepatch " if fields["livepatch"] else ""
    return f"{fields['action']} {what}{fields['module']}: {_failed(fields)}"


LINES: dict[str, Callable[[Fields], str]] = {
    "compatible": _compatible_line,
    "state_get": _state_get_line,
    "enable": _enable_line,
    "patch_stack": lambda fields: f"{fields['why']}: {' < '.join(fields['patches']) or 'empty'}",
    "replaced": lambda fields: f"{fields['patch']} by {fields['by']}",
    "patch_free": _patch_free_line,
    "module": _module_line,
}


def core_asks(fields: Fields) -> bool:
    """Tell whether a state was looked up by klp_get_prev_state or the check, on their own behalf."""
    return "caller" in fields and fields["caller"].startswith("klp_") and "[" not in fields["caller"]


def main() -> int:
    """Trace as the command line says."""
    args = arguments()
    patch = klpprobe.module_name(args.patch)

    def wanted(_kind: str, fields: Fields) -> bool:
        return wants(fields, patch, args.id)

    def show(out: Output, symbols: Symbols, event: Any) -> None:
        kind = EVENTS[event.kind]
        fields = FIELDS[kind](event, symbols)
        if event.cut:
            klpoutput.complain(
                f"{NAME}: {kind}: more than {MAX_PATCHES} livepatches or {MAX_STATES} states"
            )
        if wanted(kind, fields):
            out.event(kind, event.ts_ns, **fields)

    def columns(kind: str, fields: Fields) -> str | None:
        if core_asks(fields) and not args.all:
            return None
        return f"{kind:<11} {LINES[kind](fields)}"

    tool = klpprobe.Tool(NAME, HEAD, 0.1, columns, cflags, attach, show, wants=wanted)
    return klpprobe.run(tool, args)


if __name__ == "__main__":
    sys.exit(main())
