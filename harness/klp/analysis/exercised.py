# SPDX-License-Identifier: Apache-2.0
"""What ran of a livepatch over all scenarios on one kernel: its functions, by whom, how often. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from klp.analysis.calls import FunctionCalls
from klp.analysis.words import how_many

# As many callers are kept by name: a background function may have hundreds.
_MOST_CALLERS = 12


class FunctionExercise(msgspec.Struct, frozen=True, kw_only=True):
    """The calls of one new function in all scenarios together.

    Attributes:
        object, old, new: as in `klp.analysis.calls.FunctionCalls`.
        calls: how often it ran.
        tasks: how many tasks called it; those of one guest are not those of another.
        callers: names of tasks with their calls, who called most first.
        scenarios: those in which it ran.
        why_not: why it never ran or could not be counted, in words, where that is known.
    """

    object: str
    old: str
    new: str
    calls: int
    tasks: int
    callers: dict[str, int]
    scenarios: tuple[str, ...]
    why_not: str = ""

    @property
    def name(self) -> str:
        """What it is called; by what it takes the place of where its own name is not known."""
        return self.new or f"the new {self.old}"

    @property
    def unknown(self) -> str:
        """What it means that it never ran, in words."""
        why = f" ({self.why_not})" if self.why_not else ""
        return f"nothing is known of what it does{why}"


class Exercised(msgspec.Struct, frozen=True, kw_only=True):
    """What ran of one livepatch on one kernel.

    Attributes:
        kernel, livepatch: which one; names.
        functions: its new functions; empty where it has none, or where none is known.
        tasks: how many tasks called any of them.
        callbacks_only: it was seen to change no function, so nothing of it is there to be called.
        applies: it can be tried on that kernel; else `why_not` says why it is not for it.
        why_not: why it does not apply; empty where it does.
    """

    kernel: str
    livepatch: str
    functions: tuple[FunctionExercise, ...]
    tasks: int
    callbacks_only: bool = False
    applies: bool = True
    why_not: str = ""

    @property
    def calls(self) -> int:
        """How often its functions ran."""
        return sum(each.calls for each in self.functions)

    @property
    def ran(self) -> tuple[FunctionExercise, ...]:
        """The functions that ran."""
        return tuple(each for each in self.functions if each.calls)

    @property
    def never_ran(self) -> tuple[FunctionExercise, ...]:
        """The functions that no scenario ever ran."""
        return tuple(each for each in self.functions if not each.calls)

    @property
    def seen(self) -> bool:
        """Whether all there is to run was seen to run."""
        return not self.applies or self.callbacks_only or bool(self.functions and not self.never_ran)

    def told(self) -> str:
        """Return it in words: ``exercised 2 of 3 functions, 1,240 calls by 9 tasks``."""
        if not self.applies:
            return f"not tried: {self.why_not}"
        if self.callbacks_only:
            return "changes no function: it has callbacks alone"
        if not self.functions:
            return "no new function of it was counted"
        functions = how_many(len(self.functions), "function")
        calls = f"{how_many(self.calls, 'call')} by {how_many(self.tasks, 'task')}"
        return f"exercised {len(self.ran)} of {functions}" + (f", {calls}" if self.calls else "")


def exercised(
    kernel: str, livepatch: str, counted: Sequence[tuple[str, Sequence[FunctionCalls]]], **more: object
) -> Exercised:
    """Return what ran of a livepatch on a kernel.

    Args:
        counted: the calls that each scenario's guest counted, with the scenario's name; a scenario that
            was repeated stands in it several times.
        more: the other attributes of `Exercised`.
    """
    found: dict[tuple[str, str, str], list[tuple[int, str, FunctionCalls]]] = {}
    for guest, (scenario, calls) in enumerate(counted):
        for each in calls:
            found.setdefault((each.object, each.old, each.new), []).append((guest, scenario, each))
    everyone = {who for own in found.values() for who in _tasks(own)}
    functions = tuple(_of_function(own) for own in found.values())
    whole = Exercised(kernel=kernel, livepatch=livepatch, functions=functions, tasks=len(everyone))
    return msgspec.structs.replace(whole, **more)


def _tasks(own: Iterable[tuple[int, str, FunctionCalls]]) -> set[tuple[int, str, int]]:
    """Return who called a function: each guest has tasks of its own, whatever their names and ids."""
    return {(guest, task.task, task.pid) for guest, _, calls in own for task in calls.tasks if task.calls}


def _of_function(own: Sequence[tuple[int, str, FunctionCalls]]) -> FunctionExercise:
    _, _, first = own[0]
    callers: Counter[str] = Counter()
    for _, _, each in own:
        for task in each.tasks:
            callers[task.task] += task.calls
    calls = sum(each.calls for _, _, each in own)
    reasons = dict.fromkeys(each.uncounted for _, _, each in own if each.uncounted)
    return FunctionExercise(
        object=first.object, old=first.old, new=first.new, calls=calls, tasks=len(_tasks(own)),
        callers=dict(callers.most_common(_MOST_CALLERS)),
        scenarios=tuple(dict.fromkeys(name for _, name, each in own if each.calls)),
        why_not="" if calls else "; ".join(reasons),
    )  # fmt: skip
