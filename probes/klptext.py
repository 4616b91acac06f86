# SPDX-License-Identifier: Apache-2.0
"""Kernel text: reading it from /proc/kcore, and finding the calls in it (x86-64).

A livepatch's callbacks, and the constructor and destructor of a shadow variable, are called through a
pointer, the former by wrappers that are inlined: there is no symbol to probe. But there is a call
instruction. These functions find it, so that a kprobe can be put on it and on the instruction that it
returns to. Bytes are searched, not disassembled: a match that is not an instruction is refused by the
kernel itself, which decodes from the function's start before it accepts a kprobe.

Where a kprobe stands already, as that of another run of the same tool, text has a breakpoint in place of an
instruction's first byte. The kernel has kept that byte beside the kprobe, and looks there itself.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import klpbtf
from klpsymbols import ProbeError, Symbols

KCORE = Path("/proc/kcore")
MACHINE = "x86_64"
# Two symbols of one compilation unit are closer than this; its .cold parts are elsewhere.
NEAR = 4096

# In the order of their numbers in an instruction.
# fmt: off
REGISTERS = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)
# fmt: on
_THUNK = "__x86_indirect_thunk_"
# call *%REG: ff /2 with a register operand; before it REX.B for r8 to r15, and before that padding.
# With mitigations=off the kernel writes this over the calls to the thunks: until 6.12 with a nop
# behind, on 7.2 with cs prefixes in front, to fill the five bytes.
_CALL_REGISTER = re.compile(rb"(?=(\x2e*(\x41?)\xff([\xd0-\xd7])))")
# call rel32
_CALL_RELATIVE = re.compile(rb"(?=\xe8(.{4}))", re.DOTALL)
# What a kprobe writes over the first byte of an instruction; and those of the calls that are looked for.
# Long rows of breakpoints, and those before a nop, stand between functions.
_BREAKPOINT = 0xCC
_BREAKPOINT_ALONE = re.compile(rb"\xcc(?!\xcc\xcc|\x90\x90)", re.DOTALL)
_FIRST = (b"\xe8", b"\xff", b"\x41", b"\x2e")
_LONGEST = 8
# The kernel's kprobes: 64 heads of lists of them (kernel/kprobes.c).
_KPROBES = "kprobe_table"
_KPROBES_SIZE = 64 * 8


class Call(NamedTuple):
    """A call instruction: where it is, where it returns to, and what it calls."""

    site: int
    after: int
    target: str


# Finds the calls in some bytes that begin at an address.
Search = Callable[[bytes, int], Iterable[Call]]


class Segment(NamedTuple):
    """One PT_LOAD of an ELF core file."""

    address: int
    size: int
    offset: int


def segments(core: BinaryIO) -> Iterator[Segment]:
    """Read the program headers of an ELF64 core file that hold memory."""
    header = core.read(64)
    (table,) = struct.unpack_from("<Q", header, 32)
    size, count = struct.unpack_from("<HH", header, 54)
    core.seek(table)
    headers = core.read(size * count)
    for at in range(0, len(headers), size):
        kind, _flags, offset, address, _physical, length = struct.unpack_from("<IIQQQQ", headers, at)
        if kind == 1:  # PT_LOAD
            yield Segment(address, length, offset)


class Memory:
    """The kernel's memory, as an ELF core file has it."""

    def __init__(self, core: BinaryIO) -> None:
        self._core = core
        self._segments = list(segments(core))

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`; raise ProbeError where they are not in it."""
        for segment in self._segments:
            if segment.address <= start and end <= segment.address + segment.size:
                self._core.seek(segment.offset + start - segment.address)
                return self._core.read(end - start)
        raise ProbeError(f"{self._core.name} does not hold 0x{start:x}..0x{end:x}")


@contextmanager
def kernel_memory(path: Path = KCORE) -> Iterator[Memory]:
    """Have the kernel's memory open for the length of a block.

    Raises:
        ProbeError: lockdown or the kernel's configuration does not let us, or it is not x86-64.
    """
    if os.uname().machine != MACHINE:
        raise ProbeError(f"calls in kernel text are found on {MACHINE} only")
    try:
        with path.open("rb", buffering=0) as core:
            yield Memory(core)
    except OSError as error:
        raise ProbeError(f"cannot read kernel text: {error}") from error


def read_text(start: int, end: int, path: Path = KCORE) -> bytes:
    """Read the kernel's memory from `start` to `end`; raises as `kernel_memory`."""
    with kernel_memory(path) as memory:
        return memory.read(start, end)


def calls(symbols: Symbols, start: int, end: int, search: Search) -> list[Call]:
    """Return the calls in the kernel's text from `start` to `end`, those too that kprobes hide.

    Raises:
        ProbeError: as `kernel_memory`; or a kprobe may hide a call, and what it hides cannot be read.
    """
    code = read_text(start, end)
    hidden = [start + at for at in hiding(code, start, search)]
    if hidden:
        try:
            saved = saved_opcodes(symbols)
        except ProbeError as error:
            where = symbols.describe(hidden[0])
            raise ProbeError(f"another probe hides what is called at {where}: {error}") from error
        code = uncovered(code, start, hidden, saved)
    return list(search(code, start))


def hiding(code: bytes, base: int, search: Search) -> list[int]:
    """Return where in some code there is a breakpoint that may hide the beginning of a call."""
    return [
        at
        for at in (match.start() for match in _BREAKPOINT_ALONE.finditer(code))
        for first in _FIRST
        if any(call.site == base + at for call in search(first + code[at + 1 : at + _LONGEST], base + at))
    ]


def uncovered(code: bytes, base: int, hidden: Iterable[int], saved: Mapping[int, int]) -> bytes:
    """Return code as it is without the kprobes at some addresses; a breakpoint without one stays."""
    changed = bytearray(code)
    for address in hidden:
        changed[address - base] = saved.get(address, _BREAKPOINT)
    return bytes(changed)


def saved_opcodes(symbols: Symbols, core: Path = KCORE, btf: Path = klpbtf.VMLINUX) -> dict[int, int]:
    """Return the first byte of each instruction that a kprobe stands on, by its address.

    Raises:
        ProbeError: as `kernel_memory`; or this kernel keeps its kprobes elsewhere.
    """
    start, _end = symbols.span(_KPROBES)
    if not start:
        raise ProbeError(f"this kernel has no {_KPROBES}")
    at = klpbtf.members({"kprobe": ("hlist", "addr", "opcode")}, btf)["kprobe"]
    size = max(at.values()) + 8
    saved: dict[int, int] = {}
    with kernel_memory(core) as memory:
        waiting = [node for (node,) in struct.iter_unpack("<Q", memory.read(start, start + _KPROBES_SIZE))]
        while waiting:
            if not (node := waiting.pop()):
                continue
            kprobe = memory.read(node - at["hlist"], node - at["hlist"] + size)
            (address,) = struct.unpack_from("<Q", kprobe, at["addr"])
            if address not in saved:
                saved[address] = kprobe[at["opcode"]]
                waiting += struct.unpack_from("<Q", kprobe, at["hlist"])
    return saved


def thunks(symbols: Symbols) -> dict[int, str]:
    """Return the retpolines: address to register."""
    return {
        symbol.address: symbol.name.removeprefix(_THUNK)
        for symbol in symbols.named(_THUNK)
        if symbol.name.startswith(_THUNK) and symbol.name.removeprefix(_THUNK) in REGISTERS
    }


def indirect_calls(code: bytes, base: int, thunk_at: Mapping[int, str]) -> Iterator[Call]:
    """Find calls through a register; `target` is the register.

    An instruction with prefixes is also found at each byte past its first, with the same `after`: of
    those the first that the kernel takes for an instruction is right.
    """
    for match in _CALL_REGISTER.finditer(code):
        register = REGISTERS[(match[3][0] & 7) + (8 if match[2] else 0)]
        site = base + match.start()
        yield Call(site, site + len(match[1]), register)
    for site, after, target in _relative(code, base):
        if target in thunk_at:
            yield Call(site, after, thunk_at[target])


def direct_calls(code: bytes, base: int, name_at: Mapping[int, str]) -> Iterator[Call]:
    """Find calls of the functions in `name_at`; `target` is the name."""
    for site, after, target in _relative(code, base):
        if target in name_at:
            yield Call(site, after, name_at[target])


def _relative(code: bytes, base: int) -> Iterator[tuple[int, int, int]]:
    for match in _CALL_RELATIVE.finditer(code):
        site = base + match.start()
        (distance,) = struct.unpack("<i", match[1])
        yield site, site + 5, site + 5 + distance


def livepatch_text(symbols: Symbols) -> list[tuple[int, int]]:
    """Return the spans of text that hold the livepatch core.

    The functions of kernel/livepatch/ are known by `klp_`; those between two of them, such as
    enabled_store, belong to it too. gcc puts cold code elsewhere, hence more than one span.
    """
    spans: list[tuple[int, int]] = []
    for name, start, end in symbols.spans("klp_"):
        if not name.startswith(("klp_", "__klp_")):
            continue
        if spans and start - spans[-1][1] <= NEAR:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans
