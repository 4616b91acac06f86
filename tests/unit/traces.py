# SPDX-License-Identifier: Apache-2.0
"""Traces made by hand, event by event, as the probes would write them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from klp.trace import events as ev

E = TypeVar("E", bound=ev.AnyEvent)
MS = 1_000_000
PROBES = ("klptransition", "klpshadow", "klpcallbacks", "klpstates", "klpconsistency")
SHELL = ev.Task(pid=100, tgid=100, comm="insmod")

_OF = {
    "klptransition": (
        ev.Init, ev.Start, ev.Census, ev.Pass, ev.Attempt, ev.Switch, ev.Fork, ev.Exit, ev.Signals,
        ev.Synchronize, ev.Complete, ev.Cancel, ev.Reverse, ev.Force, ev.Function, ev.Object,
    ),
    "klpshadow": (
        ev.ShadowAlloc, ev.Callers, ev.ShadowFree, ev.ShadowFreeAll, ev.ShadowFreed, ev.ShadowGets,
        ev.ShadowGetWrong, ev.ShadowTotals,
    ),
    "klpcallbacks": (ev.Callback,),
    "klpstates": (
        ev.Compatible, ev.StateGet, ev.Enable, ev.PatchStack, ev.Replaced, ev.PatchFree, ev.ModuleNotice,
    ),
    "klpconsistency": (ev.Ran,),
    "klp": (
        ev.Plan, ev.Step, ev.Sysfs, ev.Behaviour, ev.LoggedLine, ev.Taint, ev.PatchStates, ev.Awaited,
        ev.Control, ev.Calls,
    ),
}  # fmt: skip
PROBE = {kind: probe for probe, kinds in _OF.items() for kind in kinds}


def task(pid: int, comm: str = "", tgid: int | None = None) -> ev.Task:
    return ev.Task(pid=pid, tgid=pid if tgid is None else tgid, comm=comm or f"task{pid}")


class Trace:
    """A trace that grows; its clock moves a microsecond with each event."""

    def __init__(self, kernel: str = "6.12.117", probes: tuple[str, ...] = PROBES) -> None:
        self.now = 1_000 * MS
        self.events: list[ev.AnyEvent] = []
        self._seq: Counter[str] = Counter()
        self.core = ev.Core(target_state=-1, transition_patch=None, signals_cnt=0, enabled=None)
        self.tasks: dict[int, int] = {}
        self.pending: set[int] = set()
        self.stack: list[str] = []
        self._passes = 0
        for probe in probes:
            self.put(ev.Header, probe=probe, schema=ev.SCHEMA, kernel=kernel, attached=(), missing=())
        for pid in (0, 1, 2, 3):
            self.tasks[pid] = -1

    def put(self, kind: type[E], /, *, probe: str = "", at: int | None = None, **fields: Any) -> E:
        """Add an event; `at` is its time, else now."""
        name = probe or PROBE[kind]
        self.now += 1_000
        event = kind(probe=name, seq=self._seq[name], ts_ns=self.now if at is None else at, **fields)
        self._seq[name] += 1
        self.events.append(event)
        return event

    def wait(self, ms: float) -> None:
        self.now += int(ms * MS)

    def end(self) -> Trace:
        for probe in [each for each in self._seq if each != "klp"]:
            self.put(ev.End, probe=probe, events=self._seq[probe], lost=0)
        return self

    def numbered(self) -> list[tuple[int, ev.AnyEvent]]:
        """Return the events as they would be read: in the order of time."""
        return sorted(enumerate(self.events, 1), key=lambda each: each[1].ts_ns)

    def write(self, file: Path) -> Path:
        file.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in self.events))
        return file

    # --- a transition, step by step ---------------------------------------------------------------

    def set_core(self, **changes: Any) -> None:
        self.core = msgspec.structs.replace(self.core, **changes)

    def census(self, moment: str) -> ev.Census:
        states = Counter(self.tasks.values())
        return self.put(
            ev.Census, moment=moment, tasks=len(self.tasks), idle=states[-1], unpatched=states[0],
            patched=states[1], other=0, pending=len(self.pending), whole=True, core=self.core,
        )  # fmt: skip

    def init(self, patch: str, target: int, replace: bool = False) -> None:
        self.put(ev.Init, patch=patch, target=target, replace=replace, task=SHELL, core=self.core)
        self.census("before_init")
        self.set_core(target_state=target, transition_patch=patch, enabled=not target)
        self.tasks = dict.fromkeys(self.tasks, 1 - target)
        self._passes = 0
        self.census("init")

    def object(
        self,
        patch: str,
        name: str = "vmlinux",
        action: str = "patch",
        functions: tuple[str, ...] = ("cmdline_proc_show",),
        **fields: Any,
    ) -> None:
        known = {"errno": 0, "nops_only": False, **fields}
        transition = known.pop("transition", self.core.transition_patch == patch)
        nops = known.pop("nops", ())
        for each in functions:
            function, _, position = each.partition(",")
            self.put(
                ev.Function, patch=patch, object=name, function=function, nop=each in nops,
                transition=transition, patched=action == "unpatch", position=int(position or 0),
            )  # fmt: skip
        self.put(ev.Object, patch=patch, object=name, action=action, functions=len(functions), **known)

    def start(self) -> None:
        core = self.core
        self.put(ev.Start, patch=core.transition_patch, target=core.target_state, core=core)
        self.census("before_start")
        self.pending = {pid for pid, state in self.tasks.items() if state != core.target_state}
        self.set_core(signals_cnt=0, enabled=core.target_state == 1)
        self.census("started")
        self._passes = 0

    def comm(self, pid: int) -> str:
        return f"task{pid}" if pid else "swapper/0"

    def switched(self, pid: int) -> None:
        self.tasks[pid] = self.core.target_state
        self.pending.discard(pid)

    def attempt(self, pid: int, result: str = "switched", function: str | None = None) -> None:
        before = self.tasks[pid]
        if result == "switched":
            self.switched(pid)
        errno = {"switched": 0, "already": 0, "running": -16, "unreliable": -22, "sleeping": -98}[result]
        self.put(
            ev.Attempt, task=task(pid, self.comm(pid)), result=result, errno=errno, function=function,
            patch_state=before, after=self.tasks[pid], duration_ns=500,
        )  # fmt: skip

    def switch(self, pid: int, path: str = "exit") -> None:
        self.switched(pid)
        self.put(ev.Switch, task=task(pid, self.comm(pid)), path=path, patch_state=self.tasks[pid])

    @contextmanager
    def try_all(self, failing: dict[int, tuple[str, str | None]] | None = None) -> Iterator[None]:
        """Make one pass; what stands in the block happens at its end, within it."""
        failing = {pid: how for pid, how in (failing or {}).items() if pid in self.pending}
        self._passes += 1
        begun, core, number = self.now + 1_000, self.core, self._passes
        self.now = begun
        tried = [pid for pid, state in self.tasks.items() if state != core.target_state]
        for pid in tried:
            self.attempt(pid, *failing.get(pid, ("switched", None)))
        if failing:
            self.set_core(signals_cnt=core.signals_cnt + 1)
        yield
        self.put(
            ev.Pass, at=begun, patch=core.transition_patch, number=number, attempts=len(self.tasks),
            left=len(failing), complete=not failing, scheduler_refused=0, duration_ns=self.now - begun,
            core=core,
        )  # fmt: skip

    def try_once(self, failing: dict[int, tuple[str, str | None]] | None = None) -> None:
        with self.try_all(failing):
            pass

    @contextmanager
    def completing(self, replace: bool = False, forced: bool = False) -> Iterator[None]:
        core = self.core
        self.put(
            ev.Complete, patch=core.transition_patch, target=core.target_state, replace=replace,
            forced=forced, core=core,
        )  # fmt: skip
        self.census("before_complete")
        yield
        self.tasks = dict.fromkeys(self.tasks, -1)
        self.set_core(target_state=-1, transition_patch=None, enabled=None)
        self.census("completed")

    def callback(self, patch: str, kind: str, name: str = "vmlinux", result: int = 0) -> None:
        self.put(
            ev.Callback, patch=patch, object=name, kind=kind, function=f"{kind}_callback",
            result=result if kind == "pre_patch" else None, duration_ns=200, task=SHELL,
        )  # fmt: skip

    def stacked(self, why: str) -> None:
        self.put(ev.PatchStack, why=why, patches=tuple(self.stack))

    # --- whole stretches of a life ----------------------------------------------------------------

    def begin_enabling(self, patch: str, replace: bool = False, **fields: Any) -> None:
        """Init, pre-patch callback, the object, and the start."""
        self.stack.append(patch)
        self.stacked("enable")
        self.init(patch, 1, replace)
        self.callback(patch, "pre_patch")
        self.object(patch, **fields)
        self.start()

    def enable(self, patch: str, replace: bool = False, **fields: Any) -> None:
        """klp_enable_patch, with one pass that switches all."""
        begun = self.now = self.now + 1_000
        self.begin_enabling(patch, replace, **fields)
        with self.try_all(), self.completing(replace):
            self.callback(patch, "post_patch")
        self.stacked("complete")
        self.put(ev.Enable, at=begun, patch=patch, replace=replace, errno=0, duration_ns=self.now - begun)

    def begin_disabling(self, patch: str) -> None:
        self.init(patch, 0)
        self.callback(patch, "pre_unpatch")
        self.start()

    def finish_disabling(self, patch: str, forced: bool = False, **fields: Any) -> None:
        """The pass that switches all that are left, and what follows from it."""
        with self.try_all(), self.completing(forced=forced):
            self.object(patch, action="unpatch", **fields)
            self.callback(patch, "post_unpatch")
        self.stacked("complete")
        self.freed(patch, forced)

    def freed(self, patch: str, forced: bool = False) -> None:
        self.stack.remove(patch)
        self.stacked("free")
        self.put(ev.PatchFree, patch=patch, forced=forced, module_refs=int(forced))

    def disable(self, patch: str, **fields: Any) -> None:
        self.begin_disabling(patch)
        self.finish_disabling(patch, **fields)

    def module(self, name: str, action: str, *, livepatch: bool = False, errno: int = 0) -> None:
        self.put(
            ev.ModuleNotice, module=name, action=action, livepatch=livepatch, errno=errno, duration_ns=100
        )

    def step(self, action: str, subject: str, errno: int = 0) -> None:
        self.put(ev.Step, action=action, subject=subject, errno=errno, duration_ns=1_000)

    def sysfs(self, **enabled: bool) -> None:
        """What sysfs shows; `enabled` names each livepatch that is there."""
        shown = tuple(
            ev.SysfsPatch(
                name=name, enabled=on, transition=name == self.core.transition_patch, replace=False,
                stack_order=None, objects={"vmlinux": on},
            )
            for name, on in enabled.items()
        )  # fmt: skip
        self.wait(3_000)
        self.put(ev.Sysfs, patches=shown)
        self.wait(3_000)
