# SPDX-License-Identifier: Apache-2.0
"""Events of klp itself: what it did, and what it saw there."""

from __future__ import annotations

from typing import Literal

import msgspec

from klp.trace.events.base import Event, Nanoseconds


class Plan(Event, frozen=True, kw_only=True, tag="plan"):
    """A plan or scenario begins or ends; `livepatch` is the module under test, empty for none."""

    name: str
    livepatch: str
    moment: Literal["begin", "end"]


class Step(Event, frozen=True, kw_only=True, tag="step"):
    """One thing klp did, with the time of its end.

    `action`: ``load``, ``unload``, ``enable``, ``disable``, ``reverse``, ``force`` (through sysfs);
    `subject`: a module. `errno` is 0, or the negative errno with which the kernel refused.
    """

    action: Literal["load", "unload", "enable", "disable", "reverse", "force"]
    subject: str
    errno: int
    duration_ns: Nanoseconds


class SysfsPatch(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of /sys/kernel/livepatch; null where this kernel has no such file."""

    name: str
    enabled: bool
    transition: bool
    replace: bool | None
    stack_order: int | None
    objects: dict[str, bool | None]


class Sysfs(Event, frozen=True, kw_only=True, tag="sysfs"):
    """/sys/kernel/livepatch at a moment when no transition was being begun or ended by klp.

    `begun_ns`, `ended_ns`: the guest's own clock before the first file was read and after the last; null in
    traces recorded before klp asked for it.
    """

    patches: tuple[SysfsPatch, ...]
    begun_ns: Nanoseconds | None = None
    ended_ns: Nanoseconds | None = None


class Behaviour(Event, frozen=True, kw_only=True, tag="behaviour"):
    """A command was run in the guest, and its output compared with a pattern (rule L5).

    `rules` are those that this shows, as the livepatch's author says.
    """

    patch: str
    moment: str
    command: str
    pattern: str
    output: str
    held: bool
    rules: tuple[str, ...]


class LoggedLine(Event, frozen=True, kw_only=True, tag="log"):
    """A line of the kernel's log; `expected` is the reason why an alarming one is no alarm, or null."""

    text: str
    expected: str | None


class Taint(Event, frozen=True, kw_only=True, tag="taint"):
    """The kernel's taint flags, as letters in the order of their bits, such as ``OEK``.

    A question mark stands for each flag whose letter klp does not know.
    """

    flags: str


class CallsByTask(msgspec.Struct, frozen=True, kw_only=True):
    """How often one task called a function; `comm` is its name at its first call (at most 15 bytes)."""

    comm: str
    pid: int
    calls: int


class Calls(Event, frozen=True, kw_only=True, tag="calls"):
    """How often a livepatch's own function ran, counted at its entry from before its first load until now.

    `object`, `old`: what it takes the place of. `dropped`: calls beyond those of `tasks`, which the kernel
    could not give to one. `uncounted`: why nothing could be counted, or null.
    """

    patch: str
    object: str
    old: str
    new: str
    tasks: tuple[CallsByTask, ...]
    dropped: int
    uncounted: str | None


class PatchStates(Event, frozen=True, kw_only=True, tag="patch_states"):
    """A sample of /proc/PID/task/TID/patch_state: thread id (as a string) to state."""

    tasks: dict[str, int]


class AwaitedTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that has not reached a transition's target state, as /proc shows it.

    `kthread`: it is none of a user's. `state` is its letter in /proc/PID/stat: R, S, D, I, …; `stack` is
    its kernel stack, innermost first, a frame as ``function+0x10/0x20 [module]``.
    """

    pid: int
    comm: str
    kthread: bool
    state: str
    stack: tuple[str, ...]


class Awaited(Event, frozen=True, kw_only=True, tag="awaited"):
    """Whom the transition of `patch` waits for, a hundred tasks at most: klp looks if it lasts."""

    patch: str
    tasks: tuple[AwaitedTask, ...]


class Control(Event, frozen=True, kw_only=True, tag="control"):
    """The same transition in a guest without probes, by that guest's kernel log (T14).

    `passes` counts the pass that completed it, and those after which the kernel named, by dynamic debug,
    the tasks that they left behind.
    """

    patch: str
    target: int
    passes: int
    duration_ns: Nanoseconds
