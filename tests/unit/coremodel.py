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
from tests.unit.modelwatch import Watcher
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
    callbacks: bool = False
    states: bool = False
    watched: bool = False


KINDS = ("pre_patch", "post_patch", "pre_unpatch", "post_unpatch")
# Equal in low bits, equal in high bits, all ones: klp_state.id is an unsigned long, and never 0.
IDS = (1, 2, 1 << 32 | 1, 2**64 - 1)


@dataclass
class Patch:
    """One livepatch.

    `forced` is klp_patch.forced; `kinds` are the callbacks that each of its objects has, `ready` the
    objects whose klp_callbacks.post_unpatch_enabled is set.
    """

    name: str
    replace: bool = False
    forced: bool = False
    kinds: tuple[str, ...] = ()
    states: tuple[ev.State, ...] = ()
    ready: set[str] = field(default_factory=set)

    def state(self, id_: int) -> ev.State | None:
        """klp_get_state: the first of that id."""
        return next((each for each in self.states if each.id == id_), None)


@dataclass
class Core:
    """The livepatch core, and the machine it runs on."""

    shape: Shape
    chance: random.Random = field(init=False)
    trace: Trace = field(init=False)
    tasks: Tasks = field(init=False)
    watcher: Watcher = field(init=False)
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
        self.watcher = Watcher(self.trace, self.chance)

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
            if self.shape.watched:
                self.watcher.look(self.patches, self.loaded)
                self.watcher.unload_some()
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
        """Load a livepatch's module: its init calls klp_enable_patch."""
        trace = self.trace
        patch = self.loaded_patch(self.name())
        trace.now += 1_000
        loaded_ns = trace.now
        if self.shape.watched:
            self.watcher.loading(patch.name)
        trace.now += 1_000
        errno = self.enable_patch(patch)
        if self.shape.watched:
            trace.now += 1_000
            self.watcher.loaded(patch.name, errno, loaded_ns)
        self.settle(patch, open_end=open_end)

    def name(self) -> str:
        """Return a name for a livepatch: one of its own, or one that another build had before."""
        self._names += 1
        name = f"p{self._names}" if self.chance.random() < 0.7 else f"p{self._names % 2}"
        if name in self.trace.stack or name in self.watcher.pinned:
            return f"p{self._names}"
        if self.shape.watched and name in self.watcher.gone:
            self.watcher.unload(name)
        return name

    def enable_patch(self, patch: Patch) -> int:
        """klp_enable_patch: refused for its states, or by a pre-patch callback, or with a first pass."""
        trace, begun, errno = self.trace, self.trace.now, 0
        if self.shape.states and not self.compatible(patch):
            errno = -22
        else:
            self.patches.append(patch)
            trace.stack.append(patch.name)
            self.init(patch, 1)
            if self._maybe(self.shape.refusals, 0.3):
                errno = -19
                self.refuse(patch)
            else:
                for each in self.names():
                    self.prepare(patch, each)
                self.start(patch)
                self.try_complete(patch)
        trace.put(ev.Enable, at=begun, patch=patch.name, replace=patch.replace, errno=errno,
                  duration_ns=trace.now - begun)  # fmt: skip
        if not errno and patch in self.patches:
            trace.stacked("enable")
        return errno

    def disable(self, patch: Patch, *, open_end: bool) -> None:
        """__klp_disable_patch, to the end of its transition."""
        self.init(patch, 0)
        for each in self.names():
            self.call(patch, "pre_unpatch", each)
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
            if self._maybe(self.shape.watched, 0.2):
                self.watcher.look(self.patches, self.loaded)
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

    # --- callbacks and states ---------------------------------------------------------------------

    def loaded_patch(self, name: str) -> Patch:
        """Return a livepatch as its module has it."""
        kinds = tuple(kind for kind in KINDS if self._maybe(self.shape.callbacks, 0.6))
        ids = [each for each in IDS if self._maybe(self.shape.states, 0.4)]
        states = tuple(ev.State(id=each, version=self.chance.randint(1, 3)) for each in ids)
        return Patch(name, self._maybe(self.shape.replaces, 0.4), kinds=kinds, states=states)

    def compatible(self, patch: Patch) -> bool:
        """klp_is_patch_compatible: system-state.rst, 2."""
        pairs = [(old, patch.state(old.id)) for each in self.patches for old in each.states]
        allowed = all(new.version >= old.version if new else not patch.replace for old, new in pairs)
        installed = tuple(ev.Installed(patch=each.name, states=each.states) for each in self.patches)
        self.trace.put(ev.Compatible, patch=patch.name, replace=patch.replace, states=patch.states,
                       installed=installed, compatible=allowed)  # fmt: skip
        return allowed

    def call(self, patch: Patch, kind: str, name: str, result: int = 0) -> None:
        """Run a callback, if there is one; it may look states up."""
        if kind not in patch.kinds:
            return
        trace = self.trace
        trace.callback(patch.name, kind, name, result)
        if self._maybe(self.shape.states, 0.5):
            id_ = self.chance.choice(IDS)
            trace.put(ev.StateGet, call="get", patch=patch.name, id=id_, found=patch.state(id_),
                      caller=f"{kind} [{patch.name}]", task=SHELL)  # fmt: skip
        if self._maybe(self.shape.states and trace.core.transition_patch == patch.name, 0.5):
            id_ = self.chance.choice(IDS)
            below = [state for each in self.below(patch) if (state := each.state(id_))]
            trace.put(ev.StateGet, call="get_prev", patch=None, id=id_, found=below[-1] if below else None,
                      caller=f"{kind} [{patch.name}]", task=SHELL)  # fmt: skip

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
        for name in self.names():
            self.object(patch, name, action, **fields)

    def object(self, patch: Patch, name: str, action: str, **fields: Any) -> None:
        """klp_patch_object, klp_unpatch_object."""
        self.trace.object(patch.name, name, action, CHANGED, callbacks=patch.kinds, **fields)

    def names(self) -> tuple[str, ...]:
        """Return the objects that are loaded, of those that every livepatch has."""
        return ("vmlinux", "target")[: 1 + self.loaded]

    def prepare(self, patch: Patch, name: str) -> None:
        """Call an object's pre-patch, and patch it, as __klp_enable_patch and klp_module_coming do."""
        self.call(patch, "pre_patch", name)
        patch.ready.add(name)
        self.object(patch, name, "patch")

    def finish(self, patch: Patch, name: str) -> None:
        """klp_post_unpatch_callback: only where klp_pre_patch_callback has allowed it."""
        if name in patch.ready:
            patch.ready.remove(name)
            self.call(patch, "post_unpatch", name)

    def refuse(self, patch: Patch) -> None:
        """klp_cancel_transition, after the object of vmlinux has been patched."""
        trace = self.trace
        self.prepare(patch, "vmlinux")
        if self.loaded:
            self.call(patch, "pre_patch", "target", result=-19)
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
        walk = self.tasks.walk()
        complete = not walk.left
        self.tasks.switch_offline()
        if not complete:
            trace.set_core(signals_cnt=core.signals_cnt + 1)
            if core.signals_cnt and not core.signals_cnt % 15:
                trace.put(ev.Signals, patch=patch.name, core=trace.core)
        else:
            self.complete(patch)
        trace.put(
            ev.Pass, at=begun, patch=patch.name, number=self._number, **walk._asdict(), complete=complete,
            scheduler_refused=0, duration_ns=trace.now - begun, core=core,
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
            self.object(patch, only, "unpatch")
        elif target == 0:
            self.objects(patch, "unpatch")
        self.synchronize()
        self.tasks.to_state(-1)
        self.tasks.act()
        for each in (only,) if only else self.names():
            if target == 1:
                self.call(patch, "post_patch", each)
            else:
                self.finish(patch, each)
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
        self.watcher.freed(patch.name, patch.forced)

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
        action = "coming" if self.loaded else "going"
        what = "patch" if self.loaded else "unpatch"
        for each in self.patches:
            moving = trace.core.transition_patch == each.name
            if what == "patch":
                self.prepare(each, "target")
                if not moving:
                    self.call(each, "post_patch", "target")
            else:
                if not moving:
                    self.call(each, "pre_unpatch", "target")
                self.object(each, "target", "unpatch")
                self.finish(each, "target")
        trace.wait(self.chance.choice((0, 0, 15_000)))
        trace.put(ev.ModuleNotice, at=begun, module="target", action=action, livepatch=False, errno=0,
                  duration_ns=trace.now - begun)  # fmt: skip
        self._due_ns = max(self._due_ns, trace.now)


def correct(shape: Shape) -> Trace:
    """Return a history that a correct kernel may have written."""
    return Core(shape).live()
