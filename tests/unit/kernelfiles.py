# SPDX-License-Identifier: Apache-2.0
"""Small ELF files and symbol tables as a kernel has them, made by hand: no compiler, no kernel."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

ALLOC, WRITE = 2, 1
PC32 = 2
_KINDS = {"NOTYPE": 0, "OBJECT": 1, "FUNC": 2}
_PROGBITS, _SYMTAB, _STRTAB, _RELA = 1, 2, 3, 4
NOBITS = 8


@dataclass(frozen=True)
class Part:
    """A section; relocations as (offset, type, number of the symbol, addend)."""

    name: str
    content: bytes
    address: int = 0
    flags: int = ALLOC
    kind: int = _PROGBITS
    relocations: Sequence[tuple[int, int, int, int]] = ()


@dataclass(frozen=True)
class Named:
    """A symbol; `section` counts parts from 1, 0 is undefined."""

    name: str
    section: int
    value: int = 0
    size: int = 16
    kind: str = "FUNC"
    local: bool = True


@dataclass
class _Strings:
    content: bytearray = field(default_factory=lambda: bytearray(1))

    def place(self, name: str) -> int:
        place = len(self.content)
        self.content += name.encode() + b"\0"
        return place if name else 0


def elf(parts: Sequence[Part], symbols: Sequence[Named] = ()) -> bytes:
    """Return an ELF file of these sections, in this order from 1 on, and these symbols."""
    strings, headings = _Strings(), _Strings()
    table = bytes(24) + b"".join(
        struct.pack("<IBBHQQ", strings.place(each.name), (not each.local) << 4 | _KINDS[each.kind],
                    0, each.section, each.value, each.size)
        for each in symbols
    )  # fmt: skip
    number = len(parts) + 1
    every = [(each.name, each.kind, each.flags, each.address, each.content, 0, 0, 0) for each in parts]
    every += [
        (".symtab", _SYMTAB, 0, 0, table, number + 1, 1, 24),
        (".strtab", _STRTAB, 0, 0, bytes(strings.content), 0, 0, 0),
    ]
    for place, each in enumerate(parts, start=1):
        if each.relocations:
            filled = b"".join(
                struct.pack("<QQq", at, symbol << 32 | kind, add)
                for at, kind, symbol, add in each.relocations
            )
            every.append((f".rela{each.name}", _RELA, 0, 0, filled, number, place, 24))
    names = [headings.place(each[0]) for each in every]
    names.append(headings.place(".shstrtab"))
    every.append((".shstrtab", _STRTAB, 0, 0, bytes(headings.content), 0, 0, 0))
    stored = [b"" if each[1] == NOBITS else each[4] for each in every]
    places = list(accumulate(map(len, stored), initial=64))
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, places[-1], 0, 64, 0, 0, 64, len(every) + 1, len(every)
    )  # fmt: skip
    table_of_sections = bytes(64) + b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, flags, address, place, len(content), link, info, 1, width)
        for name, place, (_, kind, flags, address, content, link, info, width)
        in zip(names, places, every, strict=False)
    )  # fmt: skip
    return head + b"".join(stored) + table_of_sections


def _tokens() -> list[bytes]:
    """The tokens of a table: characters of names stand for themselves, others are longer."""
    used = set(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.$")
    return [bytes([each]) if each in used else b"filler_%d" % (each % 7) for each in range(256)]


def symbol_table(symbols: Sequence[tuple[int, str, str]], layout: str, address: int) -> bytes:
    """Return the table of a kernel's symbols as it is at an address, as 6.1, 6.12 or 7.2 lays it out.

    Args:
        symbols: addresses, letters and names, in the order of addresses.
    """
    alignment = 4 if layout == "7.2" else 8

    def aligned(*parts: bytes) -> bytes:
        return b"".join(part + bytes(-len(part) % alignment) for part in parts)

    names, markers = bytearray(), []
    for number, (_, letter, name) in enumerate(symbols):
        if number % 256 == 0:
            markers.append(len(names))
        spelled = (letter + name).encode()
        names += bytes(
            [len(spelled)] if len(spelled) < 128 else [len(spelled) & 127 | 128, len(spelled) >> 7]
        )
        names += spelled
    words = _tokens()
    index = list(accumulate((len(each) + 1 for each in words), initial=0))[:256]
    order = b"".join(each.to_bytes(3, "big") for each in range(len(symbols)))
    named = aligned(
        struct.pack("<I", len(symbols)), bytes(names), struct.pack(f"<{len(markers)}I", *markers)
    )  # fmt: skip
    tokens = aligned(b"\0".join([*words, b""]), struct.pack("<256H", *index))
    count, base = len(symbols), min(each for each, _, _ in symbols if each >> 63)
    relative = [each if each < 1 << 31 else base - 1 - each for each, _, _ in symbols]
    addresses = struct.pack(f"<{count}i", *relative)
    if layout == "6.1":
        return aligned(addresses, struct.pack("<Q", base), named, order, tokens)
    if layout == "6.12":
        return aligned(named, tokens, addresses, struct.pack("<Q", base), order)
    first = address + len(named) + len(tokens)
    distances = [each - first - 4 * number for number, (each, _, _) in enumerate(symbols)]
    return aligned(named, tokens, struct.pack(f"<{count}i", *distances), order)
