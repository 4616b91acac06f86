# SPDX-License-Identifier: Apache-2.0
"""What is said of a task that holds a transition up: who it is, what it does, and whether waiting helps."""

from __future__ import annotations

import pytest

from klp.analysis.history import history
from klp.analysis.outlook import outlook
from klp.analysis.transitions import transition_of
from klp.analysis.words import stories
from klp.trace import events as ev
from tests.unit.traces import Trace

FIX = "klp_fix"
SLEEPS = ("schedule+0x27/0xe0", "klp_wait+0x4d/0x60 [klp_target]")
KTHREAD = (*SLEEPS, "klp_thread+0x30/0x40 [klp_target]", "kthread+0xcf/0x100", "ret_from_fork+0x31/0x50")
USER = (*SLEEPS, "seq_read_iter+0x11c/0x4b0", "ksys_read+0x6d/0xf0", "do_syscall_64+0x82/0x190")


def told(
    stack: tuple[str, ...], state: str = "S", *, changed: str = "klp_wait", target: int = 1,
    signals: int = 0, unreliable: bool = False,
) -> str:  # fmt: skip
    kthread = any(frame.startswith("kthread+") for frame in stack)
    task = ev.AwaitedTask(pid=7, comm="held", kthread=kthread, state=state, stack=stack)
    return outlook(task, FIX, target=target, changed={changed}, unreliable=unreliable, signals=signals)


def test_a_kthread_never_leaves_its_own_main_function() -> None:
    never = "klp_thread is this kthread's own main function, which it leaves only to end"
    assert told(KTHREAD, changed="klp_thread").startswith(never)
    assert never not in told(KTHREAD)
    own = tuple(frame.replace("klp_thread", "new_thread").replace("target", "fix") for frame in KTHREAD)
    assert told(own, changed="", target=0).startswith("new_thread is this kthread's own main function")
    # While it is being enabled, who runs a function of the livepatch itself has switched by it.
    assert "main function" not in told(own, changed="")
    assert "main function" not in told(KTHREAD, changed="", target=0)


@pytest.mark.parametrize(
    ("stack", "state", "signals", "says"),
    [
        (USER, "S", 0, "the kernel signals at the sixteenth pass"),
        (USER, "S", 1, "sleeps on though the kernel signalled it"),
        (USER, "D", 0, "a user's task that sleeps uninterruptibly: it returns when its event comes"),
        (USER, "R", 0, "it runs, and switches as soon as it goes to user space"),
        (KTHREAD, "S", 0, "a kthread that returns when its event comes"),
        (KTHREAD, "D", 0, "a kthread that sleeps uninterruptibly"),
        (KTHREAD, "I", 0, "a kthread that sleeps uninterruptibly"),
        (KTHREAD, "R", 0, "it runs, and switches as soon as it sleeps elsewhere"),
        ((), "S", 0, "a user's task"),
        (("no frame at all",), "S", 0, "a user's task"),
    ],
)
def test_others_leave_when_something_comes(
    stack: tuple[str, ...], state: str, signals: int, says: str
) -> None:
    assert says in told(stack, state, signals=signals)


@pytest.mark.parametrize(
    ("frame", "by"),
    [
        ("bpf_trampoline_6442511543+0x8e/0x1000", "a BPF trampoline"),
        ("return_to_handler+0x0/0x50", "the function graph tracer"),
        ("arch_rethook_trampoline+0x0/0x57", "a return probe"),
        ("__kretprobe_trampoline+0x0/0x60", "a return probe"),
    ],
)
def test_it_is_told_what_makes_a_stack_unreliable(frame: str, by: str) -> None:
    stack = (*USER[:2], frame, *USER[2:])
    words = told(stack, unreliable=True)
    assert f"unreliable by {by} ({frame.partition('+')[0]})" in words
    assert "ends when klp_wait, which it watches, returns" in words
    assert words.endswith("signals at the sixteenth pass, some 15 s after the start")
    assert by not in told(stack)


def test_an_unreliable_stack_that_shows_nothing_is_told_as_that() -> None:
    assert told(USER, unreliable=True).startswith(
        "nothing on its stack shows why it is unreliable; a user's"
    )


def held(*, state: str = "S") -> Trace:
    """A transition with one task left behind, into which klp has looked."""
    trace = Trace()
    trace.begin_enabling(FIX, functions=("klp_wait",))
    trace.try_once({3: ("sleeping", "klp_wait")})
    seen = ev.AwaitedTask(pid=3, comm="task3", kthread=False, state=state, stack=USER)
    trace.put(ev.Awaited, patch=FIX, tasks=(seen,))
    return trace


def test_it_stands_with_who_is_left_behind_and_in_run_json() -> None:
    [leg] = history(held().numbered()).legs
    assert stories(leg)[0].endswith("the kernel signals at the sixteenth pass, some 15 s after the start")
    [one] = transition_of(leg).stragglers
    assert one.outlook.startswith("a user's task that the kernel signals")
    assert not one.signalled


def test_the_last_look_counts_and_none_after_the_end() -> None:
    trace = held(state="D")
    seen = ev.AwaitedTask(pid=3, comm="task3", kthread=False, state="R", stack=())
    trace.put(ev.Awaited, patch=FIX, tasks=(seen,))
    [leg] = history(trace.numbered()).legs
    assert "it runs" in stories(leg)[0]
    trace.switch(3)
    [leg] = history(trace.numbered()).legs
    assert "it runs" not in stories(leg)[0]


@pytest.mark.parametrize(("late_ms", "path", "by_signal"), [(1, "exit", True), (2500, "exit", False),
                                                            (1, "scheduler", False)])  # fmt: skip
def test_it_is_told_who_left_for_the_kernels_signal(late_ms: int, path: str, by_signal: bool) -> None:
    trace = held()
    trace.put(ev.Signals, patch=FIX, core=trace.core)
    trace.wait(late_ms)
    trace.switch(3, path)
    [leg] = history(trace.numbered()).legs
    assert ("ended by the kernel's signal" in stories(leg)[0]) is by_signal
    assert transition_of(leg).stragglers[0].signalled is by_signal


def test_how_long_there_were_tasks_of_both_kinds() -> None:
    trace = Trace()
    trace.begin_enabling(FIX)
    trace.wait(500)  # nobody has switched yet
    trace.try_once({3: ("sleeping", "klp_wait")})
    trace.wait(2000)
    trace.switch(3)
    trace.wait(300)  # everybody has
    with trace.completing():
        pass
    [leg] = history(trace.numbered()).legs
    assert 2_000_000_000 <= transition_of(leg).mixed_ns < 2_100_000_000
    assert transition_of(history(Trace().numbered() + held().numbered()).legs[0]).mixed_ns < 1_000_000
