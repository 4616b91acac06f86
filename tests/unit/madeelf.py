# SPDX-License-Identifier: Apache-2.0
"""ELF objects for tests as a compiler leaves them: a section for each function and each variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.unit.elffiles import ALLOC, EXEC, WRITE, Named, Part, elf


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
    symbols = {f"={name}": Named("", number, 0, 0, "SECTION", local=False)
               for number, name in enumerate(sections, 1)}  # fmt: skip
    for number, each in enumerate(sections.values(), 1):
        for name, (value, size, kind) in each.symbols.items():
            symbols[name] = Named(name, number, value, size, kind, local=False)
    asked = {one[2] for each in sections.values() for one in each.relocations}
    for name in sorted(asked - symbols.keys()):
        symbols[name] = Named(name, 0, 0, 0, "NOTYPE", local=False)
    places = {name: place for place, name in enumerate(symbols, 1)}
    parts = [
        Part(name, each.content, flags=each.flags, relocations=[
            (offset, kind, places[symbol], addend) for offset, kind, symbol, addend in each.relocations])
        for name, each in sections.items()
    ]  # fmt: skip
    return elf(parts, list(symbols.values()))
