# SPDX-License-Identifier: Apache-2.0
"""ELF objects for tests, made by hand: sections, symbols and relocations, a few bytes of each."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

WRITE, ALLOC, EXEC, MERGED_STRINGS = 1, 2, 4, 0x30
PC32, PLT32, ABS32S = 2, 4, 11
_KINDS = {"NOTYPE": 0, "OBJECT": 1, "FUNC": 2, "SECTION": 3}
_PROGBITS, _SYMTAB, _STRTAB, _RELA = 1, 2, 3, 4


@dataclass(frozen=True)
class Made:
    """A section: its symbols by name as (value, size, kind), relocations as (offset, kind, symbol, addend).

    A relocation whose symbol begins with ``=`` is by that section's own symbol.
    """

    content: bytes
    flags: int = ALLOC
    symbols: Mapping[str, tuple[int, int, str]] = field(default_factory=dict)
    relocations: Sequence[tuple[int, int, str, int]] = ()


def text(name: str, content: bytes, *relocations: tuple[int, int, str, int], size: int = 0) -> Made:
    """A section with one function."""
    return Made(content, ALLOC | EXEC, {name: (0, size or len(content), "FUNC")}, relocations)


def data(name: str, content: bytes, *relocations: tuple[int, int, str, int], writable: bool = True) -> Made:
    """A section with one variable."""
    flags = ALLOC | (WRITE if writable else 0)
    return Made(content, flags, {name: (0, len(content), "OBJECT")}, relocations)


def made_object(sections: Mapping[str, Made]) -> bytes:
    """Return a relocatable object; symbols that no section defines are undefined, all of it is global."""
    names = list(sections)
    symbols = [
        ("", 0, 0, 0, "NOTYPE"),
        *((f"={name}", n, 0, 0, "SECTION") for n, name in enumerate(names, 1)),
    ]
    for number, each in enumerate(sections.values(), 1):
        symbols += [(name, number, *how[:2], how[2]) for name, how in each.symbols.items()]
    known = {each[0] for each in symbols}
    asked = {one[2] for each in sections.values() for one in each.relocations}
    symbols += [(name, 0, 0, 0, "NOTYPE") for name in sorted(asked - known)]
    places = {each[0]: number for number, each in enumerate(symbols)}
    strings = _Strings()
    table = b"".join(
        struct.pack(
            "<IBBHQQ",
            strings.at("" if name.startswith("=") else name),
            0x10 | _KINDS[kind],
            0,
            where,
            value,
            size,
        )
        for name, where, value, size, kind in symbols
    )
    bodies = [(name, _PROGBITS, each.flags, each.content, 0, 0, 0) for name, each in sections.items()]
    link = len(names) + 1
    bodies += [(".symtab", _SYMTAB, 0, table, link + 1, 1, 24)]
    bodies += [(".strtab", _STRTAB, 0, bytes(strings.content), 0, 0, 0)]
    for number, (name, each) in enumerate(sections.items(), 1):
        if each.relocations:
            content = b"".join(
                struct.pack("<QQq", offset, places[symbol] << 32 | kind, addend)
                for offset, kind, symbol, addend in each.relocations
            )
            bodies.append((f".rela{name}", _RELA, 0, content, link, number, 24))
    return _file(bodies)


class _Strings:
    def __init__(self) -> None:
        self.content = bytearray(b"\0")

    def at(self, word: str) -> int:
        if not word:
            return 0
        place = len(self.content)
        self.content += word.encode() + b"\0"
        return place


def _file(bodies: list[tuple[str, int, int, bytes, int, int, int]]) -> bytes:
    names = _Strings()
    headers = [struct.pack("<IIQQQQIIQQ", *([0] * 10))]
    content = bytearray(64)
    offsets = [names.at(each[0]) for each in bodies]
    own = names.at(".shstrtab")
    bodies = [*bodies, (".shstrtab", _STRTAB, 0, bytes(names.content), 0, 0, 0)]
    for name, (_, kind, flags, body, link, info, entry) in zip([*offsets, own], bodies, strict=True):
        headers.append(
            struct.pack("<IIQQQQIIQQ", name, kind, flags, 0, len(content), len(body), link, info, 1, entry)
        )
        content += body
    head = struct.pack(
        "<4s5B7xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 0, 1, 62, 1, 0, 0, len(content), 0, 64, 0, 0, 64,
        len(headers), len(headers) - 1,
    )  # fmt: skip
    content[:64] = head
    return bytes(content) + b"".join(headers)
