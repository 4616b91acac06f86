# SPDX-License-Identifier: Apache-2.0
"""Callbacks that take long: the core calls each with klp_mutex held (kernel/livepatch/core.c). Pure.

klp_module_coming() and klp_module_going() take it for every module, livepatched or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from klp.analysis.history import History
from klp.trace import events as ev

# Below, nobody who loads a module notices.
_WORTH_A_NOTE_S = 1.0


@dataclass(frozen=True, slots=True)
class SlowCallbacks:
    """What is to be told of the time that a livepatch's callbacks took.

    Attributes:
        notes: of those that took more than a second.
        faults: of those that took more than the limit.
    """

    notes: tuple[str, ...]
    faults: tuple[str, ...]


def slow_callbacks(history: History, livepatch: str, limit_s: float) -> SlowCallbacks:
    """Return what there is to tell of a livepatch's callbacks, each in its longest call."""
    longest: dict[tuple[str, str, str], ev.Callback] = {}
    for _, call in history.callbacks.of(livepatch):
        known = longest.setdefault((call.object, call.kind, call.function), call)
        if call.duration_ns > known.duration_ns:
            longest[call.object, call.kind, call.function] = call
    calls = sorted(longest.values(), key=lambda call: -call.duration_ns)
    return SlowCallbacks(
        notes=tuple(_words(calls, _WORTH_A_NOTE_S, limit_s)),
        faults=tuple(f"{line} (limit: {limit_s:g} s)" for line in _words(calls, limit_s)),
    )


def _words(calls: list[ev.Callback], above_s: float, up_to_s: float = float("inf")) -> Iterator[str]:
    for call in calls:
        took_s = call.duration_ns / 1e9
        if above_s < took_s <= up_to_s:
            function = call.function.partition(" ")[0].partition("+")[0]
            kind = call.kind.replace("_", "-")
            # As measured: on a busy or emulated host a callback takes longer than it would elsewhere.
            yield (
                f"its {kind} callback {function} for {call.object} took {took_s:.1f} s, "
                "with klp_mutex held: no module is loaded or removed and no livepatch enabled or disabled "
                "meanwhile"
            )
