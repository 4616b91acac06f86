# SPDX-License-Identifier: Apache-2.0
"""How the klp probes attach their BPF programs, and what they remember of those that could not be."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from klpkprobes import KprobeEvents
from klpoutput import Fields, complain
from klpring import unpreempted
from klpsymbols import Symbols


@dataclass
class Probes:
    """Attaches BPF functions, and remembers what could not be.

    `unseen` is what a trace will lack where the kernel has no such place; `facts` are fields of the header
    that tell what else a tool found out about the kernel. `events` are tracefs's, if mounted: where the
    kernel does not count what it leaves out, kprobes on functions are among them, so that these count it.
    """

    bpf: Any
    symbols: Symbols
    events: KprobeEvents | None = None
    attached: list[str] = field(default_factory=list)
    missing: list[Fields] = field(default_factory=list)
    facts: Fields = field(default_factory=dict)

    def enter(self, name: str, function: str, unseen: str) -> None:
        """Run `function` where the kernel function `name` begins."""
        self._attach("p", name, self.symbols.resolve(name), function, unseen)

    def enter_body(self, name: str, function: str, unseen: str) -> None:
        """Run `function` where the work of `name` begins; it must not read arguments.

        What the compiler split off the function may have others.
        """
        self._attach("p", name, self.symbols.body(name), function, unseen)

    def leave(self, name: str, function: str, unseen: str) -> None:
        """Run `function` where `name` returns: only for short functions of the livepatch core.

        A task that sleeps below a return probe is one whose stack the kernel may call unreliable.
        """
        self._attach("r", name, self.symbols.resolve(name), function, unseen)

    def leave_body(self, name: str, function: str, unseen: str) -> None:
        """Run `function` where the work of `name` ends; see `leave`."""
        self._attach("r", name, self.symbols.body(name), function, unseen)

    def tracepoint(self, where: str, function: str, unseen: str) -> None:
        """Run `function` at a tracepoint, ``system:name``; its context is what tracefs tells of it.

        Not a raw one: since 7.0 the programs of those can be preempted, and are left out for whoever
        comes to the tracepoint on that CPU meanwhile (docs/facts.md).
        """
        name = where.partition(":")[2]
        try:
            self.bpf.attach_tracepoint(tp=where, fn_name=function)
        except Exception:  # bcc raises nothing narrower
            self.miss(name, unseen)
        else:
            self.note(name)

    def tail_calls(self, table: str, functions: Iterable[str]) -> None:
        """Let kprobe programs call `functions` through a BPF_PROG_ARRAY, by their place in it."""
        programs = [self.bpf.load_func(function, self.bpf.KPROBE).fd for function in functions]
        with unpreempted():
            for place, descriptor in enumerate(programs):
                self.bpf[table][ctypes.c_int(place)] = ctypes.c_int(descriptor)

    def at(self, address: int, function: str) -> bool:
        """Run `function` at an instruction; False if the kernel refuses (none begins there)."""
        anchor = self.symbols.anchor(address)
        # Never an event: to refuse one takes an emulated guest a second, and most of these are refused.
        return self._perf_kprobe("p", anchor.name, function, address - anchor.address)

    def _attach(self, kind: str, name: str, symbol: str | None, function: str, unseen: str) -> None:
        if symbol is not None and self._kprobe(kind, symbol, function):
            self.note(symbol)
        else:
            self.miss(name, unseen)

    def _kprobe(self, kind: str, symbol: str, function: str) -> bool:
        """Run `function` where a symbol begins, or returns; False if the kernel refuses."""
        if self.events and self.events.counting:
            name = f"{function}_{len(self.events.attached)}"
            return self.events.add(self.bpf, name, f"{symbol}+0", function, kind)
        return self._perf_kprobe(kind, symbol, function, 0)

    def _perf_kprobe(self, kind: str, symbol: str, function: str, offset: int) -> bool:
        try:
            if kind == "r":
                self.bpf.attach_kretprobe(event=symbol, fn_name=function)
            else:
                self.bpf.attach_kprobe(event=symbol, event_off=offset, fn_name=function)
        except Exception:  # bcc raises nothing narrower
            return False
        return True

    def note(self, symbol: str) -> None:
        """Count `symbol` among the attached, once."""
        if symbol not in self.attached:
            self.attached.append(symbol)

    def miss(self, name: str, unseen: str) -> None:
        """Say what will not be seen because the kernel has no `name` to probe."""
        complain(f"no probe point {name}: {unseen} will not be seen")
        if all(one["symbol"] != name for one in self.missing):
            self.missing.append({"symbol": name, "unseen": unseen})
