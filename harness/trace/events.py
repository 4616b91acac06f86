# SPDX-License-Identifier: Apache-2.0
"""The events that the probes write, one JSON object a line: schema version 1.

`probes/events.schema.json` is made from these classes (``python -m harness.trace.events``) and a test
keeps the two equal. Times are nanoseconds of the guest's CLOCK_MONOTONIC; addresses are hex strings,
because JSON readers lose the low bits of 64-bit numbers; errno values are negative, as in the kernel.
Every event has:

- ``type``: which of the classes below it is;
- ``probe``: the tool that wrote it, such as ``klptransition``;
- ``seq``: its number within that tool's output, from 0 without a gap: a gap is a torn stream;
- ``ts_ns``: when it happened (for something that lasts: when it began).
"""

from __future__ import annotations

import json
import sys
from typing import Literal

import msgspec

SCHEMA = 1

# Values of klp_target_state and task_struct.patch_state; the names differ by kernel, the values do not.
IDLE, UNPATCHED, PATCHED = -1, 0, 1


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every event has; see the module's text."""

    probe: str
    seq: int
    ts_ns: int


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A thread: its thread id (0 for an idle task), process id, and name (at most 15 bytes)."""

    pid: int
    tgid: int
    comm: str


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel function this kernel has no probe point for, and what is not seen for that reason."""

    symbol: str
    unseen: str


# --- what each tool says about itself ---------------------------------------------------------------


class Header(Event, frozen=True, kw_only=True, tag="header"):
    """The first event of a tool, written once all its probes are attached."""

    schema: int
    kernel: str
    attached: tuple[str, ...]
    missing: tuple[Missing, ...]


class Mark(Event, frozen=True, kw_only=True, tag="mark"):
    """All that happened before the tool got its `number`-th SIGUSR1 stands before this event."""

    number: int


class Lost(Event, frozen=True, kw_only=True, tag="lost"):
    """`count` events found no room in the ring buffer since the last such event."""

    count: int


class End(Event, frozen=True, kw_only=True, tag="end"):
    """The last event of a tool that was stopped in order; without one, the stream was cut.

    `events` counts the lines before this one, the header included; `lost` is over the whole run.
    """

    events: int
    lost: int


# --- klptransition (kernel/livepatch/transition.c) --------------------------------------------------


class Init(Event, frozen=True, kw_only=True, tag="init"):
    """klp_init_transition: `target` is 1 to patch and 0 to unpatch."""

    patch: str
    target: int
    task: Task


class Start(Event, frozen=True, kw_only=True, tag="start"):
    """klp_start_transition: TIF_PATCH_PENDING is set on every task that must switch."""

    patch: str
    target: int


class Pass(Event, frozen=True, kw_only=True, tag="pass"):
    """One klp_try_complete_transition: the `number`-th since init, counted from 1."""

    patch: str
    number: int
    duration_ns: int


class Attempt(Event, frozen=True, kw_only=True, tag="attempt"):
    """One klp_try_switch_task on one task.

    `result`: ``switched``; ``already`` (it was in the target state); ``running`` (-EBUSY);
    ``unreliable`` stack (-EINVAL); ``sleeping`` in `function`, which this transition changes
    (-EADDRINUSE); ``refused`` where the kernel gives no reason. `patch_state` is the task's before.
    """

    task: Task
    result: Literal["switched", "already", "running", "unreliable", "sleeping", "refused"]
    errno: int
    function: str | None
    patch_state: int
    duration_ns: int


class Switch(Event, frozen=True, kw_only=True, tag="switch"):
    """A pending task changed state by another way than an attempt of the core.

    `path`: ``exit`` to user space, ``idle`` loop, ``scheduler`` (cond_resched on 6.12, __schedule on
    7.2), ``fork`` (a child got its parent's state), ``force``.
    """

    task: Task
    path: Literal["exit", "idle", "scheduler", "fork", "force"]
    patch_state: int


class Signals(Event, frozen=True, kw_only=True, tag="signals"):
    """klp_send_signals: the core woke and signalled the tasks that remain (every 15th pass)."""

    patch: str


class Complete(Event, frozen=True, kw_only=True, tag="complete"):
    """klp_complete_transition."""

    patch: str
    target: int


class Cancel(Event, frozen=True, kw_only=True, tag="cancel"):
    """klp_cancel_transition: it was initialised and never started."""

    patch: str


class Reverse(Event, frozen=True, kw_only=True, tag="reverse"):
    """klp_reverse_transition: `target` is the new one."""

    patch: str
    target: int


class Force(Event, frozen=True, kw_only=True, tag="force"):
    """klp_force_transition."""

    patch: str


class Object(Event, frozen=True, kw_only=True, tag="object"):
    """klp_patch_object or klp_unpatch_object; `object` is ``vmlinux`` or a module."""

    object: str
    action: Literal["patch", "unpatch"]
    errno: int


# --- klpshadow (kernel/livepatch/shadow.c) ----------------------------------------------------------


class ShadowAlloc(Event, frozen=True, kw_only=True, tag="shadow_alloc"):
    """klp_shadow_alloc or klp_shadow_get_or_alloc; `call` says which.

    `result`: ``made``; ``found`` (get_or_alloc of an existing one); ``exists`` (alloc of one, an
    error); ``failed`` (no memory, or the constructor refused). `variable` is the data's address, null
    where there is none. `caller` is ``function+0xOFFSET [module]``.
    """

    call: Literal["alloc", "get_or_alloc"]
    obj: str
    id: int
    size: int
    ctor: bool
    result: Literal["made", "found", "exists", "failed"]
    variable: str | None
    caller: str
    task: Task


class ShadowFree(Event, frozen=True, kw_only=True, tag="shadow_free"):
    """klp_shadow_free: asked to free one variable; whether there was one, `ShadowFreed` tells."""

    obj: str
    id: int
    dtor: bool
    caller: str
    task: Task


class ShadowFreeAll(Event, frozen=True, kw_only=True, tag="shadow_free_all"):
    """klp_shadow_free_all, at its return: `count` variables of `id` were freed."""

    id: int
    dtor: bool
    count: int
    caller: str
    task: Task


class ShadowFreed(Event, frozen=True, kw_only=True, tag="shadow_freed"):
    """klp_shadow_free_struct: one variable left the hash; `age_ns` is null if older than the trace."""

    obj: str
    id: int
    variable: str
    age_ns: int | None


# --- klpcallbacks (klp_object.callbacks) ------------------------------------------------------------


class Callback(Event, frozen=True, kw_only=True, tag="callback"):
    """One callback of one object, from call to return; `result` is null but for pre_patch."""

    patch: str
    object: str
    kind: Literal["pre_patch", "post_patch", "pre_unpatch", "post_unpatch"]
    function: str
    result: int | None
    duration_ns: int
    task: Task


TransitionEvent = (
    Init | Start | Pass | Attempt | Switch | Signals | Complete | Cancel | Reverse | Force | Object
)
ShadowEvent = ShadowAlloc | ShadowFree | ShadowFreeAll | ShadowFreed
AnyEvent = Header | Mark | Lost | End | TransitionEvent | ShadowEvent | Callback

_DECODER: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def decode(line: bytes) -> AnyEvent:
    """Read one line.

    Raises:
        msgspec.DecodeError: it is torn, or not of this schema.
    """
    return _DECODER.decode(line)


def json_schema() -> str:
    """Return the JSON Schema of one line, as it stands in probes/events.schema.json."""
    schema = msgspec.json.schema(AnyEvent)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "SPDX-License-Identifier: Apache-2.0",
        "title": f"One line of a klp probe's -j output, schema version {SCHEMA}",
    }
    return json.dumps({**head, **schema}, indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema())
