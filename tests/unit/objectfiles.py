# SPDX-License-Identifier: Apache-2.0
"""Small relocatable objects, read: sections, symbols and relocations as a test names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from klp.sourcepatch.objects import ObjectFile
from tests.unit.elffiles import ALLOC, LIVEPATCH, Named, Part, elf

# Names its section: the kernel resolves it when it loads a livepatch.
OF_LIVEPATCH = "livepatch"
_ABS64 = 1


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
    numbers = {each.name: number for number, each in enumerate(symbols, start=1)}
    places = {"": 0, OF_LIVEPATCH: LIVEPATCH} | {name: place for place, name in enumerate(sections, 1)}
    parts = [
        Part(name, each.content, flags=each.flags, relocations=[
            (at, _ABS64, numbers[symbol], addend) for at, symbol, addend in each.relocations])
        for name, each in sections.items()
    ]  # fmt: skip
    named = [Named(each.name, places[each.section], each.value, each.size, each.kind, each.local)
             for each in symbols]  # fmt: skip
    return elf(parts, named)


def made_object(sections: Mapping[str, Content], symbols: Sequence[Made]) -> ObjectFile:
    """Return an object, read."""
    return ObjectFile(object_bytes(sections, symbols))
