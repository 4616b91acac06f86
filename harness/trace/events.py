# SPDX-License-Identifier: Apache-2.0
"""The events that the probes write, one JSON object a line: schema version 2.

`probes/events.schema.json` is made from these classes (``python -m harness.trace.events``) and a test
keeps the two equal. Times are nanoseconds of the guest's CLOCK_MONOTONIC; addresses are hex strings,
because JSON readers lose the low bits of 64-bit numbers; errno values are negative, as in the kernel.
Every event has:

- ``type``: which of the classes below it is;
- ``probe``: the tool that wrote it, such as ``klptransition``; ``klp`` is the harness itself, whose
  events say what it did to the guest and what it saw there;
- ``seq``: its number within that tool's output, from 0 without a gap: a gap is a torn stream;
- ``ts_ns``: when it happened (for something that lasts: when it began).
"""

from __future__ import annotations

import json
import sys
from typing import Literal

import msgspec

SCHEMA = 2

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


class Core(msgspec.Struct, frozen=True, kw_only=True):
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

    `attempts` counts its calls of klp_try_switch_task, `left` those that failed; `complete` tells
    whether it ended the transition. `scheduler_refused` counts the failed attempts of the scheduler
    since the pass before, which have no events of their own: a busy task makes thousands.
    `core` is from its beginning.
    """

    patch: str
    number: int
    attempts: int
    left: int
    complete: bool
    scheduler_refused: int
    duration_ns: int
    core: Core


class Attempt(Event, frozen=True, kw_only=True, tag="attempt"):
    """One klp_try_switch_task of a pass on one task.

    `result`: ``switched``; ``already`` (it was in the target state); ``running`` (-EBUSY);
    ``unreliable`` stack (-EINVAL); ``sleeping`` in `function`, which this transition changes
    (-EADDRINUSE); ``refused`` where the kernel gives no reason. `errno` is what
    klp_check_and_switch_task returned, `patch_state` and `after` the task's state before and after.
    """

    task: Task
    result: Literal["switched", "already", "running", "unreliable", "sleeping", "refused"]
    errno: int
    function: str | None
    patch_state: int
    after: int
    duration_ns: int


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
    """klp_send_signals: the core woke and signalled the tasks that remain (every 15th pass)."""

    patch: str
    core: Core


class Synchronize(Event, frozen=True, kw_only=True, tag="synchronize"):
    """klp_synchronize_transition: a work item ran on every CPU, which took `duration_ns`."""

    duration_ns: int


class Complete(Event, frozen=True, kw_only=True, tag="complete"):
    """klp_complete_transition, at its beginning; `forced` is the livepatch's klp_patch.forced."""

    patch: str
    target: int
    replace: bool
    forced: bool
    core: Core


class Cancel(Event, frozen=True, kw_only=True, tag="cancel"):
    """klp_cancel_transition: it was initialised and never started."""

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
    """

    patch: str
    object: str
    function: str
    nop: bool
    transition: bool
    patched: bool


class Object(Event, frozen=True, kw_only=True, tag="object"):
    """klp_patch_object or klp_unpatch_object; `object` is ``vmlinux`` or a module.

    `functions` counts the object's functions (no more than 32 have `Function` events); `nops_only`:
    of them only the no-ops were taken away.
    """

    patch: str
    object: str
    action: Literal["patch", "unpatch"]
    functions: int
    nops_only: bool
    errno: int


# --- klpshadow (kernel/livepatch/shadow.c) ----------------------------------------------------------


class ShadowAlloc(Event, frozen=True, kw_only=True, tag="shadow_alloc"):
    """klp_shadow_alloc or klp_shadow_get_or_alloc; `call` says which.

    `result`: ``made``; ``found`` (get_or_alloc of an existing one); ``exists`` (alloc of one, an
    error); ``failed`` (no memory, or the constructor refused). `variable` is the data's address, null
    where there is none. `ctor` tells whether a constructor was given, `ctor_calls` how often it ran in
    this call, `ctor_result` what it returned at last. `zeroed`, of one made without a constructor: all
    of the data's first 64 bytes were 0 (null where that was not looked at). `caller` is
    ``function+0xOFFSET [module]``; `stack` is the number of a `Callers` event, null where there is none.
    """

    call: Literal["alloc", "get_or_alloc"]
    obj: str
    id: int
    size: int
    flags: int
    ctor: bool
    ctor_calls: int
    ctor_result: int | None
    result: Literal["made", "found", "exists", "failed"]
    variable: str | None
    zeroed: bool | None
    caller: str
    stack: int | None
    duration_ns: int
    task: Task


class Callers(Event, frozen=True, kw_only=True, tag="callers"):
    """A kernel stack, told once, before the first event that names it; innermost frame first."""

    stack: int
    frames: tuple[str, ...]


class ShadowFree(Event, frozen=True, kw_only=True, tag="shadow_free"):
    """klp_shadow_free, with the time of its call; `freed` tells whether there was such a variable."""

    obj: str
    id: int
    dtor: bool
    freed: bool
    caller: str
    task: Task


class ShadowFreeAll(Event, frozen=True, kw_only=True, tag="shadow_free_all"):
    """klp_shadow_free_all, with the time of its call: `count` variables of `id` were freed by it."""

    id: int
    dtor: bool
    count: int
    duration_ns: int
    caller: str
    task: Task


class ShadowFreed(Event, frozen=True, kw_only=True, tag="shadow_freed"):
    """klp_shadow_free_struct: one variable left the hash; `age_ns` is null if older than the trace.

    `dtor` tells whether a destructor was given, `dtor_calls` how often it ran for this variable.
    """

    obj: str
    id: int
    variable: str
    age_ns: int | None
    dtor: bool
    dtor_calls: int


class ShadowGets(Event, frozen=True, kw_only=True, tag="shadow_gets"):
    """klp_shadow_get calls of one id since the trace began, counted in the kernel.

    `found` returned the variable that was there; `absent` NULL where there was none; `racing` began
    before and ended after a change of that variable, so either answer is right; `wrong` are told one
    by one in `ShadowGetWrong`; `unknown` found one that is older than the trace.
    """

    id: int
    found: int
    absent: int
    racing: int
    wrong: int
    unknown: int


class ShadowGetWrong(Event, frozen=True, kw_only=True, tag="shadow_get_wrong"):
    """A klp_shadow_get that returned something else than the variable that was there; null is NULL."""

    obj: str
    id: int
    returned: str | None
    expected: str | None
    caller: str
    task: Task


class ShadowTotals(Event, frozen=True, kw_only=True, tag="shadow_totals"):
    """What the kernel side counted since the trace began: exact even where events were lost."""

    made: int
    found: int
    exists: int
    failed: int
    freed: int


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


# --- klpstates (kernel/livepatch/core.c, state.c) ---------------------------------------------------


class State(msgspec.Struct, frozen=True, kw_only=True):
    """One klp_state of a livepatch."""

    id: int
    version: int


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """A livepatch on klp_patches and its states."""

    patch: str
    states: tuple[State, ...]


class Compatible(Event, frozen=True, kw_only=True, tag="compatible"):
    """klp_is_patch_compatible: the states of both sides, and what it decided."""

    patch: str
    replace: bool
    states: tuple[State, ...]
    installed: tuple[Installed, ...]
    compatible: bool


class StateGet(Event, frozen=True, kw_only=True, tag="state_get"):
    """klp_get_state (of `patch`) or klp_get_prev_state (`patch` is null): the state found, or null."""

    call: Literal["get", "get_prev"]
    patch: str | None
    id: int
    found: State | None
    caller: str
    task: Task


class Enable(Event, frozen=True, kw_only=True, tag="enable"):
    """klp_enable_patch, with the time of its call."""

    patch: str
    replace: bool
    errno: int
    duration_ns: int


class PatchStack(Event, frozen=True, kw_only=True, tag="patch_stack"):
    """klp_patches, lowest first, after `why` changed it or was about to."""

    why: Literal["enable", "complete", "free"]
    patches: tuple[str, ...]


class Replaced(Event, frozen=True, kw_only=True, tag="replaced"):
    """klp_unpatch_replaced_patches: `patch` was replaced by `by`."""

    patch: str
    by: str


class PatchFree(Event, frozen=True, kw_only=True, tag="patch_free"):
    """klp_free_patch_finish: `forced` keeps the module pinned; `module_refs` is its count after."""

    patch: str
    forced: bool
    module_refs: int | None


class ModuleNotice(Event, frozen=True, kw_only=True, tag="module"):
    """klp_module_coming or klp_module_going; `livepatch` tells whether the module is one."""

    module: str
    action: Literal["coming", "going"]
    livepatch: bool
    errno: int
    duration_ns: int


# --- klpconsistency (klp_ftrace_handler's choice, seen from the functions themselves) ---------------


class Ran(Event, frozen=True, kw_only=True, tag="ran"):
    """How often tasks of one patch state ran one version of a function in one transition.

    Counted in the kernel, written at the end of the transition and of the trace. `version`: ``old``,
    the body in `object`, or ``new``, that of `patch`. `patch_state` is the tasks' own, `target` the
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


# --- klp, the harness: what it did, and what it saw ---------------------------------------------------


class Plan(Event, frozen=True, kw_only=True, tag="plan"):
    """A plan or scenario begins or ends; `livepatch` is the module under test, empty for none."""

    name: str
    livepatch: str
    moment: Literal["begin", "end"]


class Step(Event, frozen=True, kw_only=True, tag="step"):
    """One thing the harness did, with the time of its end.

    `action`: ``load``, ``unload``, ``enable``, ``disable``, ``reverse``, ``force`` (through sysfs);
    `subject`: a module. `errno` is 0, or the negative errno with which the kernel refused.
    """

    action: Literal["load", "unload", "enable", "disable", "reverse", "force"]
    subject: str
    errno: int
    duration_ns: int


class SysfsPatch(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of /sys/kernel/livepatch; null where this kernel has no such file."""

    name: str
    enabled: bool
    transition: bool
    replace: bool | None
    stack_order: int | None
    objects: dict[str, bool | None]


class Sysfs(Event, frozen=True, kw_only=True, tag="sysfs"):
    """/sys/kernel/livepatch at a moment when no transition was being begun or ended by the harness."""

    patches: tuple[SysfsPatch, ...]


class Behaviour(Event, frozen=True, kw_only=True, tag="behaviour"):
    """A command was run in the guest, and its output held against a pattern (L5).

    `rules` are those the author says this observation shows.
    """

    patch: str
    moment: str
    command: str
    pattern: str
    output: str
    held: bool
    rules: tuple[str, ...]


class KernelLog(Event, frozen=True, kw_only=True, tag="log"):
    """A line of the kernel's log; `expected` is the reason why an alarming one is no alarm, or null."""

    text: str
    expected: str | None


class Taint(Event, frozen=True, kw_only=True, tag="taint"):
    """The kernel's taint flags, as letters in the order of their bits, such as ``OEK``."""

    flags: str


class PatchStates(Event, frozen=True, kw_only=True, tag="patch_states"):
    """A sample of /proc/PID/task/TID/patch_state: thread id (as a string) to state."""

    tasks: dict[str, int]


class Control(Event, frozen=True, kw_only=True, tag="control"):
    """The same transition in a guest without probes, by that guest's kernel log (T14).

    `passes` follows from the time between the log's start and completion lines: the core tries once at
    once and then about every second.
    """

    patch: str
    target: int
    passes: int
    duration_ns: int


TransitionEvent = (
    Init
    | Start
    | Census
    | Pass
    | Attempt
    | Switch
    | Fork
    | Exit
    | Signals
    | Synchronize
    | Complete
    | Cancel
    | Reverse
    | Force
    | Function
    | Object
)
ShadowEvent = (
    ShadowAlloc
    | Callers
    | ShadowFree
    | ShadowFreeAll
    | ShadowFreed
    | ShadowGets
    | ShadowGetWrong
    | ShadowTotals
)
StateEvent = Compatible | StateGet | Enable | PatchStack | Replaced | PatchFree | ModuleNotice
HarnessEvent = Plan | Step | Sysfs | Behaviour | KernelLog | Taint | PatchStates | Control
AnyEvent = (
    Header | Mark | Lost | End | TransitionEvent | ShadowEvent | Callback | StateEvent | Ran | HarnessEvent
)

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
