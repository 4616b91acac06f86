# SPDX-License-Identifier: Apache-2.0
"""The events that the probes write, one JSON object a line: schema version 2.

`probes/events.schema.json` is made from these classes (``python -m klp.trace.events``) and a test
keeps the two equal. Times are nanoseconds of the guest's CLOCK_MONOTONIC; addresses are hex strings,
because JSON readers lose the low bits of 64-bit numbers; errno values are negative, as in the kernel.
Every event has:

- ``type``: which of the classes below it is;
- ``probe``: the tool that wrote it, such as ``klptransition``; ``klp`` for klp itself, whose
  events say what it did to the guest and what it saw there;
- ``seq``: its number within that tool's output, from 0 without a gap: a gap is a torn stream;
- ``ts_ns``: when it happened (for something that lasts: when it began).
"""

from __future__ import annotations

import json

import msgspec

from klp.trace.events.base import (
    IDLE,
    PATCHED,
    SCHEMA,
    UNPATCHED,
    Core,
    End,
    Event,
    Header,
    Lost,
    Mark,
    Missing,
    Task,
)
from klp.trace.events.core import (
    Callback,
    Compatible,
    Enable,
    Installed,
    ModuleNotice,
    PatchFree,
    PatchStack,
    Ran,
    Replaced,
    State,
    StateGet,
)
from klp.trace.events.lab import (
    Awaited,
    AwaitedTask,
    Behaviour,
    Calls,
    CallsByTask,
    Control,
    LoggedLine,
    PatchStates,
    Plan,
    Step,
    Sysfs,
    SysfsPatch,
    Taint,
)
from klp.trace.events.shadow import (
    Callers,
    ShadowAlloc,
    ShadowFree,
    ShadowFreeAll,
    ShadowFreed,
    ShadowGets,
    ShadowGetWrong,
    ShadowTotals,
)
from klp.trace.events.transition import (
    Attempt,
    Cancel,
    Census,
    Complete,
    Exit,
    Force,
    Fork,
    Function,
    Init,
    Object,
    Pass,
    Reverse,
    Signals,
    Start,
    Switch,
    Synchronize,
)

__all__ = [
    "IDLE",
    "PATCHED",
    "SCHEMA",
    "UNPATCHED",
    "UNREADABLE",
    "AnyEvent",
    "Attempt",
    "Awaited",
    "AwaitedTask",
    "Behaviour",
    "Callback",
    "Callers",
    "Calls",
    "CallsByTask",
    "Cancel",
    "Census",
    "Compatible",
    "Complete",
    "Control",
    "Core",
    "Enable",
    "End",
    "Event",
    "Exit",
    "Force",
    "Fork",
    "Function",
    "HarnessEvent",
    "Header",
    "Init",
    "Installed",
    "LoggedLine",
    "Lost",
    "Mark",
    "Missing",
    "ModuleNotice",
    "Object",
    "Pass",
    "PatchFree",
    "PatchStack",
    "PatchStates",
    "Plan",
    "Ran",
    "Replaced",
    "Reverse",
    "ShadowAlloc",
    "ShadowEvent",
    "ShadowFree",
    "ShadowFreeAll",
    "ShadowFreed",
    "ShadowGetWrong",
    "ShadowGets",
    "ShadowTotals",
    "Signals",
    "Start",
    "State",
    "StateEvent",
    "StateGet",
    "Step",
    "Switch",
    "Synchronize",
    "Sysfs",
    "SysfsPatch",
    "Taint",
    "Task",
    "TransitionEvent",
    "decode",
    "json_schema",
]

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
HarnessEvent = (
    Plan | Step | Sysfs | Behaviour | LoggedLine | Taint | PatchStates | Awaited | Control | Calls
)
AnyEvent = (
    Header | Mark | Lost | End | TransitionEvent | ShadowEvent | Callback | StateEvent | Ran | HarnessEvent
)

_DECODER: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
# What a line that is no event raises: it is torn or of another schema, no UTF-8, nested without end.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode(line: bytes) -> AnyEvent:
    """Read one line.

    Raises:
        one of `UNREADABLE`: it is no event.
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
