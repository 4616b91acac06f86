# SPDX-License-Identifier: Apache-2.0
"""Events of klptransition (kernel/livepatch/transition.c)."""

from __future__ import annotations

from typing import Literal

from klp.trace.events.base import CallbackKind, Core, Event, Nanoseconds, Task


class Init(Event, frozen=True, kw_only=True, tag="init"):
    """klp_init_transition: `target` is 1 to patch and 0 to unpatch; `core` is from before it."""

    patch: str
    target: int
    replace: bool
    task: Task
    core: Core


class Start(Event, frozen=True, kw_only=True, tag="start"):
    """klp_start_transition: TIF_PATCH_PENDING is set on every task that must switch."""

    patch: str
    target: int
    core: Core


class Census(Event, frozen=True, kw_only=True, tag="census"):
    """All tasks counted by task_struct.patch_state, the idle task of every possible CPU included.

    `moment`: ``before_init`` and ``init`` (klp_init_transition entered, returned); ``before_start``
    and ``started`` (klp_start_transition); ``before_complete`` and ``completed``
    (klp_complete_transition); ``forced`` (klp_force_transition returned). `idle`, `unpatched`,
    `patched` and `other` count the tasks in state -1, 0, 1 and any other; `pending` those with
    TIF_PATCH_PENDING; `tasks` all that were walked. `whole` is false where the walk was cut short:
    then the counts prove nothing.
    """

    moment: Literal[
        "before_init", "init", "before_start", "started", "before_complete", "completed", "forced"
    ]
    tasks: int
    idle: int
    unpatched: int
    patched: int
    other: int
    pending: int
    whole: bool
    core: Core


class Pass(Event, frozen=True, kw_only=True, tag="pass"):
    """One klp_try_complete_transition: the `number`-th since init or reversal, counted from 1.

    `attempts` counts its calls of klp_try_switch_task, `left` those that failed, and `already` those that
    found a task in the target state and have no event of their own (see `Attempt`; 0 in traces recorded
    before they were left out). `first_ns` is when the first of its attempts began: null where there was
    none, and in those traces. `complete` tells whether it ended the transition. `scheduler_refused` counts
    the failed attempts of the scheduler since the pass before, which have no events of their own: a busy
    task makes thousands. `core` is from its beginning.
    """

    patch: str
    number: int
    attempts: int
    left: int
    complete: bool
    scheduler_refused: int
    duration_ns: Nanoseconds
    core: Core
    already: int = 0
    first_ns: Nanoseconds | None = None


class Attempt(Event, frozen=True, kw_only=True, tag="attempt"):
    """One klp_try_switch_task of a pass on one task.

    Of those that find the task in the target state already only some have an event, and the others are
    counted in their `Pass`: the first after an event told that the task had stayed behind, or switched by
    itself or by force; and every one of a task that is about to end or is a zombie.

    `result`: ``switched``; ``already`` (it was in the target state); ``running`` (-EBUSY);
    ``unreliable`` stack (-EINVAL); ``sleeping`` in `function`, which this transition changes
    (-EADDRINUSE); ``refused`` where the kernel gives no reason. `errno` is what
    klp_check_and_switch_task returned, `patch_state` and `after` the task's state before and after.
    `awaited_as`: the thread id that this very task had in that event before, which exec may have changed;
    null where there was none, and in traces recorded before it was told.
    """

    task: Task
    result: Literal["switched", "already", "running", "unreliable", "sleeping", "refused"]
    errno: int
    function: str | None
    patch_state: int
    after: int
    duration_ns: Nanoseconds
    awaited_as: int | None = None


class Switch(Event, frozen=True, kw_only=True, tag="switch"):
    """A pending task changed state by another way than an attempt of a pass.

    `path`: ``exit`` to user space, ``idle`` loop, ``scheduler`` (cond_resched on 6.12, __schedule on
    7.2), ``force``, ``offline`` (the idle task of a CPU that is not online, changed in place by a
    pass).
    """

    task: Task
    path: Literal["exit", "idle", "scheduler", "force", "offline"]
    patch_state: int


class Fork(Event, frozen=True, kw_only=True, tag="fork"):
    """klp_copy_process in a transition: states and TIF_PATCH_PENDING of both, at its return."""

    child: Task
    child_state: int
    child_pending: bool
    parent: Task
    parent_state: int
    parent_pending: bool


class Exit(Event, frozen=True, kw_only=True, tag="exit"):
    """A task ended in a transition: it needs to switch no more."""

    task: Task
    patch_state: int
    pending: bool


class Signals(Event, frozen=True, kw_only=True, tag="signals"):
    """klp_send_signals, in pass 16 and every 15th after it: it wakes and signals the tasks that remain."""

    patch: str
    core: Core


class Synchronize(Event, frozen=True, kw_only=True, tag="synchronize"):
    """klp_synchronize_transition: a work item ran on every CPU, which took `duration_ns`."""

    duration_ns: Nanoseconds


class Complete(Event, frozen=True, kw_only=True, tag="complete"):
    """klp_complete_transition, at its beginning; `forced` is the livepatch's klp_patch.forced."""

    patch: str
    target: int
    replace: bool
    forced: bool
    core: Core


class Cancel(Event, frozen=True, kw_only=True, tag="cancel"):
    """klp_cancel_transition: the transition was initialised, and is ended before it was started."""

    patch: str
    core: Core


class Reverse(Event, frozen=True, kw_only=True, tag="reverse"):
    """klp_reverse_transition, at its beginning: `target` is the new one, `core` from before."""

    patch: str
    target: int
    core: Core


class Force(Event, frozen=True, kw_only=True, tag="force"):
    """klp_force_transition, at its beginning."""

    patch: str
    core: Core


class Function(Event, frozen=True, kw_only=True, tag="function"):
    """One klp_func of the object in the next `Object` event: each is told just before it.

    `nop`: added by an atomic replace for a function that is no longer patched. `transition` is
    klp_func.transition, `patched` klp_func.patched, both as the object's patching or unpatching began.
    `position` is klp_func.old_sympos: which of several functions of that name, 0 where there is one (and in
    traces recorded before it was told).
    """

    patch: str
    object: str
    function: str
    nop: bool
    transition: bool
    patched: bool
    position: int = 0


class Object(Event, frozen=True, kw_only=True, tag="object"):
    """klp_patch_object or klp_unpatch_object; `object` is ``vmlinux`` or a module.

    `functions` counts the object's functions, of which at most 32 have `Function` events; `nops_only`:
    only the no-ops among them were taken away. `callbacks`: those that the object has; null in traces
    recorded before they were told.
    """

    patch: str
    object: str
    action: Literal["patch", "unpatch"]
    functions: int
    nops_only: bool
    errno: int
    callbacks: tuple[CallbackKind, ...] | None = None
