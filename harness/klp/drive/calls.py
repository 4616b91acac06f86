# SPDX-License-Identifier: Apache-2.0
"""How often functions are called in a guest, and by which tasks: counted by its kernel alone.

A kprobe event at each function's entry, with a histogram by task (Documentation/trace/histogram.rst): no
program runs for it, and what is counted stays in the kernel until it is read. An event waits for its
module: it counts from the module's very first call, keeps its count when the module goes, and goes on when
it comes again. At an entry a kprobe is ftrace's: it touches no return address, and holds neither its module
nor a transition.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from klp.analysis.calls import FunctionCalls, TaskCalls
from klp.analysis.result import PatchedFunctions
from klp.guest.ssh import CommandResult
from klp.model import Module
from klp.modules.functions import changed_functions

_VMLINUX = "vmlinux"
# Entries of a histogram: the kernel allocates all of them when it is made, 350 bytes each (docs/facts.md),
# and takes a power of two from 128 on (kernel/trace/tracing_map.h). `_ALL` is what functions share.
_LEAST, _MOST, _ALL = 128, 1024, 4096
# By bash alone: 300 functions take an emulated guest three seconds, a program for each half a minute.
_KEY = "hist:keys=common_pid.execname"
_ARM = (
    "if [[ ! -e events/sched/sched_switch/hist ]]; then echo no CONFIG_HIST_TRIGGERS >&2; false; else "
    'for each; do name=${each%% *}; { echo "p:$group/$name ${each#* }" >>kprobe_events && '
    f"echo {_KEY}:size=$entries >events/$group/$name/trigger; }} 2>&1 || "
    'echo "$name refused"; done; fi'
)
_READ = (
    'mapfile -t events <kprobe_profile && for each in "${events[@]}"; do '
    "set -- $each; [[ $1 == ${group}_+([0-9]) ]] || continue; echo $1 $2 $3; "
    '(( ! $2 )) || { mapfile lines <events/$group/$1/hist; printf %s "${lines[@]}"; }; done'
)
_CLEAR = f"for each in events/$group/${{group}}_*; do echo {_KEY}:clear >$each/trigger; done"
_DISARM = (
    f"for each in events/$group/${{group}}_*; do echo '!{_KEY}' >$each/trigger; "
    'echo "-:$group/${each##*/}" >>kprobe_events; done'
)
# As hist_trigger_print_key (kernel/trace/trace_events_hist.c) writes it; a name may hold a newline.
_TASK = re.compile(r"\{ common_pid: (.{1,16}?) *\[ *(\d+)\] \} hitcount: +(\d+)", re.DOTALL)
_DROPPED = re.compile(r"^ +Dropped: (\d+)$", re.MULTILINE)


class CommandRunner(Protocol):
    """What runs commands in a guest."""

    def run(
        self, command: str | Sequence[str], *, stdin: bytes = b"", timeout_s: float | None = None
    ) -> CommandResult:
        """Run a command to its end."""


@dataclass(frozen=True, slots=True)
class CountedFunction:
    """A function whose calls are to be counted.

    Attributes:
        object, old, new: as of `FunctionCalls`; `new` is empty where it is not known.
        symbol: as kprobe_events takes it: ``FUNCTION`` or ``MODULE:FUNCTION``.
        position: which of several of its name in its object it is, from 1; 0 where there is one.
        hidden: why it cannot be counted, in words; empty where nothing is known against it.
    """

    object: str
    old: str
    new: str
    symbol: str
    position: int = 0
    hidden: str = ""


def new_functions(module: Module) -> tuple[CountedFunction, ...]:
    """Return a livepatch's own functions that take the place of others, as far as its file tells them.

    Only those of this very module: a copy of it under another name has functions of its own.
    """
    return tuple(
        CountedFunction(each.object, each.old, each.new, f"{module.name}:{each.new}", hidden=each.hidden)
        for each in changed_functions(module)
    )


def originals(of: Module | Iterable[PatchedFunctions]) -> tuple[CountedFunction, ...]:
    """Return the functions that a livepatch changes: by its file, or by what sysfs showed of it."""
    if isinstance(of, Module):
        return tuple(
            CountedFunction(each.object, each.old, each.new, _symbol(each.object, each.old), each.position)
            for each in changed_functions(of)
        )
    return tuple(_originals(of))


def _originals(objects: Iterable[PatchedFunctions]) -> Iterator[CountedFunction]:
    for each in objects:
        for function in each.functions:
            name, _, position = function.partition(",")
            yield CountedFunction(each.object, name, "", _symbol(each.object, name), int(position or 0))


def untold(objects: Iterable[PatchedFunctions]) -> tuple[FunctionCalls, ...]:
    """Return the functions that sysfs showed of a livepatch whose file does not tell its own."""
    why = "its structures klp_func are made when it is loaded: its file does not tell its own functions"
    return tuple(
        FunctionCalls(object=each.object, old=each.old, new="", uncounted=why)
        for each in originals(objects)
    )


def _symbol(object_: str, name: str) -> str:
    return name if object_ == _VMLINUX else f"{object_}:{name}"


@dataclass(frozen=True, slots=True)
class Histogram:
    """What the kernel counted at one function: by task, and calls that it could not give to a task."""

    tasks: tuple[TaskCalls, ...]
    dropped: int


_NONE = Histogram((), 0)


class CallCounter:
    """Counts calls at the entries of functions, per task.

    What the kernel refuses costs no other function its count; `read` says why.

    Args:
        group: names the events in tracefs; letters, digits and underscores, another for each counter.
    """

    def __init__(self, guest: CommandRunner, functions: Sequence[CountedFunction], group: str) -> None:
        self.functions = tuple(functions)
        self._guest = guest
        self._group = group
        self._refused: dict[int, str] = {}

    def arm(self) -> None:
        """Begin to count; modules that are not loaded yet are counted as they come.

        Raises:
            VmLost: the guest was lost meanwhile, or does not answer.
        """
        self._refused = {number: each.hidden for number, each in enumerate(self.functions) if each.hidden}
        open_ = {number: each for number, each in enumerate(self.functions) if not each.hidden}
        # By its name, which the kernel takes for the only function or, before 6.7, for the first one.
        self._put({number: each.symbol for number, each in open_.items() if each.position < 2})
        several = {
            number: each
            for number, each in open_.items()
            if each.position > 1 or (each.position == 1 and number in self._refused)
        }
        if several:
            self._put_by_address(several)

    def _put(self, symbols: Mapping[int, str]) -> None:
        """Put a kprobe event with its histogram on each symbol; keep what was said of those refused."""
        if not symbols:
            return
        words = (shlex.quote(f"{self._group}_{number} {symbol}") for number, symbol in symbols.items())
        entries = entries_for(len(self.functions))
        done = self._guest.run(self._in_tracefs(f"entries={entries}; set -- {' '.join(words)}; {_ARM}"))
        for number in symbols:
            self._refused.pop(number, None)
        if done.status:
            self._refused |= dict.fromkeys(symbols, f"this guest cannot count: {_said(done.stderr)}")
        self._refused |= refusals(done.stdout, self._group)

    def _put_by_address(self, several: Mapping[int, CountedFunction]) -> None:
        names = "|".join(sorted({re.escape(each.old) for each in several.values()}))
        listed = self._guest.run(["grep", "-E", f" . ({names})(\\s|$)", "/proc/kallsyms"]).stdout
        found = {number: address_of(listed, each) for number, each in several.items()}
        for number, address in found.items():
            if not address:
                each = several[number]
                self._refused[number] = f"{each.object} has no {each.old} number {each.position} now"
        self._put({number: address for number, address in found.items() if address})

    def read(self) -> tuple[FunctionCalls, ...]:
        """Return the calls since `arm` or `clear`, function by function.

        Raises:
            VmLost: the guest was lost meanwhile, or does not answer.
        """
        found: Mapping[int, Histogram] = {}
        broken = "its count is gone from tracefs"
        if len(self._refused) < len(self.functions):
            done = self._guest.run(self._in_tracefs(_READ))
            found = histograms(done.stdout, self._group)
            broken = f"its count cannot be read: {_said(done.stderr)}" if done.status else broken
        return tuple(
            FunctionCalls(
                object=each.object, old=each.old, new=each.new,
                tasks=found.get(number, _NONE).tasks, dropped=found.get(number, _NONE).dropped,
                uncounted=self._refused.get(number, "" if number in found else broken),
            )
            for number, each in enumerate(self.functions)
        )  # fmt: skip

    def clear(self) -> None:
        """Count from 0 again.

        Raises:
            VmLost: the guest was lost meanwhile, or does not answer.
        """
        if len(self._refused) < len(self.functions):
            self._guest.run(self._in_tracefs(_CLEAR))

    def disarm(self) -> None:
        """Count no longer, and forget what was counted; the kernel takes 0.1 s for each function.

        Raises:
            VmLost: the guest was lost meanwhile, or does not answer.
        """
        if len(self._refused) < len(self.functions):
            self._guest.run(self._in_tracefs(_DISARM))

    def _in_tracefs(self, script: str) -> str:
        return f"cd /sys/kernel/tracing && group={self._group} && {{ {script}; }}"


def entries_for(functions: int) -> int:
    """Return how many tasks each of so many functions has room for: a power of two."""
    entries = _MOST
    while entries > _LEAST and entries * functions > _ALL:
        entries //= 2
    return entries


def refusals(text: str, group: str) -> dict[int, str]:
    """Read what arming wrote: lines of bash's, then ``GROUP_7 refused`` for whom they were."""
    found, said = {}, ""
    for line in text.splitlines():
        name, _, refused = line.rpartition(" ")
        if refused == "refused" and name.startswith(f"{group}_"):
            found[int(name.removeprefix(f"{group}_"))] = f"the kernel refuses to count it: {_said(said)}"
            said = ""
        else:
            said = line
    return found


def _said(text: str) -> str:
    """Return the error's own words: bash writes ``bash: line 1: echo: write error: WORDS``."""
    last = text.strip().splitlines()[-1:] or ["it does not say why"]
    return last[0].rpartition(": ")[2]


def address_of(listed: str, function: CountedFunction) -> str:
    """Return the address of a function among lines of /proc/kallsyms; empty where it is not there.

    They stand in the order in which klp_find_object_symbol (kernel/livepatch/core.c) counts.
    """
    fields = [line.split() for line in listed.splitlines()]
    addresses = [
        words[0]
        for words in fields
        if words[2] == function.old
        and (words[3].strip("[]") if len(words) > 3 else _VMLINUX) == function.object
    ]
    at = function.position - 1
    return f"0x{addresses[at]}" if 0 <= at < len(addresses) else ""


def histograms(text: str, group: str) -> dict[int, Histogram]:
    """Read what reading wrote: for each event ``GROUP_7 HITS MISSED``, and its histogram if it was hit."""
    parts = re.split(rf"^{group}_(\d+) \d+ (\d+)$", text, flags=re.MULTILINE)
    return {
        int(number): _histogram(shown, int(missed))
        for number, missed, shown in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    }


def _histogram(shown: str, missed: int) -> Histogram:
    tasks = tuple(
        TaskCalls(task=name, pid=int(pid), calls=int(calls)) for name, pid, calls in _TASK.findall(shown)
    )
    dropped = _DROPPED.search(shown)
    # Missed: it ran where a kprobe was being handled already, so its own could not be.
    return Histogram(tasks, missed + (int(dropped[1]) if dropped else 0))
