# SPDX-License-Identifier: Apache-2.0
"""How often the functions of a livepatch ran, and by which tasks: what an acquittal rests on. Pure."""

from __future__ import annotations

import msgspec


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
