# SPDX-License-Identifier: Apache-2.0
"""Which shadow variables a livepatch leaves behind: its module went, and no other can take them over.

A livepatch that replaces another may go on using its variables, and free them when it goes itself. So what
stands when a module goes is a leak only once no other livepatch is there.
"""

from __future__ import annotations

import re
from functools import cache

from klp.analysis.evidence import Evidence
from klp.analysis.shadow_standing import InHash, Variables
from klp.trace import events as ev

_MODULE = re.compile(r"\[(\w+)\]\s*$")


@cache
def module_of(caller: str) -> str | None:
    """Return the module a caller ``function+0xOFFSET [module]`` lies in; None for the kernel itself."""
    found = _MODULE.search(caller)
    return found[1] if found else None


class Leaks:
    """Follows which livepatches and modules there are.

    Attributes:
        stacks: kernel stacks by their numbers.
        found: what was left behind, in words, each with its events.
    """

    def __init__(self, variables: Variables) -> None:
        self._variables = variables
        self._livepatches: tuple[str, ...] = ()
        self._departed: set[str] = set()
        self._last_going_ns = 0
        self.stacks: dict[int, tuple[str, ...]] = {}
        self.found: list[Evidence] = []

    def take(self, number: int, event: ev.AnyEvent) -> None:
        """Add an event that tells of stacks, livepatches or modules; others are passed by."""
        if isinstance(event, ev.Callers):
            self.stacks[event.stack] = event.frames
        elif isinstance(event, ev.PatchStack):
            self._livepatches = event.patches
        elif isinstance(event, ev.ModuleNotice) and event.action == "going":
            self._departed.add(event.module)
            self._last_going_ns = event.ts_ns
            if all(each == event.module for each in self._livepatches):
                self._left_behind(number, event)
        elif isinstance(event, ev.ModuleNotice):
            self._departed.discard(event.module)

    def take_before(self, event: ev.AnyEvent) -> None:
        """Add an event of before the span that is to be judged."""
        if isinstance(event, ev.Callers | ev.PatchStack):
            self.take(0, event)

    def owner(self, event: ev.ShadowAlloc) -> str | None:
        """Return the module that calls, if need be through the kernel: the nearest one on the stack."""
        if name := module_of(event.caller):
            return name
        return next((name for each in self._frames(event.stack) if (name := module_of(each))), None)

    def _frames(self, stack: int | None) -> tuple[str, ...]:
        return () if stack is None else self.stacks.get(stack, ())

    def _left_behind(self, number: int, event: ev.ModuleNotice) -> None:
        for obj, id_, each in self._variables.certain():
            if each.made and each.owner in self._departed:
                age = (event.ts_ns - each.begun_ns) / 1e9
                words = f"left behind by {each.owner}: <{obj}, {id_}>, {age:.3f} s old, {each.caller}"
                frames = self._frames(each.stack)
                under = f", under {' < '.join(frames[:4])}" if frames else ""
                self.found.append(Evidence(events=(each.number, number), words=words + under))
                each.owner = ""  # told

    def gap(self) -> str:
        """Return why it is not known of a variable, at the end of the trace, whether it is a leak."""
        for obj, id_, each in self._variables.certain():
            if words := self._unknown(each):
                return f"<{obj}, {id_}> is left: {words}"
        for obj, id_, each in self._variables.unsure():
            return f"<{obj}, {id_}>: it was freed before {each.caller} had made it, or another was"
        return ""

    def _unknown(self, one: InHash) -> str:
        if not one.made:
            return ""
        if one.owner is None and one.begun_ns < self._last_going_ns:
            return f"{one.caller}, which made it, is in no module that is known"
        if one.owner in self._departed:
            return (
                f"{one.owner}, which used it last, is gone, and a livepatch that was there then may free it"
            )
        return ""
