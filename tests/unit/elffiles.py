# SPDX-License-Identifier: Apache-2.0
"""Small ELF files, made by hand of sections, symbols and relocations: no compiler, no kernel."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

WRITE, ALLOC, EXEC, MERGED_STRINGS = 1, 2, 4, 0x30
PC32, PLT32, ABS32S = 2, 4, 11
# As the section of a symbol: that which the kernel resolves when it loads a livepatch (SHN_LIVEPATCH).
LIVEPATCH = 0xFF20
_KINDS = {"NOTYPE": 0, "OBJECT": 1, "FUNC": 2, "SECTION": 3}
_PROGBITS, _SYMTAB, _STRTAB = 1, 2, 3
RELA, NOBITS = 4, 8
_RELA_BYTES = 24


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
    """A symbol; `section` counts parts from 1, 0 is undefined. Local symbols come before the others."""

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
    """Return an ELF file of these sections, in this order from 1 on, and these symbols, counted from 1."""
    strings, headings = _Strings(), _Strings()
    table = bytes(24) + b"".join(
        struct.pack("<IBBHQQ", strings.place(each.name), (not each.local) << 4 | _KINDS[each.kind],
                    0, each.section, each.value, each.size)
        for each in symbols
    )  # fmt: skip
    number = len(parts) + 1
    every = [
        (each.name, each.kind, each.flags, each.address, each.content, 0, 0,
         _RELA_BYTES if each.kind == RELA else 0)
        for each in parts
    ]  # fmt: skip
    every += [
        (".symtab", _SYMTAB, 0, 0, table, number + 1, 1 + sum(each.local for each in symbols), 24),
        (".strtab", _STRTAB, 0, 0, bytes(strings.content), 0, 0, 0),
    ]
    for place, each in enumerate(parts, start=1):
        if each.relocations:
            filled = b"".join(
                struct.pack("<QQq", at, symbol << 32 | kind, add)
                for at, kind, symbol, add in each.relocations
            )
            every.append((f".rela{each.name}", RELA, 0, 0, filled, number, place, _RELA_BYTES))
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
