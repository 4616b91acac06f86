# SPDX-License-Identifier: Apache-2.0
"""What became of each task in one leg of a transition: tried, switched, born, ended (transition.c)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from klp.analysis.legs import TaskSwitch, Who, identity, reason
from klp.trace import events as ev

# How a task switches by itself, on the CPU where it runs, whatever a pass does at the same moment.
_BY_ITSELF = ("exit", "idle", "scheduler")
# The reasons of those that no attempt left behind: one for all, for there may be a million.
_NONE: dict[str, int] = {}


@dataclass(slots=True)
class _Account:
    """What is known of one task in the leg that runs.

    `until_ns` is the end of the attempt that switched it, `confirmed` whether a pass found it switched
    later on, `dying` whether its exit was seen, `seen` how many events were about it.
    """

    task: ev.Task
    failed: int = 0
    reasons: dict[str, int] | None = None
    first: int | None = None
    last_ns: int = 0
    path: str | None = None
    at_ns: int = 0
    until_ns: int = 0
    confirmed: bool = False
    number: int | None = None
    dying: bool = False
    seen: int = 0

    def built(self) -> TaskSwitch:
        """Return it as a value."""
        path = "ended" if self.path is None and self.dying else self.path
        return TaskSwitch(
            pid=self.task.pid,
            tgid=self.task.tgid,
            comm=self.task.comm,
            path=path,
            at_ns=self.at_ns if self.path else self.last_ns,
            attempts=self.failed,
            reasons=_NONE if self.reasons is None else self.reasons.copy(),
            events=self._events(),
        )

    def _events(self) -> tuple[int, ...]:
        if self.first is None:
            return () if self.number is None else (self.number,)
        return (self.first,) if self.number is None else (self.first, self.number)


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A task held against the kernel, and the threads that may have had its id by then.

    `threads` are those of its process, each with how many events had been about it; `path` is that of the
    second switch, where it is one.
    """

    held_against: list[tuple[TaskSwitch, int]]
    entry: tuple[TaskSwitch, int]
    threads: dict[Who, int]
    path: str


class TaskAccounts:
    """The accounts of the tasks of one leg."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._open: dict[Who, _Account] = {}
        self._closed: list[TaskSwitch] = []
        self._leaders_gone: set[int] = set()
        self.twice: list[tuple[TaskSwitch, int]] = []
        self.wrong_way: list[tuple[TaskSwitch, int]] = []
        self.unexplained: list[tuple[TaskSwitch, int]] = []
        self.born: list[int] = []
        self.born_pending: list[int] = []
        self.dead_pending: list[int] = []
        self._failed: set[int] = set()
        self._held: set[int] = set()
        self._walks: dict[int, int] = {}
        self._died: dict[Who, int] = {}
        # Those of whom it is open whether a thread had taken over their id, see `_question`.
        self._doubts: list[_Doubt] = []

    @property
    def gone(self) -> tuple[int, ...]:
        """When tasks died that no pass met any more: as long as a pass does, they are not reaped."""
        return tuple(self._died.values())

    @property
    def chance_passes(self) -> int:
        """How many passes left tasks behind only because these were running at that moment."""
        return len(self._failed - self._held)

    def walk(self, pass_number: int, made: ev.Pass) -> int:
        """Return when a pass was at its first task."""
        if made.first_ns is not None:
            return made.first_ns
        return self._walks.get(pass_number, made.ts_ns)

    def attempt(self, number: int, event: ev.Attempt, pass_number: int) -> None:
        """Take one attempt of the `pass_number`-th pass."""
        if pass_number not in self._walks:
            self._walks[pass_number] = event.ts_ns
        if self._died:
            self._died.pop(identity(event.task), None)
        account = self._of(event.task)
        account.last_ns = event.ts_ns
        if event.result == "switched":
            path = "first pass" if pass_number <= 1 else "retry pass"
            if account.path in _BY_ITSELF and not account.confirmed and event.patch_state != self._target:
                # A switch by itself is told when klp_update_patch_state() begins. A task that is preempted
                # right there may be switched by the pass; when it goes on it finds TIF_PATCH_PENDING
                # cleared and changes nothing. So the pass was it, and the task did not switch twice.
                account.path = None
            self._switched(account, path, number, event.ts_ns, event.after)
            account.until_ns = event.ts_ns + event.duration_ns
        elif event.result == "already":
            self._already(account, number, event)
        else:
            account.failed += 1
            why = reason(event)
            if account.reasons is None:
                account.reasons = {}
            account.reasons[why] = account.reasons.get(why, 0) + 1
            self._failed.add(pass_number)
            if event.result != "running":
                self._held.add(pass_number)
            account.first = number if account.first is None else account.first

    def _already(self, account: _Account, number: int, event: ev.Attempt) -> None:
        """A pass found it in the target state: known, unless an attempt on it had failed before."""
        if account.path is not None:
            account.confirmed = True
            return
        account.path, account.at_ns, account.number = "already", event.ts_ns, number
        # A thread that calls exec takes over the id of its leader (de_thread(), fs/exec.c), which is gone:
        # what was told under that id was told of another task, unless the probe knows it for this one.
        swapped = event.task.tgid in self._leaders_gone
        if not account.failed:
            return
        if event.awaited_as == event.task.pid:
            self.unexplained.append((account.built(), number))
        elif event.awaited_as is None and not swapped:
            self._question(self.unexplained, account, number)

    def switch(self, number: int, event: ev.Switch) -> None:
        """Take a switch by another way than a pass's attempt."""
        self._switched(self._of(event.task), event.path, number, event.ts_ns, event.patch_state)

    def _switched(self, account: _Account, path: str, number: int, ts_ns: int, state: int) -> None:
        # Not booked as its switch: to the target it has to go still, and that would count as a second one.
        if state != self._target:
            self.wrong_way.append((account.built(), number))
            return
        # A task may switch by itself while an attempt on it waits for its run queue's lock: the attempt
        # then sets what is set already, because klp_try_switch_task() looks at the state before it takes
        # the lock.
        itself = path in _BY_ITSELF and ts_ns <= account.until_ns
        # Force calls klp_update_patch_state() for a task, and so does the task: each is told as it begins.
        ways = (account.path, path)
        itself = itself or (
            "force" in ways and any(each in _BY_ITSELF for each in ways) and not account.confirmed
        )
        if account.path not in (None, "already") and not itself:
            self._question(self.twice, account, number, path)
        if account.path == "already" and self.unexplained:
            # Its own event bears a later time than that of the pass that found it switched: the two
            # overlap.
            who = (account.task.pid, account.task.comm)
            self.unexplained[:] = [(t, n) for t, n in self.unexplained if (t.pid, t.comm) != who]
        account.path, account.at_ns, account.number = path, ts_ns, number
        account.confirmed = False

    def fork(self, number: int, event: ev.Fork) -> None:
        """Take a birth: whoever had that thread id before is gone, whether or not its exit was seen."""
        self.born.append(event.ts_ns)
        # A thread's id is given out anew only when it has left it.
        self._settle([identity(event.child)])
        before = self._open.pop(identity(event.child), None)
        if before is not None:
            # Not closed: it may live on under its leader's id, if it has called exec.
            self._open[event.child.pid, f"before event {number}"] = before
        account = self._of(event.child)
        account.last_ns = event.ts_ns
        if event.child_state == self._target:
            account.path, account.at_ns, account.number = "fork", event.ts_ns, number
        else:
            self.born_pending.append(event.ts_ns)

    def exit(self, event: ev.Exit) -> None:
        """Take a death. A dying task stays listed until it is reaped, and a pass may still switch it."""
        account = self._of(event.task)
        account.last_ns = event.ts_ns
        self._died[identity(event.task)] = event.ts_ns
        if event.task.pid == event.task.tgid:
            self._leaders_gone.add(event.task.tgid)
        if account.path in (None, "already"):
            if event.patch_state != self._target:
                self.dead_pending.append(event.ts_ns)
            account.path, account.dying = None, True
        else:
            self._close(identity(event.task))

    def _close(self, who: Who) -> None:
        account = self._open.pop(who, None)
        if account is not None:
            self._closed.append(account.built())

    def _of(self, task: ev.Task) -> _Account:
        who = identity(task)
        account = self._open.get(who)
        if account is None:
            account = self._open[who] = _Account(task)
        account.seen += 1
        return account

    def _question(
        self, held_against: list[tuple[TaskSwitch, int]], account: _Account, number: int, path: str = ""
    ) -> None:
        """Put a task down as one that broke a rule, unless another thread may have its id by now.

        A thread that calls exec takes over the id of its leader, who may have ended before the transition
        began: then no event tells of that. Such a thread is not seen any more under the id it had. If it
        was to switch still, the second switch by `path` is its own.
        """
        entry = (account.built(), number)
        held_against.append(entry)
        if account.task.pid == account.task.tgid:
            threads = {
                who: each.seen
                for who, each in self._open.items()
                if each.task.tgid == account.task.tgid and each is not account and not each.dying
                if (each.path is None) is bool(path)
            }
            if threads:
                self._doubts.append(_Doubt(held_against, entry, threads, path))

    def _vanished(self, doubt: _Doubt, who: Who) -> bool:
        """Whether a thread was not seen under its own id since another was in doubt."""
        return who in doubt.threads and who in self._open and self._open[who].seen == doubt.threads[who]

    def _settle(self, ids: Iterable[Who]) -> None:
        """Acquit those whose id was taken over by one of these, none of whom can be seen any more."""
        for who in ids:
            doubt = next((each for each in self._doubts if self._vanished(each, who)), None)
            if doubt is None:
                continue
            self._doubts.remove(doubt)
            if doubt.entry in doubt.held_against:
                doubt.held_against.remove(doubt.entry)
            thread = self._open[who]
            thread.seen += 1  # it took over one id only
            thread.path = doubt.path or thread.path

    def built(self) -> tuple[TaskSwitch, ...]:
        """Return every account, in the order the tasks were first seen."""
        self._settle([who for doubt in self._doubts for who in doubt.threads])
        return (*self._closed, *(each.built() for each in self._open.values()))
