# SPDX-License-Identifier: Apache-2.0
"""Small relocatable objects, made of bytes: sections, symbols and relocations as a test names them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from klp.sourcepatch.objects import ObjectFile

KINDS = {"NOTYPE": 0, "OBJECT": 1, "FUNC": 2, "SECTION": 3}
ALLOC, WRITE, CODE = 2, 1, 4
_HEADER, _ENTRY = 64, 64
# As the section of a symbol: that which the kernel resolves when it loads a livepatch (SHN_LIVEPATCH).
LIVEPATCH = "livepatch"


@dataclass(frozen=True)
class Made:
    """A symbol to be: in the section of that name, or undefined."""

    name: str
    section: str = ""
    value: int = 0
    size: int = 0
    kind: str = "NOTYPE"
    local: bool = False


@dataclass(frozen=True)
class Content:
    """A section to be; each relocation is its offset, the symbol's name and the addend."""

    content: bytes = b""
    flags: int = ALLOC
    relocations: Sequence[tuple[int, str, int]] = ()


def object_bytes(sections: Mapping[str, Content], symbols: Sequence[Made]) -> bytes:
    """Return an object; local symbols have to come first."""
    names = ["", *sections]
    numbers = {each.name: number for number, each in enumerate(symbols, start=1)}
    tables = [(name, 1, each.flags, each.content, 0, 0, 0) for name, each in sections.items()]
    for name, each in sections.items():
        if each.relocations:
            packed = b"".join(struct.pack("<QQq", at, (numbers[symbol] << 32) | 1, addend)
                              for at, symbol, addend in each.relocations)  # fmt: skip
            link = len(sections) + sum(1 for one in sections.values() if one.relocations) + 1
            tables.append((f".rela{name}", 4, 0, packed, link, names.index(name), 24))
    strings, table = b"\0", bytes(24)
    for each in symbols:
        info = (0 if each.local else 16) | KINDS[each.kind]
        table += struct.pack(
            "<IBBHQQ", len(strings), info, 0, _number(each.section, names), each.value, each.size
        )
        strings += each.name.encode() + b"\0"
    first_global = 1 + sum(each.local for each in symbols)
    tables.append((".symtab", 2, 0, table, len(tables) + 2, first_global, 24))
    tables.append((".strtab", 3, 0, strings, 0, 0, 0))
    return _file(tables)


def _number(section: str, names: list[str]) -> int:
    return 0xFF20 if section == LIVEPATCH else names.index(section)


def _file(tables: list[tuple[str, int, int, bytes, int, int, int]]) -> bytes:
    names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in tables) + b".shstrtab\0"
    tables = [*tables, (".shstrtab", 3, 0, names, 0, 0, 0)]
    body, headers = b"", bytes(_ENTRY)
    for name, kind, flags, content, link, info, entry in tables:
        body += bytes(-len(body) % 8)
        headers += struct.pack(
            "<IIQQQQIIQQ", names.index(b"\0" + name.encode() + b"\0") + 1, kind, flags, 0,
            _HEADER + len(body), len(content), link, info, 1, entry,
        )  # fmt: skip
        body += content
    body += bytes(-len(body) % 8)
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, _HEADER + len(body), 0, 64, 0, 0, _ENTRY,
        len(tables) + 1, len(tables),
    )  # fmt: skip
    return head + body + headers


def made_object(sections: Mapping[str, Content], symbols: Sequence[Made]) -> ObjectFile:
    """Return an object, read."""
    return ObjectFile(object_bytes(sections, symbols))
