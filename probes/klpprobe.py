# SPDX-License-Identifier: Apache-2.0
"""How a klp probe runs: its options, its program, the event loop.

A tool is a `klpNAME.py` and a `klpNAME.bpf.c`, which may have parts: `klpNAME_SUBJECT.bpf.c`. Copied
together with this file and those it imports (simply all of this folder) it runs on any machine with BCC.
The lines of `-j` are described by `events.schema.json`.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import pkgutil
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import klpcompiled
from klparmed import Follower, Lines, writer
from klpattach import Probes
from klpkprobes import MISSES_COUNTED_SINCE, KprobeEvents
from klpload import Loaded
from klpname import Namer
from klpoutput import Fields, Output, complain, set_encoding, unread
from klpring import CHUNK_EVENTS, LOOK_S, RING_CHUNKS, Backlog, Counters, misses, open_ring
from klpsymbols import ProbeError, Symbols

SNPRINTF_SINCE = (5, 13)
LIVEPATCHES = Path("/sys/kernel/livepatch")
POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}
MARK_SIGNAL = signal.SIGUSR1
# In the environment: a descriptor that is closed once the probes are attached.
READY = "KLP_READY_FD"
# In the environment: have hits of kprobes held against runs of their programs, where the kernel does not.
COUNT_RUNS = "KLP_COUNT_RUNS"


def parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return a parser with the options every probe has."""
    result = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("-j", "--json", action="store_true", help="write JSON lines")
    result.add_argument("-d", "--duration", type=float, metavar="SECONDS", help="stop after SECONDS")
    result.add_argument("--ebpf", action="store_true", help=argparse.SUPPRESS)
    result.add_argument("--armed", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    result.add_argument("--compile", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    return result


def module_name(given: str | None) -> str | None:
    """Return a livepatch's name as the kernel has it, where dashes of its file's name are underscores."""
    return given and given.replace("-", "_")


def program_text(tool: str) -> str:
    """Return the BPF program of a tool, which stands beside this file, with the parts it is made of.

    bcc takes as programs the functions of the one text that it is given, and rewrites map operations only
    there: what is in a file that its compiler includes would be neither. So the parts take the place of the
    lines that include them, here; a part includes none. The compiler's messages count the lines of what
    `--ebpf` prints.
    """
    program = f'{_beside(f"{tool}.bpf.c")}\n#include "klpname.bpf.c"\n'
    part = re.compile(r'^#include "(klp\w+\.bpf\.c)"\n', re.MULTILINE)
    return part.sub(lambda match: _beside(match[1]), program)


def _beside(name: str) -> str:
    """Return the text of a file that stands beside this one, in a folder or in a zip file."""
    return (pkgutil.get_data(__name__, name) or b"").decode()


def numbered(prefix: str, names: Iterable[str]) -> list[str]:
    """Return compiler flags that number `names`, so that C and Python share one list."""
    return [f"-D{prefix}_{name.upper()}={number}" for number, name in enumerate(names)]


def check_host() -> None:
    """Raise ProbeError where no probe of ours can run."""
    kernel = os.uname().release
    if os.geteuid() != 0:
        raise ProbeError("must be root to load BPF programs")
    if release() < SNPRINTF_SINCE:
        raise ProbeError(f"kernel {kernel} is too old: BPF programs name addresses since 5.13")
    if not LIVEPATCHES.is_dir():
        raise ProbeError(f"kernel {kernel} is built without CONFIG_LIVEPATCH")


def release() -> tuple[int, ...]:
    """Return the first two numbers of the running kernel's release."""
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def cpus(possible: Path = POSSIBLE_CPUS) -> int:
    """Return one more than the last possible CPU, from a list such as ``0-3,8``."""
    try:
        return int(possible.read_text().strip().replace("-", ",").split(",")[-1]) + 1
    except OSError as error:
        raise ProbeError(f"cannot read the possible CPUs: {error}") from error


@cache
def kernel_symbols() -> Symbols:
    """Return the running kernel's symbols, read once: by `klptogether.py` for all that it starts."""
    return Symbols()


def compiled(tool: Tool, symbols: Symbols) -> Any:
    """Compile a tool's BPF program; return it as bcc has it."""
    cflags = [*tool.prepare(symbols), *tool.options, "-Wno-macro-redefined"]
    try:
        from bcc import BPF  # late: --help, --ebpf and the unit tests need no bcc
    except ImportError as error:
        raise ProbeError(f"python3-bpfcc is not installed ({error})") from error
    complain(
        f"{tool.name}: compiling for kernel {os.uname().release}; on an emulated CPU that takes a minute"
    )
    try:
        return BPF(text=program_text(tool.name), cflags=cflags)
    except Exception as error:  # bcc raises nothing narrower, after the compiler's own messages
        raise ProbeError(f"{error}; are this kernel's headers installed?") from error


def origin(tool: Tool, symbols: Symbols) -> str:
    """Return what stands for all that a tool's program is made of here."""
    return klpcompiled.origin(program_text(tool.name), tool.options, symbols, cpus())


def load(tool: Tool, symbols: Symbols) -> Any:
    """Load a tool's BPF program, or compile it where there is none for this kernel beside the tool."""
    file = klpcompiled.file_of(tool.name)
    if file.exists():
        try:
            return Loaded(klpcompiled.read(file, origin(tool, symbols)), cpus())
        except (klpcompiled.Unfit, ProbeError, OSError) as error:
            complain(f"{tool.name}: {error}; compiling it here")
    return compiled(tool, symbols)


def namer(bpf: Any) -> Namer:
    """Return what asks the kernel for names; raise ProbeError if it refuses."""
    try:
        return Namer(bpf)
    except Exception as error:  # bcc raises nothing narrower
        raise ProbeError(f"this kernel gives no names to addresses: {error}") from error


def release_memory() -> None:
    """Give back what clang and LLVM took: most of a tool's memory, and of no use once it is loaded.

    Only their text is unmapped: it comes back from the file if it is needed again, while their data
    holds relocations, which would not.
    """
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions, *_, name = line.split()
        if permissions == "r-xp" and re.search(r"/lib(LLVM|clang|bcc)", name):
            begin, end = (int(address, 16) for address in span.split("-"))
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def follow(
    read: Callable[[], bool],
    settle: Callable[[], None],
    out: Output,
    *,
    tick_s: float,
    duration_s: float | None,
    due: Callable[[float], bool] = lambda _now_s: True,
) -> None:
    """Read until told to stop, and mark the stream at each SIGUSR1; before a mark and the end, `settle`.

    Where nobody reads what is written any more, that is a stop, too.

    At a tick it reads a part of the events if that is `due`, given the time, and `read` tells whether
    there are more; `settle` writes all that there is.

    The BPF side never wakes this process (BPF_RB_NO_WAKEUP): a wake-up per event would itself be
    scheduling activity in a transition. Blocked signals are awaited in place of handlers, so one
    that arrives while reading waits for that part, and the reaction to one takes no tick.
    """
    deadline = time.monotonic() + (duration_s if duration_s is not None else float("inf"))
    more = False
    while not unread():
        wait_s = min(LOOK_S if more else tick_s, max(0.0, deadline - time.monotonic()))
        caught = signal.sigtimedwait(STOP_SIGNALS | {MARK_SIGNAL}, wait_s)
        if time.monotonic() >= deadline or (caught is not None and caught.si_signo in STOP_SIGNALS):
            break
        if caught is not None:
            settle()
            out.mark()
        elif due(time.monotonic()):
            more = read()
        else:
            continue
        sys.stdout.flush()
    settle()
    out.end()
    sys.stdout.flush()


@dataclass(frozen=True)
class Tool:
    """What is particular to one tool.

    `head` is the columns' first line. `prepare` returns the compiler's flags; `attach` places the
    probes; `show` writes one BPF event, and `begin` is called before a batch of them; `tell`, if any,
    writes what was counted in the kernel, before each mark and the end, and is given the function
    that drains; `missed` returns how many events the tool itself knows to be lost; `wants` tells whether
    to show an event of an armed probe, by its kind and fields, and is None where what was asked for takes
    a program of its own.
    """

    name: str
    head: str
    tick_s: float
    columns: Callable[[str, Fields], str | None]
    prepare: Callable[[Symbols], list[str]]
    attach: Callable[[Probes], None]
    show: Callable[[Output, Symbols, Any], None]
    begin: Callable[[], None] = lambda: None
    tell: Callable[[Output, Callable[[], None]], None] | None = None
    missed: Callable[[], int] = lambda: 0
    wants: Callable[[str, Fields], bool] | None = None
    options: tuple[str, ...] = ()


class Reader:
    """Reads a tool's events out of its ring buffer, and shows them."""

    def __init__(self, tool: Tool, probes: Probes, out: Output) -> None:
        self._tool, self._probes, self._out = tool, probes, out
        self._bpf, self._symbols = probes.bpf, probes.symbols
        self._ring, self._backlog = open_ring(self._bpf), Backlog.of(self._bpf["events"])
        self._lost = Counters.of(self._bpf["lost"])
        self._left_out = 0

    def read(self) -> bool:
        """Show a chunk of the events; return whether there may be more."""
        batch = self._ring()
        self._tool.begin()
        for event in batch:
            self._tool.show(self._out, self._symbols, event)
        self._out.lose(self._lost.total() + self._left_out + self._tool.missed())
        return len(batch) >= CHUNK_EVENTS

    def drain(self) -> None:
        """Show every event that is there."""
        for _ in range(RING_CHUNKS):
            if not self.read():
                return

    def settle(self) -> None:
        """Show every event, count what was left out, and tell what was counted in the kernel."""
        self._left_out = misses(self._bpf)
        if self._probes.events:
            self._left_out += self._probes.events.left_out()
        self.drain()
        if self._tool.tell:
            self._tool.tell(self._out, self.drain)

    def due(self, now_s: float) -> bool:
        """Tell whether to read at this tick; what events name may have come with a module."""
        if self._backlog.waiting():
            self._symbols.notice()
        return self._backlog.due(now_s)


def tell_ready() -> None:
    """Tell whoever started this tool, and wants to know, that its probes are attached."""
    if ready := os.environ.pop(READY, ""):
        os.close(int(ready))


def trace(tool: Tool, args: argparse.Namespace) -> None:
    """Load, attach, and follow a tool until it is stopped."""
    check_host()
    symbols = kernel_symbols()
    bpf = load(tool, symbols)
    complain(f"{tool.name}: attaching")
    symbols.ask(namer(bpf))
    probes = Probes(bpf, symbols, counted_events(tool.name))
    try:
        follow_probes(tool, args, probes)
    finally:
        if probes.events:
            probes.events.remove()


def counted_events(tool: str) -> KprobeEvents | None:
    """Return where a tool's kprobe events are to be, and have them counted where that was asked for.

    Not by itself, where the kernel counts nothing (before 6.7): on 6.1 klptransition then told events as
    lost, beside a klpconsistency, that no trace lacked; the cause is not known.
    """
    events = KprobeEvents.find(tool)
    if events:
        events.remove()
        if release() < MISSES_COUNTED_SINCE and COUNT_RUNS in os.environ:
            events.count_runs()
    return events


def follow_probes(tool: Tool, args: argparse.Namespace, probes: Probes) -> None:
    """Attach a tool's probes, and show what they see until it is stopped."""
    out = Output(tool.name, args.json, tool.columns)
    reader = Reader(tool, probes, out)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS | {MARK_SIGNAL})
    tool.attach(probes)
    if probes.events:
        probes.events.settle()
    begin(tool, args)
    out.header(probes.attached, probes.missing, probes.facts | {"filters": list(filters(args))})
    sys.stdout.flush()
    release_memory()
    complain("ready")
    tell_ready()
    follow(reader.read, reader.settle, out, tick_s=tool.tick_s, duration_s=args.duration, due=reader.due)


def begin(tool: Tool, args: argparse.Namespace) -> None:
    """Write what stands above the columns."""
    if not args.json:
        print(f"Tracing the livepatch core... Hit Ctrl-C to end.\n{tool.head}", flush=True)


# Options of several tools that leave out some of the events.
_FILTERS = ("patch", "pid", "id")


def filters(args: argparse.Namespace) -> Iterator[str]:
    """Yield what a tool was told to trace alone, such as ``pid=181``."""
    for name in _FILTERS:
        if (wanted := getattr(args, name, None)) is not None:
            yield f"{name}={module_name(wanted) if name == 'patch' else wanted}"


def unfiltered(args: argparse.Namespace) -> Callable[[str, Fields], bool] | None:
    """Return what shows all that an armed probe sees, for a tool that is filtered in the kernel.

    None where a filter was given: what was counted cannot be told apart afterwards.
    """
    if any(filters(args)):
        return None
    return lambda kind, _fields: kind != "callers" or args.stacks


def follow_armed(tool: Tool, args: argparse.Namespace) -> bool:
    """Show what an armed probe sees; return False where none can show what was asked for."""
    pid = writer(args.armed) if args.armed else None
    if pid is None:
        return False
    if tool.wants is None or args.json:
        complain(f"{tool.name}: the armed probe cannot show that: another one is started beside it")
        return False
    out = Output(tool.name, args.json, tool.columns)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    with args.armed.open("rb") as stream:
        follower = Follower(Lines(stream), pid, out, tool.wants)
        begin(tool, args)
        complain("ready")
        follower.follow(STOP_SIGNALS, args.duration)
    return True


def run(tool: Tool, args: argparse.Namespace) -> int:
    """Run a tool from its arguments to its exit status."""
    if args.ebpf:
        print(program_text(tool.name), end="")
        return 0
    set_encoding(args.json)
    try:
        if args.compile:
            symbols = kernel_symbols()
            bpf = compiled(tool, symbols)
            klpcompiled.write(klpcompiled.from_bcc(bpf, origin(tool, symbols)), args.compile)
        elif not follow_armed(tool, args):
            trace(tool, args)
    except ProbeError as error:
        complain(f"{tool.name}: {error}")
        return 1
    except BrokenPipeError:  # the reader went away; there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:  # before the probes were attached
        return 130
    return 0
