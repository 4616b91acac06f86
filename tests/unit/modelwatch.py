# SPDX-License-Identifier: Apache-2.0
"""What klp itself does and sees beside the model of the core: modules, sysfs, commands, the log."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from klp.trace import events as ev
from tests.unit.traces import Trace

# What a livepatch's author says that a command shows, in the words of the rules.
_SHOWN = (("L5",), ("V6", "L5"), ("L2", "L5"))


class Standing(Protocol):
    """A livepatch as the core has it."""

    name: str
    replace: bool


class Watcher:
    """Loads and unloads the modules of livepatches, and looks at them between."""

    def __init__(self, trace: Trace, chance: random.Random) -> None:
        self._trace, self._chance = trace, chance
        self._orders = trace.events[0].kernel.startswith("7.")  # type: ignore[union-attr]
        self.gone: set[str] = set()  # freed, and their modules still there
        self.pinned: set[str] = set()  # freed by force: their modules stay for good

    def loading(self, name: str) -> None:
        """load_module: before its init."""
        self._trace.module(name, "coming", livepatch=True)

    def loaded(self, name: str, errno: int, begun_ns: int) -> None:
        """Tell how an insmod ended; a module whose init failed is gone again."""
        if errno:
            self._trace.module(name, "going", livepatch=True)
            self.gone.discard(name)
        self._step("load", name, errno, begun_ns)

    def freed(self, name: str, forced: bool) -> None:
        """klp_free_patch_finish: its module is let go, unless it was forced."""
        (self.pinned if forced else self.gone).add(name)

    def unload(self, name: str) -> None:
        """delete_module."""
        begun = self._trace.now
        self._trace.module(name, "going", livepatch=True)
        self._step("unload", name, 0, begun)
        self.gone.remove(name)

    def unload_some(self) -> None:
        """Remove modules that are not needed any more, or leave them for later."""
        for name in sorted(self.gone):
            self._trace.wait(1)
            if self._chance.random() < 0.7:
                self.unload(name)

    def _step(self, action: str, name: str, errno: int, begun_ns: int) -> None:
        self._trace.put(ev.Step, action=action, subject=name, errno=errno,
                        duration_ns=self._trace.now - begun_ns)  # fmt: skip

    def look(self, patches: Sequence[Standing], module_loaded: bool) -> None:
        """Read sysfs, which takes a while, and run what an author wants to be shown."""
        trace, core = self._trace, self._trace.core
        begun = trace.now
        trace.wait(200)
        shown = []
        for place, each in enumerate(patches, 1):
            moving = each.name == core.transition_patch
            shown.append(
                ev.SysfsPatch(
                    name=each.name, enabled=core.enabled is True if moving else True, transition=moving,
                    replace=each.replace, stack_order=place if self._orders else None,
                    objects={"vmlinux": True, "target": module_loaded},
                )
            )  # fmt: skip
        trace.put(ev.Sysfs, patches=tuple(shown), begun_ns=begun, ended_ns=trace.now)
        for each in patches:
            trace.put(
                ev.Behaviour, patch=each.name, moment="enabled", command="cat /proc/cmdline",
                pattern="patched", output="live patched", held=True, rules=self._chance.choice(_SHOWN),
            )  # fmt: skip
        trace.put(ev.LoggedLine, text="livepatch: enabling patch", expected=None)
        trace.put(ev.Taint, flags="OEK")
