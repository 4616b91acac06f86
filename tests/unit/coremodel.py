# SPDX-License-Identifier: Apache-2.0
"""A small model of the livepatch core's transitions, which writes what the probes would.

It does what kernel/livepatch/transition.c does, step by step, with tasks that fork, end, call exec and
switch by themselves meanwhile; chance decides what comes next. What it writes, a correct kernel may write.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import msgspec

from klp.trace import events as ev
from tests.unit.modeltasks import Tasks
from tests.unit.traces import SHELL, Trace

CHANGED = ("cmdline_proc_show", "other_show")


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What a history may have in it: less of everything makes a smaller one."""

    seed: int
    lives: int = 3
    tasks: int = 4
    patience: int = 3
    births: bool = False
    deaths: bool = False
    execs: bool = False
    races: bool = False
    modules: bool = False
    reversals: bool = False
    forces: bool = False
    replaces: bool = False
    refusals: bool = False
    waits_seen: bool = True
    open_end: bool = False


@dataclass
class Patch:
    """One livepatch; `forced` is klp_patch.forced."""

    name: str
    replace: bool = False
    forced: bool = False


@dataclass
class Core:
    """The livepatch core, and the machine it runs on."""

    shape: Shape
    chance: random.Random = field(init=False)
    trace: Trace = field(init=False)
    tasks: Tasks = field(init=False)
    patches: list[Patch] = field(default_factory=list)
    loaded: bool = False  # a module that every livepatch has an object for
    _names: int = 0
    _number: int = 0
    _due_ns: int = 0
    _needed: dict[tuple[str, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.shape.seed)
        kernel, scheduler = self.chance.choice(
            (("6.1.0", False), ("5.14.0-503.el9", True), ("6.12.117", True), ("7.2.12", True))
        )
        self.trace = Trace(kernel)
        self.trace.events[0] = msgspec.structs.replace(self.trace.events[0], scheduler_switch=scheduler)
        self.trace.tasks.clear()
        self.tasks = Tasks(self.shape, self.chance, self.trace, scheduler=scheduler)

    # --- lives ------------------------------------------------------------------------------------

    def live(self) -> Trace:
        """Let livepatches come and go; return the trace."""
        for turn in range(self.shape.lives):
            self.tasks.act()
            last = turn == self.shape.lives - 1
            if self._maybe(self.shape.modules, 0.3):
                self.module()
            if self.patches and self._maybe(True, 0.5):
                self.disable(self.chance.choice(self.patches), open_end=last and self.shape.open_end)
            else:
                self.enable(open_end=last and self.shape.open_end)
            self.trace.wait(self.chance.randint(1, 3_000))
            if self.chance.random() < 0.2:
                self.trace.put(ev.Mark, probe="klptransition", number=turn + 1)
        for (patch, target), passes in self._needed.items():
            if self._maybe(True, 0.5):  # a guest without probes needed as many passes, or more
                self.trace.put(ev.Control, patch=patch, target=target, duration_ns=1_000,
                               passes=passes + self.chance.randint(0, 2))  # fmt: skip
        return self.trace.end()

    def _maybe(self, wanted: bool, likely: float) -> bool:
        return wanted and self.chance.random() < likely

    def enable(self, *, open_end: bool) -> None:
        """klp_enable_patch: with a pre-patch callback that fails, or to the end of its transition."""
        trace = self.trace
        self._names += 1
        name = f"p{self._names}" if self.chance.random() < 0.7 else f"p{self._names % 2}"
        if name in trace.stack:
            name = f"p{self._names}"
        patch = Patch(name, replace=self._maybe(self.shape.replaces, 0.4))
        trace.now += 1_000
        begun = trace.now
        trace.stack.append(name)
        trace.stacked("enable")
        self.patches.append(patch)
        self.init(patch, 1)
        refused = self._maybe(self.shape.refusals, 0.3)
        if refused:
            self.refuse(patch)
        else:
            self.objects(patch, "patch")
            self.start(patch)
            self.try_complete(patch)
        errno = -19 if refused else 0
        trace.put(ev.Enable, at=begun, patch=name, replace=patch.replace, errno=errno,
                  duration_ns=trace.now - begun)  # fmt: skip
        self.settle(patch, open_end=open_end)

    def disable(self, patch: Patch, *, open_end: bool) -> None:
        """__klp_disable_patch, to the end of its transition."""
        self.init(patch, 0)
        self.start(patch)
        self.try_complete(patch)
        self.settle(patch, open_end=open_end)

    def settle(self, patch: Patch, *, open_end: bool) -> None:
        """Let time pass until the transition has come to its end, if it does."""
        trace, tries = self.trace, 0
        while trace.core.transition_patch:
            if open_end and tries:
                return
            self.tasks.act()
            if self._maybe(self.shape.modules, 0.1):
                self.module()
            if self._maybe(self.shape.reversals and tries < 4, 0.3):
                self.reverse(patch)
                self.tasks.act()
            elif self._maybe(self.shape.forces, 0.15):
                self.force(patch)
            trace.now = max(trace.now + 1_000, self._due_ns)
            tries += 1
            if tries > self.shape.patience:
                self.tasks.release()
            self.try_complete(patch)

    # --- steps of a transition --------------------------------------------------------------------

    def init(self, patch: Patch, target: int) -> None:
        """klp_init_transition."""
        trace = self.trace
        trace.put(ev.Init, patch=patch.name, target=target, replace=patch.replace, task=SHELL,
                  core=trace.core)  # fmt: skip
        self.tasks.census("before_init")
        trace.set_core(target_state=target, transition_patch=patch.name, enabled=not target)
        self.tasks.to_state(1 - target)
        self._number = 0
        self.tasks.census("init")
        self.tasks.act()

    def objects(self, patch: Patch, action: str, **fields: Any) -> None:
        """klp_patch_objects, klp_unpatch_objects."""
        for name in ("vmlinux", "target")[: 1 + self.loaded]:
            self.trace.object(patch.name, name, action, CHANGED, **fields)

    def refuse(self, patch: Patch) -> None:
        """klp_cancel_transition, after the object of vmlinux has been patched."""
        trace = self.trace
        trace.object(patch.name, functions=CHANGED)
        trace.put(ev.Cancel, patch=patch.name, core=trace.core)
        trace.set_core(target_state=0)
        self.complete(patch, only="vmlinux")
        self.free(patch)

    def start(self, patch: Patch) -> None:
        """klp_start_transition."""
        trace = self.trace
        trace.put(ev.Start, patch=patch.name, target=trace.core.target_state, core=trace.core)
        self.tasks.census("before_start")
        self.tasks.act()
        self.tasks.mark_pending()
        self.tasks.act()
        self.tasks.census("started")
        trace.set_core(signals_cnt=0, enabled=trace.core.target_state == 1)
        self._number = 0

    def try_complete(self, patch: Patch) -> None:
        """klp_try_complete_transition."""
        trace = self.trace
        self._number += 1
        trace.now += 1_000
        begun, core = trace.now, trace.core
        self.tasks.act()
        attempts, left = self.tasks.walk()
        complete = not left
        self.tasks.switch_offline()
        if not complete:
            trace.set_core(signals_cnt=core.signals_cnt + 1)
            if core.signals_cnt and not core.signals_cnt % 15:
                trace.put(ev.Signals, patch=patch.name, core=trace.core)
        else:
            self.complete(patch)
        trace.put(
            ev.Pass, at=begun, patch=patch.name, number=self._number, attempts=attempts, left=left,
            complete=complete, scheduler_refused=0, duration_ns=trace.now - begun, core=core,
        )  # fmt: skip
        self._due_ns = trace.now + self.chance.randint(750, 1_750) * 1_000_000
        if complete:
            self.free_ended(patch, core.target_state)
            same = (patch.name, core.target_state)
            self._needed[same] = max(self._number, self._needed.get(same, 0))

    def complete(self, patch: Patch, only: str = "") -> None:
        """klp_complete_transition."""
        trace = self.trace
        target = trace.core.target_state
        trace.put(ev.Complete, patch=patch.name, target=target, replace=patch.replace, forced=patch.forced,
                  core=trace.core)  # fmt: skip
        self.tasks.census("before_complete")
        self.tasks.act()
        if patch.replace and target == 1:
            for each in self.below(patch):
                trace.put(ev.Replaced, patch=each.name, by=patch.name)
                self.objects(each, "unpatch", transition=False)
        if not only:
            self.ran(patch, target)
        if target == 0 and only:
            trace.object(patch.name, only, "unpatch", CHANGED)
        elif target == 0:
            self.objects(patch, "unpatch")
        self.synchronize()
        self.tasks.to_state(-1)
        self.tasks.act()
        trace.set_core(target_state=-1, transition_patch=None, enabled=None)
        self.tasks.census("completed")

    def ran(self, patch: Patch, target: int) -> None:
        """klp_ftrace_handler, as klpconsistency counts which version of a function it chose."""
        for version, state in (("old", 0), ("new", 1)):
            if self.chance.random() < 0.5:
                self.trace.put(
                    ev.Ran, patch=patch.name, object="vmlinux", function=CHANGED[0], version=version,
                    patch_state=state, target=target, count=2, task=SHELL,
                )  # fmt: skip

    def free_ended(self, patch: Patch, target: int) -> None:
        """klp_free_patch_async, klp_free_replaced_patches_async."""
        ended = [patch] if target == 0 else self.below(patch) if patch.replace else []
        self.trace.stacked("complete")
        for each in ended:
            self.free(each)

    def free(self, patch: Patch) -> None:
        """klp_free_patch_finish."""
        self.patches.remove(patch)
        self.trace.freed(patch.name, patch.forced)

    def below(self, patch: Patch) -> list[Patch]:
        """Return those that a cumulative livepatch replaces."""
        return self.patches[: self.patches.index(patch)]

    def synchronize(self) -> None:
        """klp_synchronize_transition."""
        self.tasks.act()
        if self.shape.waits_seen:
            self.trace.put(ev.Synchronize, duration_ns=1_000)

    def reverse(self, patch: Patch) -> None:
        """klp_reverse_transition."""
        trace = self.trace
        target = 1 - trace.core.target_state
        trace.put(ev.Reverse, patch=patch.name, target=target, core=trace.core)
        self.tasks.act()
        self.tasks.clear_pending()
        self.synchronize()
        trace.set_core(target_state=target, enabled=target == 1)
        self.start(patch)

    def force(self, patch: Patch) -> None:
        """klp_force_transition."""
        trace = self.trace
        trace.put(ev.Force, patch=patch.name, core=trace.core)
        self.tasks.force()
        if trace.core.target_state == 0:
            patch.forced = True
        elif patch.replace:
            for each in self.patches:
                each.forced = each.forced or each is not patch
        self.tasks.act()
        self.tasks.census("forced")

    def module(self) -> None:
        """klp_module_coming, klp_module_going: each under klp_mutex."""
        trace = self.trace
        trace.now += 1_000
        begun = trace.now
        self.loaded = not self.loaded
        action, what = ("coming", "patch") if self.loaded else ("going", "unpatch")
        for each in self.patches:
            trace.object(each.name, "target", what, CHANGED)
        trace.wait(self.chance.choice((0, 0, 15_000)))
        trace.put(ev.ModuleNotice, at=begun, module="target", action=action, livepatch=False, errno=0,
                  duration_ns=trace.now - begun)  # fmt: skip
        self._due_ns = max(self._due_ns, trace.now)


def correct(shape: Shape) -> Trace:
    """Return a history that a correct kernel may have written."""
    return Core(shape).live()
