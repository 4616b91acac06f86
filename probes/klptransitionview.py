# SPDX-License-Identifier: Apache-2.0
"""What klptransition shows: BPF events as fields, and as columns for people."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import klpoutput
from klpoutput import Fields

# fmt: off
EVENTS = (
    "init", "start", "census", "pass", "attempt", "switch", "fork", "exit", "signals", "synchronize",
    "complete", "cancel", "reverse", "force", "function", "object",
)
# fmt: on
RESULTS = ("switched", "already", "refused")
PATHS = ("exit", "idle", "scheduler", "force", "offline")
MOMENTS = ("before_init", "init", "before_start", "started", "before_complete", "completed", "forced")
# What both sides number alike, by the prefix in C.
NUMBERED = {"EVENT": EVENTS, "RESULT": RESULTS, "PATH": PATHS, "MOMENT": MOMENTS}
CALLBACKS = ("pre_patch", "post_patch", "pre_unpatch", "post_unpatch")
FLAGS = (
    "replace", "forced", "complete", "whole", "nop", "transition", "patched", "nops_only", *CALLBACKS
)  # fmt: skip
ABOUT_TASKS = ("attempt", "switch", "fork", "exit")
# Why a task was refused, by the errno of its attempt, which is klp_check_and_switch_task's.
REASONS = {-errno.EBUSY: "running", -errno.EINVAL: "unreliable", -errno.EADDRINUSE: "sleeping"}
STATES = {-1: "idle", 0: "unpatched", 1: "patched"}

HEAD = f"{'TIME(s)':<11} {'EVENT':<11} {'PID':<7} {'COMM':<16} DETAIL"


# --- from BPF events to fields -------------------------------------------------------------------


def fields_of(event: Any) -> tuple[str, Fields]:
    """Return the kind and the fields of a BPF event."""
    kind = EVENTS[event.kind]
    return kind, _FIELDS[kind](event)


def _has(event: Any, flag: str) -> bool:
    return bool(event.flags >> FLAGS.index(flag) & 1)


def _core(event: Any) -> Fields:
    return {
        "target_state": event.target_state,
        "transition_patch": klpoutput.text(event.core_patch) or None,
        "signals_cnt": event.signals_cnt,
        "enabled": None if event.enabled < 0 else bool(event.enabled),
    }


def _patch(event: Any) -> Fields:
    """Return the livepatch of an event, which is the one in transition unless it says otherwise."""
    return {"patch": klpoutput.text(event.patch or event.core_patch), "core": _core(event)}


def _directed(event: Any) -> Fields:
    return _patch(event) | {"target": event.state}


def _init(event: Any) -> Fields:
    replace = _has(event, "replace")
    return _directed(event) | {"replace": replace, "task": klpoutput.task_fields(event)}


def _census(event: Any) -> Fields:
    counts = ("tasks", "idle", "unpatched", "patched", "other", "pending")
    return {
        "moment": MOMENTS[event.detail],
        **{name: getattr(event, name) for name in counts},
        "whole": _has(event, "whole"),
        "core": _core(event),
    }


def _pass(event: Any) -> Fields:
    return _patch(event) | {
        "number": event.detail,
        "attempts": event.count,
        "already": event.already,
        "left": event.left,
        "complete": _has(event, "complete"),
        "scheduler_refused": event.refused,
        "first_ns": event.first_ns or None,
        "duration_ns": event.duration_ns,
    }


def _attempt(event: Any) -> Fields:
    result = RESULTS[event.detail]
    # Only a refusal has room for its function: behind others the ring buffer goes on with something else.
    function = klpoutput.text(event.function) if result == "refused" else ""
    return {
        "task": klpoutput.task_fields(event),
        "result": REASONS.get(event.error, result) if result == "refused" else result,
        "errno": event.error,
        "function": function or None,
        "patch_state": event.state,
        "after": event.after,
        "awaited_as": event.awaited_as if event.awaited_as >= 0 else None,
        "duration_ns": event.duration_ns,
    }


def _switch(event: Any) -> Fields:
    task = klpoutput.task_fields(event)
    return {"task": task, "path": PATHS[event.detail], "patch_state": event.state}


def _fork(event: Any) -> Fields:
    parent = {
        "pid": event.parent_pid,
        "tgid": event.parent_tgid,
        "comm": klpoutput.text(event.parent_comm),
    }
    return {
        "child": klpoutput.task_fields(event),
        "child_state": event.state,
        "child_pending": bool(event.pending),
        "parent": parent,
        "parent_state": event.after,
        "parent_pending": bool(event.parent_pending),
    }


def _exit(event: Any) -> Fields:
    task = klpoutput.task_fields(event)
    return {"task": task, "patch_state": event.state, "pending": bool(event.pending)}


def _synchronize(event: Any) -> Fields:
    return {"duration_ns": event.duration_ns}


def _complete(event: Any) -> Fields:
    return _directed(event) | {name: _has(event, name) for name in ("replace", "forced")}


def _part(event: Any) -> Fields:
    return {
        "patch": klpoutput.text(event.patch),
        "object": klpoutput.text(event.object) or "vmlinux",
    }


def _function(event: Any) -> Fields:
    flags = {name: _has(event, name) for name in ("nop", "transition", "patched")}
    return _part(event) | {"function": klpoutput.text(event.function), "position": event.detail, **flags}


def _object(event: Any) -> Fields:
    return _part(event) | {
        "action": "patch" if event.detail else "unpatch",
        "functions": event.count,
        "nops_only": _has(event, "nops_only"),
        "errno": event.error,
        "callbacks": [name for name in CALLBACKS if _has(event, name)],
    }


_FIELDS: dict[str, Callable[[Any], Fields]] = {
    "init": _init,
    "start": _directed,
    "census": _census,
    "pass": _pass,
    "attempt": _attempt,
    "switch": _switch,
    "fork": _fork,
    "exit": _exit,
    "signals": _patch,
    "synchronize": _synchronize,
    "complete": _complete,
    "cancel": _patch,
    "reverse": _directed,
    "force": _patch,
    "function": _function,
    "object": _object,
}


# --- columns -------------------------------------------------------------------------------------


@dataclass
class Columns:
    """Lines for people: the tasks of a pass are counted, those that stay behind are shown."""

    every_task: bool
    left: Counter[str] = field(default_factory=Counter)

    def line(self, kind: str, fields: Fields) -> str | None:
        """Return an event's line, or None for one that is only counted."""
        if kind == "attempt" and not _done(fields):
            self.left[fields["result"]] += 1
        if not self.every_task and _usual(kind, fields):
            return None
        task = fields.get("task") or fields.get("child") or {"pid": "", "comm": ""}
        show = getattr(self, f"_{kind}", self._transition)
        return f"{kind:<11} {task['pid']:<7} {task['comm']:<16} {show(fields)}".rstrip()

    def _transition(self, fields: Fields) -> str:
        target = f" -> {STATES.get(fields['target'], '?')}" if "target" in fields else ""
        marks = "".join(f", {name}" for name in ("replace", "forced") if fields.get(name))
        return f"{fields['patch']}{target}{marks}"

    def _census(self, fields: Fields) -> str:
        names = ("idle", "unpatched", "patched", "other", "pending")
        counts = ", ".join(f"{fields[name]} {name}" for name in names if fields[name])
        cut = "" if fields["whole"] else ", cut short"
        return f"{fields['moment']}: {fields['tasks']} tasks, {counts}{cut}"

    def _pass(self, fields: Fields) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left.items()))
        self.left.clear()
        shown = f"{fields['number']}: {fields['duration_ns'] / 1e6:.1f} ms, {fields['attempts']} tasks"
        if fields["left"]:
            shown += f", {fields['left']} left" + (f": {reasons}" if reasons else "")
        if fields["scheduler_refused"]:
            shown += f"; {fields['scheduler_refused']} refused in the scheduler"
        return shown

    def _attempt(self, fields: Fields) -> str:
        return f"{fields['result']} {fields['function'] or ''}"

    def _switch(self, fields: Fields) -> str:
        return f"{fields['path']}: {STATES.get(fields['patch_state'], '?')}"

    def _fork(self, fields: Fields) -> str:
        parent = fields["parent"]
        return (
            f"{_state(fields, 'child_')}, of {parent['pid']} {parent['comm']}: {_state(fields, 'parent_')}"
        )

    def _exit(self, fields: Fields) -> str:
        state = STATES.get(fields["patch_state"], "?")
        return f"{state}, pending" if fields["pending"] else state

    def _synchronize(self, fields: Fields) -> str:
        return f"{fields['duration_ns'] / 1e6:.1f} ms"

    def _function(self, fields: Fields) -> str:
        marks = "".join(f", {name}" for name in ("nop", "transition", "patched") if fields[name])
        place = f",{fields['position']}" if fields["position"] else ""
        return f"{fields['object']} {fields['function']}{place}{marks}"

    def _object(self, fields: Fields) -> str:
        failed = f": {errno.errorcode.get(-fields['errno'], '?')}" if fields["errno"] else ""
        nops = ", no-ops only" if fields["nops_only"] else ""
        functions = f"{fields['functions']} function{'s' if fields['functions'] != 1 else ''}"
        return f"{fields['action']} {fields['object']}, {functions}{nops}{failed}"


def _state(fields: Fields, role: str) -> str:
    pending = ", pending" if fields[f"{role}pending"] else ""
    return STATES.get(fields[f"{role}state"], "?") + pending


def _done(fields: Fields) -> bool:
    return fields["result"] in ("switched", "already")


def _usual(kind: str, fields: Fields) -> bool:
    """Tell whether an event is one of the many that need no line."""
    match kind:
        case "attempt":
            return _done(fields)
        case "exit":
            return not fields["pending"]
        case "census":
            return not odd(fields)
        case "fork":
            return bool(fields["child_state"] == fields["parent_state"])
    return kind in ("function", "synchronize")


def odd(census: Fields) -> bool:
    """Tell whether a census is not what it has to be at its moment."""
    tasks, target = census["tasks"], census["core"]["target_state"]
    there = {0: census["unpatched"], 1: census["patched"]}.get(target, 0)
    expected = {
        "before_init": census["idle"] == tasks and not census["pending"],
        "init": tasks == census["unpatched"] + census["patched"] - there and not census["pending"],
        "before_start": not census["idle"] and not census["pending"],
        "started": not census["idle"],
        "before_complete": there == tasks and not census["pending"],
        "completed": census["idle"] == tasks and not census["pending"],
        "forced": there == tasks and not census["pending"],
    }
    return bool(census["other"]) or not census["whole"] or not expected[census["moment"]]
