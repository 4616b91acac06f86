# SPDX-License-Identifier: Apache-2.0
"""Whether a task that a transition waits for will switch, and what would help; from its stack. Pure.

klp_send_signals (kernel/livepatch/transition.c) comes in the sixteenth pass and in every fifteenth after
it: it signals users' tasks and wakes kthreads up, each only if it sleeps interruptibly. klp_check_stack
reads a stack whole or not at all: of code that was generated, such as a BPF trampoline, ORC has no data.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from klp.trace import events as ev

_FRAME = re.compile(r"^(?:\[<\w+>\] )?(?P<function>[\w.]+)\+0x\w+/0x\w+(?: \[(?P<module>[^\]]+)\])?$")
# The function that calls a kthread's main function (kernel/kthread.c).
_STARTER = "kthread"
# What may make a stack unreliable, by the function that is on it: BPF's trampolines and programs (fentry,
# fexit, fmod_ret), the function graph tracer's, and those of return probes on the kernels' architectures.
_UNREADABLE = (
    (re.compile(r"^bpf_(trampoline|prog|dispatcher)_"), "a BPF trampoline"),
    (re.compile(r"^return_to_handler$"), "the function graph tracer"),
    (re.compile(r"^(arch_rethook|__kretprobe|kretprobe)_trampoline$"), "a return probe"),
)  # fmt: skip
_INTERRUPTIBLE, _RUNNING = "S", "R"


def outlook(
    task: ev.AwaitedTask,
    patch: str,
    *,
    target: int,
    changed: Collection[str],
    unreliable: bool,
    signals: int,
) -> str:
    """Return what is to be expected of a task that has not switched.

    Args:
        patch: the livepatch.
        target: of its transition: 1 patching, 0 unpatching.
        changed: the functions that it changes.
        unreliable: whether the kernel could not read the task's stack when it tried last.
        signals: how often the kernel had signalled the remaining tasks by then.
    """
    frames = [
        (found["function"], found["module"] or "") for line in task.stack if (found := _FRAME.match(line))
    ]
    main = _main_function(frames) if task.kthread else None
    if main and (main[0] in changed if target == ev.PATCHED else main[1] == patch):
        return (
            f"{main[0]} is this kthread's own main function, which it leaves only to end: neither waiting "
            "nor the kernel's signals help"
        )
    waking = _waking(task, signals)
    return f"{_unreadable(frames)}; {waking}" if unreliable else waking


def _main_function(frames: list[tuple[str, str]]) -> tuple[str, str] | None:
    """Return what a kthread was started with: what `kthread`, the outermost but one, has called."""
    names = [function for function, _ in frames]
    at = names.index(_STARTER) if _STARTER in names else 0
    return frames[at - 1] if at else None


def _unreadable(frames: list[tuple[str, str]]) -> str:
    """Return what makes a stack unreliable, and how that ends."""
    for at, (function, _) in enumerate(frames):
        what = next((words for pattern, words in _UNREADABLE if pattern.match(function)), None)
        if what:
            inside = f": that ends when {frames[at - 1][0]}, which it watches, returns" if at else ""
            return f"its stack is unreliable by {what} ({function}){inside}"
    return "nothing on its stack shows why it is unreliable"


def _waking(task: ev.AwaitedTask, signals: int) -> str:
    """Return what gets a task out of where it is."""
    if task.state == _RUNNING:
        where = "sleeps elsewhere" if task.kthread else "goes to user space, or sleeps elsewhere"
        return f"it runs, and switches as soon as it {where}"
    who = "a kthread" if task.kthread else "a user's task"
    if task.state != _INTERRUPTIBLE:
        return f"{who} that sleeps uninterruptibly: it returns when its event comes, and no signal wakes it"
    if task.kthread:
        return f"{who} that returns when its event comes: the kernel's signals only wake it, to sleep on"
    if signals:
        return f"{who} that sleeps on though the kernel signalled it: it returns when its event comes"
    return f"{who} that the kernel signals at the sixteenth pass, some 15 s after the start"
