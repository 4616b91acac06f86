# SPDX-License-Identifier: Apache-2.0
"""Events of klpcallbacks, klpstates and klpconsistency (kernel/livepatch/core.c, state.c, patch.c)."""

from __future__ import annotations

from typing import Literal

import msgspec

from klp.trace.events.base import CallbackKind, Event, Nanoseconds, Task, Unsigned


class Callback(Event, frozen=True, kw_only=True, tag="callback"):
    """One callback of one object, from call to return; `result` is null but for pre_patch.

    `also`: what else this call may have been, where one function serves as several callbacks of its object.
    """

    patch: str
    object: str
    kind: CallbackKind
    function: str
    result: int | None
    duration_ns: Nanoseconds
    task: Task
    also: tuple[CallbackKind, ...] = ()

    @property
    def kinds(self) -> tuple[CallbackKind, ...]:
        """All that the call may have been."""
        return (self.kind, *self.also)


class State(msgspec.Struct, frozen=True, kw_only=True):
    """One klp_state of a livepatch."""

    id: Unsigned
    version: int


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """A livepatch on klp_patches and its states."""

    patch: str
    states: tuple[State, ...]


class Compatible(Event, frozen=True, kw_only=True, tag="compatible"):
    """klp_is_patch_compatible: the states of the new livepatch and of those installed, and its decision.

    `cut`: there were more livepatches, or more states of one, than the probe tells (16 of each).
    """

    patch: str
    replace: bool
    states: tuple[State, ...]
    installed: tuple[Installed, ...]
    compatible: bool
    cut: bool = False


class StateGet(Event, frozen=True, kw_only=True, tag="state_get"):
    """klp_get_state (of `patch`) or klp_get_prev_state (`patch` is null): the state found, or null."""

    call: Literal["get", "get_prev"]
    patch: str | None
    id: Unsigned
    found: State | None
    caller: str
    task: Task


class Enable(Event, frozen=True, kw_only=True, tag="enable"):
    """klp_enable_patch, with the time of its call."""

    patch: str
    replace: bool
    errno: int
    duration_ns: Nanoseconds


class PatchStack(Event, frozen=True, kw_only=True, tag="patch_stack"):
    """The list klp_patches, lowest first, read when `why` had changed it or was about to.

    `cut`: there were more than the 16 livepatches that the probe tells.
    """

    why: Literal["enable", "complete", "free"]
    patches: tuple[str, ...]
    cut: bool = False


class Replaced(Event, frozen=True, kw_only=True, tag="replaced"):
    """klp_unpatch_replaced_patches: `patch` was replaced by `by`."""

    patch: str
    by: str


class PatchFree(Event, frozen=True, kw_only=True, tag="patch_free"):
    """klp_free_patch_finish. If `forced`, it keeps its reference to the module for good.

    `module_refs` is the module's reference count afterwards.
    """

    patch: str
    forced: bool
    module_refs: int | None


class ModuleNotice(Event, frozen=True, kw_only=True, tag="module"):
    """klp_module_coming or klp_module_going; `livepatch` tells whether the module is one."""

    module: str
    action: Literal["coming", "going"]
    livepatch: bool
    errno: int
    duration_ns: Nanoseconds


class Ran(Event, frozen=True, kw_only=True, tag="ran"):
    """How often tasks of one patch state ran one version of a function in one transition.

    Counted in the kernel. A row counts what came since the row before it, so rows can be added. They are
    written at marks, at the end of the transition, and at the end of the trace. `version`: ``old``, the
    body in `object`, or ``new``, that in `patch`. `patch_state` is the tasks' own, `target` the
    transition's (-1: none was under way). `task` is the first that did so.
    """

    patch: str
    object: str
    function: str
    version: Literal["old", "new"]
    patch_state: int
    target: int
    count: int
    task: Task
