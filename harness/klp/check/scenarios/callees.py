# SPDX-License-Identifier: Apache-2.0
"""Tracing of a function that a changed one calls, and in which a task sleeps meanwhile.

Function graph and return probes exchange the return address of what they trace: the stack of a task that
sleeps there shows the way back into the changed function no longer. The unwinder must find it all the
same (ftrace_graph_ret_addr, unwind_recover_rethook), or else must not call the stack reliable: a task
that sleeps beneath a changed function is not switched (klp_check_stack, kernel/livepatch/transition.c).
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass

from klp.check.background import in_background
from klp.check.scenario import scenario
from klp.check.stage import NotApplicable, Stage
from klp.drive.steps import Moment
from klp.waiting import DeadlineMissed, wait_until

_TRACING = "/sys/kernel/tracing"
_INSTANCE = f"{_TRACING}/instances/klp_callee"
_GROUP = "klp_callee"
# How long the author's commands and the target's own tasks are watched until one sleeps; and then until one
# does that has come there once it was traced.
_FOUND_S, _CAUGHT_S, _LOOK_S = 8.0, 30.0, 0.3
_KINDS = {"graph": "function graph", "return": "a return probe"}
# `/proc/N/task/N/stack:[<0>] NAME+0x15/0x20 [MODULE]`; with `-`, what is called by the line that follows.
_FRAME = re.compile(r"^/proc/\d+/task/(\d+)/stack([:-])\[<0>\] ([\w.]+)\+0x\S+(?: \[(\w+)\])?$")
_ENTERED = re.compile(r"-(\d+) +\[\d+\].*: entered: ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CalleeSleeper:
    """A task that sleeps in a function which a changed one has called.

    Attributes:
        pid: thread id.
        callee: the function that was called, as kprobe_events takes it: ``NAME`` or ``MODULE:NAME``.
        caller: the changed one, or what took its place.
    """

    pid: int
    callee: str
    caller: str

    @property
    def filter(self) -> str:
        """The callee, as set_ftrace_filter takes it."""
        module, _, name = self.callee.rpartition(":")
        return f"{name}:mod:{module}" if module else name


def sleepers_in(shown: str, changed: set[tuple[str, str]], livepatch: str) -> tuple[CalleeSleeper, ...]:
    """Return who sleeps in what a changed function, or one of the livepatch's own, has called.

    Args:
        shown: stacks, innermost first, as ``grep -B 1`` prints those of many tasks.
        changed: as `Stage.functions`.
        livepatch: its module.
    """
    found, inner = [], None
    for line in shown.splitlines():
        frame = _FRAME.match(line)
        if frame is None:
            inner = None
            continue
        pid, mark, name, module = frame.groups()
        caller = (module or "vmlinux", name)
        if inner and inner[0] == pid and mark == ":" and _concerned(caller, changed, livepatch):
            callee = (inner[2] or "vmlinux", inner[1])
            if not _concerned(callee, changed, livepatch):
                symbol = f"{inner[2]}:{inner[1]}" if inner[2] else inner[1]
                found.append(CalleeSleeper(int(pid), symbol, name))
        inner = (pid, name, module)
    return tuple(found)


def _concerned(function: tuple[str, str], changed: set[tuple[str, str]], livepatch: str) -> bool:
    return function in changed or function[0] == livepatch


class _Callee:
    """Who sleeps beneath the livepatch's functions, and the tracing of what they sleep in."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._changed = set(stage.functions)
        names = [name for _, name in self._changed]
        alternatives = "|".join([*map(re.escape, names), rf".*\[{stage.livepatch.name}\]"])
        self._look = (
            f"grep -E -B 1 '\\] ({alternatives})(\\+0x|$)' /proc/[0-9]*/task/[0-9]*/stack 2>/dev/null"
        )

    def asleep(self) -> tuple[CalleeSleeper, ...]:
        """Return who sleeps there now."""
        shown = self._stage.guest.run(self._look).stdout
        return sleepers_in(shown, self._changed, self._stage.livepatch.name)

    def caught(self, callee: str = "") -> CalleeSleeper | None:
        """Wait until one sleeps there: if a callee is given, in that and after it was traced.

        Returns:
            the sleeper; None if none came.
        """

        def look() -> CalleeSleeper | None:
            found = [each for each in self.asleep() if callee in ("", each.callee)]
            entered = self._entered() if callee and found else set()
            return next((each for each in found if not callee or each.pid in entered), None)

        try:
            limit = _CAUGHT_S if callee else _FOUND_S
            return wait_until(look, what="sleeper", timeout_s=limit, every_s=_LOOK_S)
        except DeadlineMissed:
            return None

    def _entered(self) -> set[int]:
        return {int(pid) for pid in _ENTERED.findall(self._stage.guest.read(f"{_INSTANCE}/trace"))}

    def trace(self, sleeper: CalleeSleeper, kind: str) -> None:
        """Trace what it sleeps in.

        Raises:
            NotApplicable: the kernel does not trace it.
        """
        # A probe at its entry says who came in by then: the others' return addresses are as they were.
        lines = [
            f"mkdir {_INSTANCE}",
            f"echo 'p:{_GROUP}/entered {sleeper.callee}' >>{_TRACING}/kprobe_events",
        ]
        if kind == "return":
            lines.append(f"echo 'r:{_GROUP}/returned {sleeper.callee}' >>{_TRACING}/kprobe_events")
        else:
            lines.append(f"echo '{sleeper.filter}' >{_TRACING}/set_ftrace_filter")
            lines.append(f"echo function_graph >{_TRACING}/current_tracer")
        lines.append(f"echo 1 >{_INSTANCE}/events/{_GROUP}/enable")
        done = self._stage.guest.run(" && ".join(lines))
        if done.status:
            said = done.stderr.strip().rpartition(": ")[2]
            raise NotApplicable(f"{sleeper.callee} takes no {_KINDS[kind]}: {said}")

    def leave(self, kind: str) -> None:
        """Trace it no longer."""
        events = ["entered", *(["returned"] if kind == "return" else [])]
        lines = [f"echo 0 >{_INSTANCE}/events/{_GROUP}/enable"]
        lines += [f"echo '-:{_GROUP}/{each}' >>{_TRACING}/kprobe_events" for each in events]
        if kind == "graph":
            lines += [f"echo nop >{_TRACING}/current_tracer", f"echo >{_TRACING}/set_ftrace_filter"]
        lines.append(f"rmdir {_INSTANCE}")
        self._stage.guest.run(" && ".join(lines)).must("ending the tracing of a callee")


@scenario("callee-traced", "a function that a changed one calls, and a task sleeps in, has function graph "
          "on it, then a return probe", informed=True)  # fmt: skip
def callee_traced(stage: Stage) -> None:
    """Either way: the transition waits until the sleeper has returned through the tracer, and then ends."""
    if not stage.functions:
        raise NotApplicable("it changes no function, so that none is called by one")
    stage.set_up()
    callee = _Callee(stage)
    with _commands(stage):
        found = callee.caught()
    if found is None:
        raise NotApplicable(
            "no task sleeps in a function that a changed one calls, neither by itself nor in a command of "
            "patch.toml; a [[workload]] that does shows it"
        )
    for kind, words in _KINDS.items():
        stage.tell(words)
        stage.put_back()
        _live(stage, callee, found, kind)
    stage.tear_down()


def _live(stage: Stage, callee: _Callee, found: CalleeSleeper, kind: str) -> None:
    callee.trace(found, kind)
    with _commands(stage):
        sleeper = callee.caught(found.callee)
        if sleeper is None:
            raise NotApplicable(f"no task came to sleep in {found.callee} once it was traced")
        stage.load(wait=False)
        _judge(stage, callee, sleeper)
        stage.livepatch.wait()
        stage.livepatch.look()
    _tell(stage, sleeper, kind)
    stage.observe(Moment.ENABLED)
    with _commands(stage):
        sleeper = callee.caught(found.callee)
        stage.livepatch.disable(wait=False)
        if sleeper:
            _judge(stage, callee, sleeper)
        stage.livepatch.wait()
        stage.livepatch.wait_gone()
        stage.livepatch.look()
    if sleeper:
        _tell(stage, sleeper, kind)
    stage.observe(Moment.AFTER)
    callee.leave(kind)
    stage.unload()


def _judge(stage: Stage, callee: _Callee, sleeper: CalleeSleeper) -> None:
    """See that a transition has not ended that the sleeper must hold up."""
    state = stage.livepatch.state
    if state is not None and state.transition:
        return
    # Looked at after the transition: who sleeps there still has slept there all the while.
    if sleeper in callee.asleep():
        stage.fault(
            f"the transition ended although task {sleeper.pid} sleeps in {sleeper.callee}, which "
            f"{sleeper.caller} has called"
        )


def _tell(stage: Stage, sleeper: CalleeSleeper, kind: str) -> None:
    """Note how the last transition fared with the sleeper.

    Raises:
        NotApplicable: it was over before the sleeper was looked at.
    """
    leg = [each for each in stage.trace.history().legs if each.patch == stage.livepatch.name][-1]
    held = next((each for each in leg.tasks if each.pid == sleeper.pid and each.attempts), None)
    if held is None:
        raise NotApplicable(
            f"task {sleeper.pid} had returned from {sleeper.callee} before {leg.direction} looked at it"
        )
    why = ", ".join(held.reasons)
    stage.note(
        f"{_KINDS[kind]} on {sleeper.callee}: {leg.direction} was held up by {held.comm}[{held.pid}] {why}"
    )


def _commands(stage: Stage) -> AbstractContextManager[None]:
    """Have the author's commands run in the background, once each, for the length of a block."""
    plan = stage.candidate.plan
    commands = dict.fromkeys([*stage.commands, *(each.command for each in plan.workload)])
    return in_background(stage.guest, "callees", commands)
