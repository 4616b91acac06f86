# SPDX-License-Identifier: Apache-2.0
"""What the klp probes have in common: options, attaching, the event loop, output.

A tool is a `klpNAME.py` and a `klpNAME.bpf.c`; copied together with this file, `klpsymbols.py` and
`klptext.py` it runs on any machine with BCC. The lines of `-j` are described by `events.schema.json`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from klpsymbols import ProbeError, Symbols

SCHEMA = 2
RING_BUFFER_SINCE = (5, 8)
LIVEPATCHES = Path("/sys/kernel/livepatch")
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}
MARK_SIGNAL = signal.SIGUSR1
# More than any tool's ring buffer holds: after so many, all that was there before has been read.
RING_EVENTS = 32768

Fields = dict[str, Any]


# --- arguments ----------------------------------------------------------------------------------


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
    return result


def program_text(tool: str) -> str:
    """Return the BPF program of a tool, which stands beside this file, and the parts it includes.

    They are put in here, because bcc rewrites what is in the main file only.
    """
    folder = Path(__file__).parent
    program = (folder / f"{tool}.bpf.c").read_text(encoding="utf-8")
    part = re.compile(r'^#include "(klp\w+\.bpf\.c)"\n', re.MULTILINE)
    return part.sub(lambda match: (folder / match[1]).read_text(encoding="utf-8"), program)


def numbered(prefix: str, names: Iterable[str]) -> list[str]:
    """Return compiler flags that number `names`, so that C and Python share one list."""
    return [f"-D{prefix}_{name.upper()}={number}" for number, name in enumerate(names)]


# --- output -------------------------------------------------------------------------------------


@dataclass
class Output:
    """Writes events, to people in columns or to programs as JSON, and numbers them."""

    probe: str
    as_json: bool
    columns: Callable[[str, Fields], str | None]
    write: Callable[[str], Any] = sys.stdout.write
    seq: int = 0
    marks: int = 0
    lost: int = 0
    _began_ns: int = field(default_factory=time.monotonic_ns)

    def event(self, kind: str, ts_ns: int, /, **fields: Any) -> None:
        """Write one event."""
        if self.as_json:
            head = {"type": kind, "probe": self.probe, "seq": self.seq, "ts_ns": ts_ns}
            self.write(json.dumps(head | fields, ensure_ascii=False) + "\n")
        elif line := self.columns(kind, fields):
            self.write(f"{max(0, ts_ns - self._began_ns) / 1e9:<12.6f}{line}\n")
        self.seq += 1

    def now(self, kind: str, /, **fields: Any) -> None:
        """Write an event of the tool's own; people get these on stderr, if at all."""
        if self.as_json:
            self.event(kind, time.monotonic_ns(), **fields)

    def header(self, attached: Iterable[str], missing: Iterable[Fields]) -> None:
        """Write the first event."""
        kernel = os.uname().release
        self.now("header", schema=SCHEMA, kernel=kernel, attached=list(attached), missing=list(missing))

    def mark(self) -> None:
        """Say that all that happened before this moment has been written."""
        self.marks += 1
        self.now("mark", number=self.marks)

    def lose(self, total: int) -> None:
        """Report what the ring buffer had no room for, given the total of the whole run."""
        count, self.lost = total - self.lost, total
        if count:
            self.now("lost", count=count)
            complain(f"{self.probe}: lost {count} events")

    def end(self) -> None:
        """Write the last event."""
        self.now("end", events=self.seq, lost=self.lost)


def complain(text: str) -> None:
    """Write a line to stderr."""
    print(text, file=sys.stderr, flush=True)


def task_fields(event: Any) -> Fields:
    """Return the task of a BPF event."""
    return {"pid": event.pid, "tgid": event.tgid, "comm": text(event.comm)}


def text(raw: bytes) -> str:
    """Return a C string of the kernel's as text; a comm can hold any bytes."""
    return raw.decode(errors="replace")


# --- attaching ----------------------------------------------------------------------------------


@dataclass
class Probes:
    """Attaches BPF functions, and remembers what could not be."""

    bpf: Any
    symbols: Symbols
    attached: list[str] = field(default_factory=list)
    missing: list[Fields] = field(default_factory=list)

    def enter(self, name: str, function: str, unseen: str) -> None:
        """Run `function` where the kernel function `name` begins."""
        self._attach(self.bpf.attach_kprobe, name, self.symbols.resolve(name), function, unseen)

    def enter_body(self, name: str, function: str, unseen: str) -> None:
        """Run `function` where the work of `name` begins; it must not read arguments."""
        self._attach(self.bpf.attach_kprobe, name, self.symbols.body(name), function, unseen)

    def leave(self, name: str, function: str, unseen: str) -> None:
        """Run `function` where `name` returns: only for short functions of the livepatch core.

        A task that sleeps below a return probe is one whose stack the kernel may call unreliable.
        """
        self._attach(self.bpf.attach_kretprobe, name, self.symbols.resolve(name), function, unseen)

    def leave_body(self, name: str, function: str, unseen: str) -> None:
        """Run `function` where the work of `name` ends; see `leave`."""
        self._attach(self.bpf.attach_kretprobe, name, self.symbols.body(name), function, unseen)

    def tracepoint(self, name: str, function: str, unseen: str) -> None:
        """Run `function` at a raw tracepoint."""
        try:
            self.bpf.attach_raw_tracepoint(tp=name, fn_name=function)
        except Exception:  # bcc raises nothing narrower
            self.miss(name, unseen)
        else:
            self.note(name)

    def tail_calls(self, table: str, functions: Iterable[str]) -> None:
        """Let kprobe programs call `functions` through a BPF_PROG_ARRAY, by their place in it."""
        for place, function in enumerate(functions):
            loaded = self.bpf.load_func(function, self.bpf.KPROBE)
            self.bpf[table][ctypes.c_int(place)] = ctypes.c_int(loaded.fd)

    def at(self, address: int, function: str) -> bool:
        """Run `function` at an instruction; False if the kernel refuses (it is not at one's start)."""
        anchor = self.symbols.anchor(address)
        offset = address - anchor.address
        try:
            self.bpf.attach_kprobe(event=anchor.name, event_off=offset, fn_name=function)
        except Exception:  # bcc raises nothing narrower
            return False
        return True

    def _attach(
        self, attach: Callable[..., None], name: str, symbol: str | None, function: str, unseen: str
    ) -> None:
        try:
            if symbol is None:
                raise ProbeError(f"{name} is not in this kernel")
            attach(event=symbol, fn_name=function)
        except Exception:  # bcc raises nothing narrower
            self.miss(name, unseen)
        else:
            self.note(symbol)

    def note(self, symbol: str) -> None:
        """Count `symbol` among the attached, once."""
        if symbol not in self.attached:
            self.attached.append(symbol)

    def miss(self, name: str, unseen: str) -> None:
        """Say what will not be seen because the kernel has no `name` to probe."""
        complain(f"no probe point {name}: {unseen} will not be seen")
        if all(one["symbol"] != name for one in self.missing):
            self.missing.append({"symbol": name, "unseen": unseen})


# --- running ------------------------------------------------------------------------------------


def check_host() -> None:
    """Raise ProbeError where no probe of ours can run."""
    release = os.uname().release
    if os.geteuid() != 0:
        raise ProbeError("must be root to load BPF programs")
    version = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    if version < RING_BUFFER_SINCE:
        raise ProbeError(f"kernel {release} has no BPF ring buffer (5.8 has)")
    if not LIVEPATCHES.is_dir():
        raise ProbeError(f"kernel {release} is built without CONFIG_LIVEPATCH")


def load(tool: str, cflags: list[str]) -> Any:
    """Compile and load a tool's BPF program."""
    try:
        from bcc import BPF  # late: --help, --ebpf and the unit tests need no bcc
    except ImportError as error:
        raise ProbeError(f"python3-bpfcc is not installed ({error})") from error
    try:
        return BPF(text=program_text(tool), cflags=[*cflags, "-Wno-macro-redefined"])
    except Exception as error:  # bcc raises nothing narrower, after the compiler's own messages
        raise ProbeError(f"{error}; are this kernel's headers installed?") from error


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


def open_ring(bpf: Any) -> Callable[[], list[Any]]:
    """Open the ring buffer `events`; return the function that empties it."""
    table = bpf["events"]
    batch: list[Any] = []

    def keep(_context: Any, data: Any, _size: int) -> int:
        event = table.event(data)
        batch.append(type(event).from_buffer_copy(event))  # the ring's memory is reused
        return -1 if len(batch) >= RING_EVENTS else 0  # a ring that fills as fast would never end

    table.open_ring_buffer(keep)

    def drain() -> list[Any]:
        batch.clear()
        bpf.ring_buffer_consume()
        return list(batch)

    return drain


def follow(
    drain: Callable[[], None],
    out: Output,
    *,
    tick_s: float,
    duration_s: float | None,
    tell: Callable[[], None] = lambda: None,
) -> None:
    """Drain until told to stop, and mark the stream at each SIGUSR1; before a mark and the end, `tell`.

    The BPF side never wakes this process (BPF_RB_NO_WAKEUP): a wake-up per event would itself be
    scheduling activity in a transition. Blocked signals are awaited in place of handlers, so one
    that arrives while draining waits for its turn, and the reaction to one takes no tick.
    """
    deadline = time.monotonic() + (duration_s if duration_s is not None else float("inf"))
    stopping = False
    while not stopping:
        wait_s = min(tick_s, max(0.0, deadline - time.monotonic()))
        caught = signal.sigtimedwait(STOP_SIGNALS | {MARK_SIGNAL}, wait_s)
        stopping = time.monotonic() >= deadline or (caught is not None and caught.si_signo in STOP_SIGNALS)
        drain()
        if caught is not None and caught.si_signo == MARK_SIGNAL:
            tell()
            out.mark()
        sys.stdout.flush()
    tell()
    out.end()
    sys.stdout.flush()


@dataclass(frozen=True)
class Tool:
    """What is particular to one tool.

    `head` is the columns' first line. `prepare` returns the compiler's flags; `attach` places the
    probes; `show` writes one BPF event, and `begin` is called before a batch of them; `tell`, if any,
    writes what was counted in the kernel, before each mark and the end, and is given the function
    that drains.
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


def trace(tool: Tool, args: argparse.Namespace) -> None:
    """Load, attach, and follow a tool until it is stopped."""
    check_host()
    symbols = Symbols()
    bpf = load(tool.name, tool.prepare(symbols))
    probes, drain_ring = Probes(bpf, symbols), open_ring(bpf)
    out = Output(tool.name, args.json, tool.columns)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS | {MARK_SIGNAL})
    tool.attach(probes)

    def drain() -> None:
        batch = drain_ring()
        tool.begin()
        for event in batch:
            tool.show(out, symbols, event)
        out.lose(sum(count.value for count in bpf["lost"].values()))

    def tell() -> None:
        if tool.tell:
            tool.tell(out, drain)

    if not args.json:
        print(f"Tracing the livepatch core... Hit Ctrl-C to end.\n{tool.head}")
    out.header(probes.attached, probes.missing)
    sys.stdout.flush()
    release_memory()
    complain("ready")
    follow(drain, out, tick_s=tool.tick_s, duration_s=args.duration, tell=tell)


def run(tool: Tool, args: argparse.Namespace) -> int:
    """Run a tool from its arguments to its exit status."""
    if args.ebpf:
        print(program_text(tool.name), end="")
        return 0
    try:
        trace(tool, args)
    except ProbeError as error:
        complain(f"{tool.name}: {error}")
        return 1
    except BrokenPipeError:  # the reader went away; there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:  # before the probes were attached
        return 130
    return 0
