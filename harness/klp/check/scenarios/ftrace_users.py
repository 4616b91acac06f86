# SPDX-License-Identifier: Apache-2.0
"""Other users of ftrace on the functions that a livepatch changes, there before it or after it.

An administrator who traces a function and one who livepatches it know nothing of each other. Tracing
shares a function with a livepatch; whoever changes where it goes on (FTRACE_OPS_FL_IPMODIFY), such as a
kprobe with a post handler, does not. See Documentation/livepatch/livepatch.rst, 7. Limitations.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from klp.check.scenario import scenario
from klp.check.stage import NotApplicable, Stage
from klp.drive.calls import CountedFunction, address_of
from klp.drive.steps import Moment
from klp.errors import CheckFailed

_TRACING = "/sys/kernel/tracing"
_INSTANCE = f"{_TRACING}/instances/klp_check"
_GROUP = "klp_check"
# What `p` and `r` make of /sys/kernel/tracing/kprobe_events: Documentation/trace/kprobetrace.rst.
_KPROBES = {"kprobe": "p", "kretprobe": "r"}


@dataclass(frozen=True, slots=True)
class _Function:
    """A function of an object, as tracefs writes it.

    Attributes:
        address: where it begins, if the livepatch says which of several of its name it means; else empty.
            A kprobe on a name that there is several times is refused (kernel/trace/trace_kprobe.c).
    """

    object: str
    name: str
    address: str = ""

    @property
    def filter(self) -> str:
        """Return it for set_ftrace_filter."""
        return self.name if self.object == "vmlinux" else f"{self.name}:mod:{self.object}"

    @property
    def symbol(self) -> str:
        """Return it for kprobe_events."""
        if self.address:
            return self.address
        return self.name if self.object == "vmlinux" else f"{self.object}:{self.name}"


class FunctionUser(Protocol):
    """Something that is put on the functions that a livepatch changes, and sees their calls."""

    def attach(self) -> None:
        """Put it there.

        Raises:
            CheckFailed: the kernel refuses it on each of them.
        """

    def detach(self) -> None:
        """Take it away.

        Raises:
            CheckFailed: the kernel refuses.
        """

    def calls(self) -> Counter[str]:
        """Return how often each function was seen called since the last time."""


class _FtraceUser:
    """ftrace's function tracer, kprobes or kretprobes on the functions that the livepatch changes.

    Args:
        kind: ``ftrace``, ``kprobe`` or ``kretprobe``.
    """

    def __init__(self, stage: Stage, kind: str) -> None:
        self._stage = stage
        self._kind = kind
        # As they are called in traces: of several functions of one name the calls are counted together.
        self._functions = tuple(_Function(*each) for each in dict.fromkeys(stage.functions))
        if not self._functions:
            raise NotApplicable("it changes no function, so there is none to be traced")

    def attach(self) -> None:
        """Trace the functions.

        Raises:
            CheckFailed: the kernel refuses each of them.
        """
        # An instance of its own: the ring buffer, filter and tracer of the top level stay as they are.
        self._run(f"mkdir {_INSTANCE}")
        if self._kind == "ftrace":
            file = f"{_INSTANCE}/set_ftrace_filter"
            self._some(f"echo '{each.filter}' >>{file}" for each in self._functions)
            # After the filter: with an empty one the tracer is put on every function of the kernel.
            self._run(f"echo function >{_INSTANCE}/current_tracer")
            return
        letter = _KPROBES[self._kind]
        self._functions = self._found()
        self._some(
            f"echo '{letter}:{_GROUP}/f{number} {each.symbol}' >>{_TRACING}/kprobe_events"
            for number, each in enumerate(self._functions)
        )
        self._run(f"echo 1 >{_INSTANCE}/events/{_GROUP}/enable")

    def _found(self) -> tuple[_Function, ...]:
        """Return the functions, those whose name their object has several times by their addresses.

        Asked for each time: a module that has gone and come again lies elsewhere.
        """
        listed = self._stage.listed()
        parts = (
            (each.object, *name.partition(",")[::2])
            for each in self._stage.objects
            for name in each.functions
        )
        return tuple(
            _Function(
                owner, name, address_of(listed, CountedFunction(owner, name, "", "", int(position or 0)))
            )
            for owner, name, position in parts
        )

    def detach(self) -> None:
        """Trace them no longer.

        Raises:
            CheckFailed: the kernel refuses.
        """
        if self._kind == "ftrace":
            self._run(f"echo nop >{_INSTANCE}/current_tracer")
        else:
            self._run(f"echo 0 >{_INSTANCE}/events/{_GROUP}/enable")
            # Disabled first, for an event in use is not removed (EBUSY); one by one, for klp's own probes
            # have events in the same file.
            names = f"grep -o '{_GROUP}/f[0-9]*' {_TRACING}/kprobe_events"
            self._run(f'for e in $({names}); do echo "-:$e" >>{_TRACING}/kprobe_events || exit 1; done')
        self._run(f"rmdir {_INSTANCE}")

    def calls(self) -> Counter[str]:
        """Return how often each function was seen called since the last time."""
        text = self._run(f"cat {_INSTANCE}/trace; echo >{_INSTANCE}/trace")
        return calls_in(text, tuple(each.name for each in self._functions))

    def _some(self, commands: Iterable[str]) -> None:
        """Run commands, of which one at least must succeed.

        Not every function can be traced: kprobe_events, for one, refuses a name that occurs twice.
        """
        results = [self._stage.guest.run(each) for each in commands]
        refused = [each for each in results if each.status]
        if len(refused) == len(results):
            said = refused[0].stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise CheckFailed(f"a {self._kind} on its functions is refused: {said[0]}")
        for each in refused:
            self._stage.note(f"{self._kind}: not on every function: {each.stderr.strip()[-120:]}")

    def _run(self, command: str) -> str:
        return self._stage.guest.run(command).must(f"{self._kind} by tracefs").stdout


def calls_in(text: str, functions: Sequence[str]) -> Counter[str]:
    """Count the calls of functions in a `trace` file, as the function tracer or probes f0, f1, … wrote it.

    Args:
        text: of a file ``trace``: ``cat-77 [000] ..... 12.3: FUNCTION <-CALLER`` or ``…: f0: (FUNC…)``.
        functions: the numbers of probes stand for their places in it.
    """
    traced = re.findall(r"^[^#\n]*: ([\w.]+)(?: \[\w+\])? <-", text, re.MULTILINE)
    probed = [functions[int(each)] for each in re.findall(r"^[^#\n]*: f(\d+): \(", text, re.MULTILINE)]
    return Counter(each for each in (*traced, *probed) if each in functions)


@scenario(
    "ftrace-user", "its functions are traced by ftrace, from before it and from after it", informed=True
)
def ftrace_user(stage: Stage) -> None:
    """The function tracer sees a call before the livepatch redirects it."""
    both_orders(stage, _FtraceUser(stage, "ftrace"))


@scenario("kprobe-user", "its functions have kprobes, from before it and from after it", informed=True)
def kprobe_user(stage: Stage) -> None:
    """A kprobe at a function's entry is an ftrace user, and sees the calls; one further in would not."""
    both_orders(stage, _FtraceUser(stage, "kprobe"))


@scenario(
    "kretprobe-user", "its functions have kretprobes, from before it and from after it", informed=True
)
def kretprobe_user(stage: Stage) -> None:
    """A kretprobe exchanges the return address that unwinding a sleeper depends on."""
    both_orders(stage, _FtraceUser(stage, "kretprobe"))


def both_orders(stage: Stage, user: FunctionUser) -> None:
    """Drive a livepatch whose functions have a user, from before it and from after it.

    Raises:
        CheckFailed, TransitionStuck: one of the two does not get along with the other.
    """
    stage.set_up()
    user.attach()
    stage.observe(Moment.BEFORE)
    before = user.calls()
    stage.load()
    stage.observe(Moment.ENABLED)
    _compare(stage, before, user.calls(), "while it is enabled", all_of_them=False)
    stage.livepatch.disable()
    stage.observe(Moment.AFTER)
    _compare(stage, before, user.calls(), "after it was disabled", all_of_them=True)
    user.detach()
    stage.unload()
    stage.load()
    user.attach()
    stage.observe(Moment.ENABLED)
    _compare(stage, before, user.calls(), "if put there while it is enabled", all_of_them=False)
    # Looked at once more: with one user left, ftrace no longer calls it through the list of all users.
    user.detach()
    stage.observe(Moment.ENABLED)
    stage.livepatch.disable()
    stage.observe(Moment.AFTER)
    stage.unload()
    stage.tear_down()
    _tell(stage, before)


def _compare(
    stage: Stage, before: Counter[str], now: Counter[str], when: str, *, all_of_them: bool
) -> None:
    """See that functions which the author's commands call are seen called; new code may call fewer."""
    # Not how often: the commands call as often each time, but other tasks of the guest may call as well.
    lost = [name for name in before if not now[name]]
    if lost and (all_of_them or len(lost) == len(before)):
        counts = ", ".join(f"{name} ({before[name]} before it)" for name in lost)
        stage.fault(f"its user sees no call {when}: {counts}")


def _tell(stage: Stage, before: Counter[str]) -> None:
    if before:
        counts = ", ".join(f"{name} {count}" for name, count in before.items())
        stage.note(f"calls seen: {counts}")
    else:
        stage.note("no command of patch.toml calls its functions: both got along, but no call was traced")
