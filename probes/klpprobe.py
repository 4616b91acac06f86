# SPDX-License-Identifier: Apache-2.0
"""What the klp probes have in common: options, kernel symbols, attaching, the event loop, output.

A tool is a `klpNAME.py` and a `klpNAME.bpf.c`; copied together with this file and `klptext.py` it runs
on any machine with BCC. The lines of `-j` are described by `events.schema.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA = 1
RING_BUFFER_SINCE = (5, 8)
KALLSYMS = Path("/proc/kallsyms")
MODULES = Path("/proc/modules")
LIVEPATCHES = Path("/sys/kernel/livepatch")
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}
MARK_SIGNAL = signal.SIGUSR1

Fields = dict[str, Any]


class ProbeError(Exception):
    """A tool cannot run here; its text is the one line that says why."""


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
    """Return the BPF program of a tool, which stands beside this file."""
    return Path(__file__).with_name(f"{tool}.bpf.c").read_text(encoding="utf-8")


def numbered(prefix: str, names: Iterable[str]) -> list[str]:
    """Return compiler flags that number `names`, so that C and Python share one list."""
    return [f"-D{prefix}_{name.upper()}={number}" for number, name in enumerate(names)]


# --- kernel symbols -----------------------------------------------------------------------------


class Symbol(NamedTuple):
    """One line of /proc/kallsyms."""

    address: int
    kind: str
    name: str
    module: str


# A compiler that specialises or splits a function names the result so. `.cold` is left out: it is a
# fragment which the function jumps to, not the function.
_SUFFIXED = re.compile(r"(?P<base>[^.]+)(?:\.(?:isra|part|constprop)\.\d+)+$")


def parse_kallsyms(lines: Iterable[str]) -> Iterator[Symbol]:
    """Read lines of /proc/kallsyms, leaving out the padding before functions (`__pfx_`)."""
    for line in lines:
        address, kind, name, *module = line.split()
        if not name.startswith("__pfx_"):
            yield Symbol(int(address, 16), kind, name, module[0][1:-1] if module else "")


class Table:
    """Symbols by address."""

    def __init__(self, symbols: Iterable[Symbol]) -> None:
        self.symbols = sorted(symbols)
        self._addresses = [symbol.address for symbol in self.symbols]

    def at(self, address: int) -> int:
        """Return the index of the last symbol that is not after `address`, or -1."""
        return bisect_right(self._addresses, address) - 1


class Symbols:
    """The running kernel's symbols: names to addresses, and addresses back to names."""

    def __init__(self, read: Callable[[], str] = KALLSYMS.read_text) -> None:
        self._read = read
        self._modules_seen = _modules()
        everything = list(parse_kallsyms(read().splitlines()))
        self._core = Table(symbol for symbol in everything if not symbol.module)
        self._modules = Table(symbol for symbol in everything if symbol.module)

    @cached_property
    def _count(self) -> Counter[str]:
        return Counter(symbol.name for symbol in self._core.symbols)

    @cached_property
    def _by_name(self) -> dict[str, Symbol]:
        return {symbol.name: symbol for symbol in self._core.symbols}

    @cached_property
    def _suffixed(self) -> dict[str, str]:
        matches = (_SUFFIXED.match(name) for name in self._by_name)
        return {match["base"]: match[0] for match in matches if match}

    @property
    def kernel(self) -> list[Symbol]:
        """Every symbol that is not a module's, by address."""
        return self._core.symbols

    def resolve(self, name: str) -> str | None:
        """Return the name under which the kernel knows a function, or None if it was inlined."""
        return name if name in self._by_name else self._suffixed.get(name)

    def body(self, name: str) -> str | None:
        """Return where a function's work is done: its `.part.0` if the compiler split one off.

        A caller into which the function's head was inlined calls the part alone, as
        klp_reverse_transition does with klp_start_transition.part.0 (6.12, gcc-14).
        """
        part = f"{name}.part.0"
        return part if part in self._by_name else self.resolve(name)

    def address(self, name: str) -> int:
        """Return the address of a symbol, 0 if it has none (or kptr_restrict hides it)."""
        found = self._by_name.get(name)
        return found.address if found else 0

    def span(self, name: str) -> tuple[int, int]:
        """Return first address and end of a function; (0, 0) where there is none."""
        start = self.address(self.resolve(name) or "")
        following = self._core.at(start) + 1
        return (start, self._core.symbols[following].address) if start else (0, 0)

    def anchor(self, address: int) -> Symbol:
        """Return the nearest symbol before `address` whose name no other has: enabled_store is many.

        Raises:
            LookupError: there is none.
        """
        for index in range(self._core.at(address), -1, -1):
            symbol = self._core.symbols[index]
            if self._count[symbol.name] == 1:
                return symbol
        raise LookupError(f"no symbol before 0x{address:x}")

    def describe(self, address: int) -> str:
        """Return `function+0xOFFSET [module]`, as the kernel's own %pB prints it."""
        core = self._core.symbols
        if core and core[0].address <= address <= core[-1].address:
            symbol = core[self._core.at(address)]
            return f"{symbol.name}+0x{address - symbol.address:x}"
        self._refresh()
        index = self._modules.at(address)
        if index < 0:
            return f"0x{address:x}"
        symbol = self._modules.symbols[index]
        return f"{symbol.name}+0x{address - symbol.address:x} [{symbol.module}]"

    def _refresh(self) -> None:
        """Learn the symbols of modules that came since; keep those that went, for late events."""
        now = _modules()
        if now == self._modules_seen:
            return
        self._modules_seen = now
        lines = (line for line in self._read().splitlines() if line.endswith("]"))
        fresh = list(parse_kallsyms(lines))
        taken = {symbol.address for symbol in fresh}
        old = (symbol for symbol in self._modules.symbols if symbol.address not in taken)
        self._modules = Table([*old, *fresh])


def _modules() -> frozenset[str]:
    """Return what tells one set of loaded modules from another: names and addresses."""
    try:
        lines = MODULES.read_text().splitlines()
    except OSError:  # a kernel without modules
        return frozenset()
    return frozenset(f"{line.split()[0]} {line.split()[5]}" for line in lines)


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
    return BPF(text=program_text(tool), cflags=[*cflags, "-Wno-macro-redefined"])


def open_ring(bpf: Any) -> Callable[[], list[Any]]:
    """Open the ring buffer `events`; return the function that empties it."""
    table = bpf["events"]
    batch: list[Any] = []

    def keep(_context: Any, data: Any, _size: int) -> None:
        event = table.event(data)
        batch.append(type(event).from_buffer_copy(event))  # the ring's memory is reused

    table.open_ring_buffer(keep)

    def drain() -> list[Any]:
        batch.clear()
        bpf.ring_buffer_consume()
        return list(batch)

    return drain


def follow(drain: Callable[[], None], out: Output, *, tick_s: float, duration_s: float | None) -> None:
    """Drain until told to stop, and mark the stream at each SIGUSR1.

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
            out.mark()
        sys.stdout.flush()
    out.end()
    sys.stdout.flush()


@dataclass(frozen=True)
class Tool:
    """What is particular to one tool.

    `head` is the columns' first line. `prepare` returns the compiler's flags; `attach` places the
    probes; `show` writes one BPF event; `finish`, if any, has the last word in columns mode.
    """

    name: str
    head: str
    tick_s: float
    columns: Callable[[str, Fields], str | None]
    prepare: Callable[[Symbols], list[str]]
    attach: Callable[[Probes], None]
    show: Callable[[Output, Symbols, Any], None]
    finish: Callable[[Any], None] | None = None


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
        for event in drain_ring():
            tool.show(out, symbols, event)
        out.lose(bpf["lost"][0].value)

    if not args.json:
        print(f"Tracing the livepatch core... Hit Ctrl-C to end.\n{tool.head}")
    out.header(probes.attached, probes.missing)
    sys.stdout.flush()
    complain("ready")
    follow(drain, out, tick_s=tool.tick_s, duration_s=args.duration)
    if tool.finish and not args.json:
        tool.finish(bpf)


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
