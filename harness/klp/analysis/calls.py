# SPDX-License-Identifier: Apache-2.0
"""How often the functions of a livepatch ran, and by which tasks: what an acquittal rests on. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from klp.trace import events as ev


class TaskCalls(msgspec.Struct, frozen=True, kw_only=True):
    """How often one task called a function; `task` is its name (``comm``) at a call."""

    task: str
    pid: int
    calls: int


class FunctionCalls(msgspec.Struct, frozen=True, kw_only=True):
    """The calls of one new function, counted at its entry.

    Attributes:
        object: what it changes there: ``vmlinux``, or a module.
        old: the function whose place it takes.
        new: the livepatch's own.
        tasks: who called it; empty where nobody did.
        dropped: calls by tasks beyond those that the kernel's table holds: counted, but not by task.
        uncounted: why nothing could be counted, in words; empty where it was.
    """

    object: str
    old: str
    new: str
    tasks: tuple[TaskCalls, ...] = ()
    dropped: int = 0
    uncounted: str = ""

    @property
    def calls(self) -> int:
        """How often it ran."""
        return sum(each.calls for each in self.tasks) + self.dropped


def calls_of(event: ev.Calls) -> FunctionCalls:
    """Return what a trace tells of one function's calls."""
    return FunctionCalls(
        object=event.object, old=event.old, new=event.new, dropped=event.dropped,
        tasks=tuple(TaskCalls(task=each.comm, pid=each.pid, calls=each.calls) for each in event.tasks),
        uncounted=event.uncounted or "",
    )  # fmt: skip


def fields_of(calls: FunctionCalls) -> dict[str, Any]:
    """Return one function's calls as the fields of the event that `calls_of` takes."""
    tasks = (ev.CallsByTask(comm=each.task, pid=each.pid, calls=each.calls) for each in calls.tasks)
    return {
        "object": calls.object, "old": calls.old, "new": calls.new, "tasks": tuple(tasks),
        "dropped": calls.dropped, "uncounted": calls.uncounted or None,
    }  # fmt: skip
