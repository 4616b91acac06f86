# SPDX-License-Identifier: Apache-2.0
"""The tasks of the model in coremodel.py: how they are tried, switch, fork, end, and call exec."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from klp.trace import events as ev
from tests.unit.traces import Trace

ERRNO = {"switched": 0, "already": 0, "running": -16, "unreliable": -22, "sleeping": -98}


class Wanted(Protocol):
    """What of a history's shape concerns the tasks."""

    @property
    def tasks(self) -> int: ...
    @property
    def births(self) -> bool: ...
    @property
    def deaths(self) -> bool: ...
    @property
    def execs(self) -> bool: ...
    @property
    def races(self) -> bool: ...


@dataclass(eq=False)
class Thread:
    """A task_struct.

    `begun` is set where klp_update_patch_state() was told and has not set the state yet: the task is
    interrupted there. `blocked` is why a pass cannot switch it. `awaited_as` is the probe's: the thread id
    with which it was told to stay behind, or to switch by itself, until a pass finds it switched.
    """

    pid: int
    tgid: int
    comm: str
    state: int
    pending: bool = False
    zombie: bool = False
    begun: bool = False
    blocked: str = ""
    offline: bool = False
    awaited_as: int | None = None

    @property
    def told(self) -> ev.Task:
        return ev.Task(pid=self.pid, tgid=self.tgid, comm=self.comm)


class Walk(NamedTuple):
    """A pass over all tasks: how many it tried, left behind, and found switched without an event."""

    attempts: int
    left: int
    already: int
    first_ns: int | None


class Tasks:
    """The list of tasks, and the idle tasks."""

    def __init__(self, wanted: Wanted, chance: random.Random, trace: Trace, *, scheduler: bool) -> None:
        self._wanted, self._chance, self._trace = wanted, chance, trace
        self._scheduler = scheduler
        self.idle = [Thread(0, 0, f"swapper/{cpu}", -1, offline=cpu == 2) for cpu in range(3)]
        self.list: list[Thread] = []
        self._next_pid = 1
        # Traces recorded before attempts without news were counted have an event for each.
        self._counts = chance.random() < 0.7
        self._already = 0
        for _ in range(wanted.tasks):
            self._add(None, -1)
        if wanted.execs:
            for leader in self.list[:2]:
                self._add(leader, -1)
        if wanted.deaths and wanted.execs:
            self.list[0].zombie = True  # it ended long ago, and its thread lives on
        if wanted.deaths and wanted.tasks > 2:
            self.list[2].zombie = True

    @property
    def all(self) -> list[Thread]:
        return [*self.list, *self.idle]

    @property
    def _in_transition(self) -> bool:
        return self._trace.core.transition_patch is not None

    @property
    def _target(self) -> int:
        return self._trace.core.target_state

    def _likely(self, how: float) -> bool:
        return self._chance.random() < how

    def _add(self, leader: Thread | None, state: int) -> Thread:
        used = {each.pid for each in self.list}
        free = [pid for pid in range(1, self._next_pid) if pid not in used]
        if free and self._likely(0.5):
            pid = self._chance.choice(free)  # thread ids are given out again
        else:
            pid = self._next_pid
            self._next_pid += 1
        thread = Thread(pid, leader.tgid if leader else pid, f"task{pid}", state)
        self.list.append(thread)
        return thread

    # --- what the core does with all of them ------------------------------------------------------

    def census(self, moment: str) -> None:
        """Count them, zombies among them."""
        states = Counter(each.state for each in self.all)
        self._trace.put(
            ev.Census, moment=moment, tasks=len(self.all), idle=states[-1], unpatched=states[0],
            patched=states[1], other=0, pending=sum(each.pending for each in self.all), whole=True,
            core=self._trace.core,
        )  # fmt: skip

    def to_state(self, state: int) -> None:
        """klp_init_transition, klp_complete_transition: set the state of every task."""
        for each in self.all:
            each.state, each.begun = state, False
            if state != -1:
                each.blocked = self._chance.choice(("", "", "", "running", "sleeping", "unreliable"))

    def mark_pending(self) -> None:
        """klp_start_transition: set TIF_PATCH_PENDING where it is needed."""
        for each in self.all:
            each.pending = each.state != self._target

    def clear_pending(self) -> None:
        """klp_reverse_transition: and whoever was about to switch finds nothing to do."""
        for each in self.all:
            each.pending = each.begun = False
            each.blocked = self._chance.choice(("", each.blocked))

    def release(self) -> None:
        """Let nothing hold anybody up any more."""
        for each in self.all:
            each.blocked = ""

    def force(self) -> None:
        """klp_force_transition: klp_update_patch_state for every task."""
        for each in self.all:
            if each.pending:
                self._trace.put(ev.Switch, task=each.told, path="force", patch_state=self._target)
                self._await(each)
                if self._wanted.races and each.pid and not each.zombie and self._likely(0.1):
                    self._tell_switch(each)  # itself, at the same moment
                self._set(each)

    def switch_offline(self) -> None:
        """klp_try_complete_transition, for idle tasks of CPUs that are not online."""
        for each in self.idle:
            if each.offline and each.state != self._target:
                self._set(each)
                self._trace.put(ev.Switch, task=each.told, path="offline", patch_state=each.state)

    def _set(self, thread: Thread) -> None:
        thread.state, thread.pending, thread.begun = self._target, False, False

    # --- a pass -----------------------------------------------------------------------------------

    def walk(self) -> Walk:
        """klp_try_complete_transition: try every task."""
        attempts = left = self._already = 0
        first_ns = self._trace.now + 1_000
        for each in list(self.list):  # under tasklist_lock
            left += not self._attempt(each)
            attempts += 1
            self._act(forks=False)
        self.act()
        for each in self.idle:
            if not each.offline:
                left += not self._attempt(each)
                attempts += 1
        self.act()
        return Walk(attempts, left, self._already, first_ns if self._counts else None)

    def _attempt(self, thread: Thread) -> bool:
        """klp_try_switch_task; return whether the task is in the target state, for the core."""
        trace, before = self._trace, thread.state
        trace.now += 1_000
        at, result, state = trace.now, "switched", thread.state
        by_itself = self._wanted.races and not thread.zombie and thread.pending and self._likely(0.15)
        if thread.state == self._target:
            result = "already"
        elif by_itself and not thread.begun:
            result = self._overtaken(thread)
            state = self._target if result == "already" else before
        elif thread.begun:
            # Interrupted, and switched by this pass; or running, and switched by itself right now or later.
            result = self._chance.choice(("switched", "running", "running"))
            if self._likely(0.5):
                self._set(thread)
        elif thread.blocked and not (thread.zombie and thread.blocked == "running"):
            result = thread.blocked
        if result == "switched":
            self._set(thread)
        trace.now += 500
        awaited_as = self._news(thread, result)
        if self._counts and result == "already" and awaited_as is None and not thread.zombie:
            self._already += 1
            return True
        trace.put(
            ev.Attempt, at=at, task=thread.told, result=result, errno=ERRNO[result],
            function="cmdline_proc_show" if result == "sleeping" else None, patch_state=state,
            after=thread.state, duration_ns=trace.now - at,
            awaited_as=awaited_as if self._counts else None,
        )  # fmt: skip
        return result in ("switched", "already")

    def _await(self, thread: Thread) -> None:
        """Have the probe tell when a pass finds a task switched; of one that ends it tells anyhow."""
        if not thread.zombie:
            thread.awaited_as = thread.pid

    def _news(self, thread: Thread, result: str) -> int | None:
        """Return as what a task was awaited that is in the target state."""
        if result not in ("switched", "already"):
            self._await(thread)
            return None
        awaited_as, thread.awaited_as = thread.awaited_as, None
        return awaited_as

    def _overtaken(self, thread: Thread) -> str:
        """Let a task switch itself while it is tried, told within the attempt."""
        self._trace.now += 100
        self._tell_switch(thread)
        self._set(thread)
        return self._chance.choice(("running", "switched", "already"))

    # --- what they do by themselves ---------------------------------------------------------------

    def act(self) -> None:
        """Let some of them do something, or none."""
        self._act(forks=True)

    def _act(self, *, forks: bool) -> None:
        for each in list(self.all):
            if each not in self.all or not self._likely(0.15):
                continue
            if each.begun:
                self._set(each)
            elif each.pending and not each.zombie and not each.offline and self._likely(0.5):
                self._switch_itself(each)
            elif each.pid and forks:
                self._live_on(each)
            elif each.pid and self._wanted.deaths and self._likely(0.2) and not each.zombie:
                self._exit(each)

    def _live_on(self, thread: Thread) -> None:
        if thread.zombie:
            if not any(other.tgid == thread.tgid and other is not thread for other in self.list):
                self.list.remove(thread)  # reaped
        elif self._wanted.births and self._likely(0.3) and len(self.list) < 12:
            self._fork(thread)
        elif self._wanted.execs and thread.pid != thread.tgid and self._likely(0.5):
            self._exec(thread)
        elif self._wanted.deaths and self._likely(0.3) and sum(not each.zombie for each in self.list) > 2:
            self._exit(thread)
        elif self._likely(0.1):
            thread.comm = f"renamed{thread.pid}"

    def _switch_itself(self, thread: Thread) -> None:
        """klp_update_patch_state, told as it begins; or __klp_sched_try_switch, told as it has switched."""
        if thread.pid and self._scheduler and self._likely(0.3):
            self._set(thread)
            self._trace.put(ev.Switch, task=thread.told, path="scheduler", patch_state=thread.state)
            self._await(thread)
            return
        self._tell_switch(thread)
        if self._wanted.races and self._likely(0.3):
            thread.begun = True
        else:
            self._set(thread)

    def _tell_switch(self, thread: Thread) -> None:
        path = "exit" if thread.pid else "idle"
        self._trace.put(ev.Switch, task=thread.told, path=path, patch_state=self._target)
        self._await(thread)

    def _fork(self, parent: Thread) -> None:
        leader = parent if self._wanted.execs and self._likely(0.4) else None
        child = self._add(leader, parent.state)
        child.pending, child.blocked = parent.pending, self._chance.choice(("", "running"))
        if self._in_transition:
            self._trace.put(
                ev.Fork, child=child.told, child_state=child.state, child_pending=child.pending,
                parent=parent.told, parent_state=parent.state, parent_pending=parent.pending,
            )  # fmt: skip

    def _exit(self, thread: Thread) -> None:
        if self._in_transition:
            self._trace.put(ev.Exit, task=thread.told, patch_state=thread.state, pending=thread.pending)
        thread.zombie, thread.begun, thread.awaited_as = True, False, None
        if thread.blocked == "running":
            thread.blocked = ""
        if thread.pid != thread.tgid and self._likely(0.5):
            self.list.remove(thread)

    def _exec(self, thread: Thread) -> None:
        """de_thread(): the other threads end, and this one goes on with its leader's id."""
        group = [each for each in self.list if each.tgid == thread.tgid and each is not thread]
        for each in group:
            if not each.zombie:
                self._exit(each)
        for each in group:
            if each in self.list:
                self.list.remove(each)
        thread.pid, thread.comm = thread.tgid, f"exec{thread.tgid}"
