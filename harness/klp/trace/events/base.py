# SPDX-License-Identifier: Apache-2.0
"""What every event has, and the values that several share."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

SCHEMA = 2

# An `unsigned long` of the kernel's: 2^63 and more are among its values.
Unsigned = Annotated[int, msgspec.Meta(ge=0)]
# Nanoseconds: what no clock of the kernel can tell is damage.
Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
CallbackKind = Literal["pre_patch", "post_patch", "pre_unpatch", "post_unpatch"]

# Values of klp_target_state and task_struct.patch_state. The names differ by kernel (KLP_UNDEFINED on 6.1,
# KLP_TRANSITION_IDLE on 6.12), the values do not.
IDLE, UNPATCHED, PATCHED = -1, 0, 1


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """What every event has; the text of `klp.trace.events` explains the fields."""

    probe: str
    seq: int
    ts_ns: Nanoseconds


class Task(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A thread: its thread id (0 for an idle task), process id, and name (at most 15 bytes)."""

    pid: int
    tgid: int
    comm: str


class Core(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The livepatch core's own variables at the moment of an event.

    `target_state` is klp_target_state (-1, 0 or 1), `transition_patch` the name of
    klp_transition_patch or null, `signals_cnt` klp_signals_cnt, `enabled` the transition patch's
    klp_patch.enabled (null where there is no such patch).
    """

    target_state: int
    transition_patch: str | None
    signals_cnt: int
    enabled: bool | None


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel function for which this kernel has no probe point, and what is not seen for that reason."""

    symbol: str
    unseen: str


class Header(Event, frozen=True, kw_only=True, tag="header"):
    """The first event of a tool, written once all its probes are attached.

    `scheduler_switch`, of klptransition: whether this kernel has __klp_sched_try_switch, by which a running
    task switches in the scheduler; null where the tool does not say.

    `filters`: what the tool was told to trace alone, such as ``pid=181`` or ``patch=livepatch_sample``: of
    anything else it has no events.
    """

    schema: int
    kernel: str
    attached: tuple[str, ...]
    missing: tuple[Missing, ...]
    scheduler_switch: bool | None = None
    filters: tuple[str, ...] = ()


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
