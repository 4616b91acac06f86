# SPDX-License-Identifier: Apache-2.0
"""What was seen, in words: of a transition who held it up, for how long, where, and what let go."""

from __future__ import annotations

from klp.analysis.legs import UNRELIABLE, Leg, TaskSwitch
from klp.analysis.outlook import outlook
from klp.trace.events import PATCHED

_LET_GO = {
    "first pass": "switched in the first pass",
    "retry pass": "switched when it was tried again",
    "exit": "switched on its way to user space",
    "idle": "switched in the idle loop",
    "scheduler": "switched in the scheduler",
    "force": "was forced",
    "offline": "was switched in place, its CPU being offline",
    "fork": "was born switched",
    "ended": "ended",
    "already": "was found switched",
}

# A pass a second: who has not switched by the next one did not leave for the signal.
_SIGNALLED_NS = 1_000_000_000


def how_many(number: int, thing: str) -> str:
    """Return a number of things: ``1 call``, ``1,200 calls``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def spelt(value: object) -> str:
    """Return a value as SQL and JSON write it: ``true``, not Python's ``True``."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def stories(leg: Leg, *, left: bool = False) -> tuple[str, ...]:
    """Return a line for each task that a pass left behind, who waited longest first.

    Args:
        left: only of those that were still pending when last seen.
    """
    held = [each for each in leg.tasks if each.attempts and not (left and each.path)]
    held.sort(key=lambda each: -_held_ns(each, leg))
    return tuple(task_story(each, leg) for each in held)


def task_story(task: TaskSwitch, leg: Leg) -> str:
    """Return what befell one task, such as ``fix patching held up 12.3 s by kworker/0:1[77] …``."""
    reasons = sorted(task.reasons, key=lambda why: -task.reasons[why])
    why = " and ".join(_with_meaning(each, leg) for each in reasons)
    tries = f"{task.attempts} attempts" if task.attempts > 1 else "1 attempt"
    end = _LET_GO.get(task.path or "", "was left pending")
    if signalled(task, leg):
        end = f"ended by the kernel's signal: {end}"
    further = f": {words}" if (words := outlook_of(task, leg)) else ""
    held = f"held up {_held_ns(task, leg) / 1e9:.1f} s by {task.comm}[{task.pid}] {why}"
    return f"{leg.told()} {held}; {end} after {tries}{further}"


def outlook_of(task: TaskSwitch, leg: Leg) -> str:
    """Return what is to be expected of a task that has not switched; empty where nobody looked at it."""
    looks = ((each.ts_ns, one) for _, each in leg.awaited for one in each.tasks if one.pid == task.pid)
    at_ns, seen = max(looks, key=lambda look: look[0], default=(0, None))
    if task.path or seen is None:
        return ""
    most = max(task.reasons, key=lambda why: task.reasons[why], default="")
    return outlook(
        seen, leg.patch, target=leg.target, changed=leg.changed, unreliable=most == UNRELIABLE,
        signals=leg.signals_until(at_ns),
    )  # fmt: skip


def signalled(task: TaskSwitch, leg: Leg) -> bool:
    """Whether a user's task switched as it was sent out of a system call by the kernel's signal."""
    sent = [each.ts_ns for _, each in leg.signals if each.ts_ns <= task.at_ns]
    return task.path == "exit" and bool(sent) and task.at_ns - sent[-1] < _SIGNALLED_NS


def _held_ns(task: TaskSwitch, leg: Leg) -> int:
    begun = leg.started[1].ts_ns if leg.started else leg.begun_ns
    return max(0, (task.at_ns if task.path else leg.last_ns) - begun)


def _with_meaning(reason: str, leg: Leg) -> str:
    function = reason.removeprefix("sleeping in ")
    if leg.target != PATCHED and function != reason:
        # klp_check_stack_func() looks for what is to be left, here the new function, by the old one's name.
        return f"{reason}, the livepatch's version of it"
    return f"{reason}, which this livepatch changes" if function in leg.changed else reason
