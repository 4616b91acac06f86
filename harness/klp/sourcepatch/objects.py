# SPDX-License-Identifier: Apache-2.0
"""An ELF object as frozen values: sections, symbols, relocations, each read once."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

# Elf64_Rela: where, which symbol in the upper half and how in the lower, and the addend.
_RELA = struct.Struct("<QQq")
_LORESERVE = 0xFF00
# objtool's names for the padding in front of functions, and the compiler's for types of indirect calls.
BESIDE_FUNCTIONS = ("__pfx_", "__cfi_")


def section_index(place: int | str) -> int | None:
    """Return the section that a symbol is in by its ``st_shndx``, as pyelftools gives it; None for none.

    Numbers from SHN_LORESERVE on are not of sections, and pyelftools has no name for SHN_LIVEPATCH, which
    the references of a livepatch to the kernel have.
    """
    return place if isinstance(place, int) and place < _LORESERVE else None


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol.

    Attributes:
        index: in the table.
        section: the index of the section that it is in; None where it is undefined, absolute or common.
        value: the offset in the section.
        kind: ``FUNC``, ``OBJECT``, ``NOTYPE``, ``SECTION`` or ``FILE``.
        local: whether it is seen in its own object only.
        undefined: whether another object has to define it.
    """

    index: int
    name: str
    section: int | None
    value: int
    size: int
    kind: str
    local: bool
    undefined: bool

    @property
    def is_code(self) -> bool:
        """Whether it is a function, and not what tools put beside one."""
        return (
            self.kind == "FUNC" and self.section is not None and not self.name.startswith(BESIDE_FUNCTIONS)
        )


@dataclass(frozen=True, slots=True)
class Relocation:
    """A relocation: the offset in the section that it is for, its type, its symbol's index, the addend."""

    offset: int
    kind: int
    symbol: int
    addend: int


@dataclass(frozen=True, slots=True)
class Section:
    """A section: its content is read when it is asked for."""

    index: int
    name: str
    kind: str
    flags: int
    size: int

    @property
    def allocated(self) -> bool:
        """Whether it is in memory when the object is loaded."""
        return bool(self.flags & SH_FLAGS.SHF_ALLOC)

    @property
    def writable(self) -> bool:
        """Whether it can be written to."""
        return bool(self.flags & SH_FLAGS.SHF_WRITE)


class ObjectFile:
    """An ELF file, read as a whole.

    Args:
        content: the file's bytes.
    """

    def __init__(self, content: bytes) -> None:
        self._elf: Any = ELFFile(io.BytesIO(content))

    @classmethod
    def of(cls, file: Path) -> ObjectFile:
        """Read a file."""
        return cls(file.read_bytes())

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All sections, by their index."""
        return tuple(
            Section(index, each.name, str(each["sh_type"]), each["sh_flags"], each["sh_size"])
            for index, each in enumerate(self._elf.iter_sections())
        )

    @cached_property
    def symbols(self) -> tuple[Symbol, ...]:
        """All symbols, by their index."""
        table = self._elf.get_section_by_name(".symtab")
        return tuple(self._symbols(table)) if table else ()

    def _symbols(self, table: Any) -> Iterator[Symbol]:
        for index, each in enumerate(table.iter_symbols()):
            place = each["st_shndx"]
            yield Symbol(
                index, each.name, section_index(place), each["st_value"],
                each["st_size"], str(each["st_info"]["type"]).removeprefix("STT_"),
                each["st_info"]["bind"] == "STB_LOCAL", place == "SHN_UNDEF" and index > 0,
            )  # fmt: skip

    @cached_property
    def functions(self) -> tuple[Symbol, ...]:
        """The functions that are defined in it."""
        return tuple(each for each in self.symbols if each.is_code)

    def section(self, name: str) -> Section | None:
        """Return the first section of a name; None where there is none."""
        return next((each for each in self.sections if each.name == name), None)

    def content(self, section: int) -> bytes:
        """Return a section's bytes; zeros for one that takes no room in the file (.bss)."""
        found = self._elf.get_section(section)
        return bytes(found["sh_size"]) if found["sh_type"] == "SHT_NOBITS" else bytes(found.data())

    def offset_of(self, section: int) -> int:
        """Return where in the file a section's bytes begin."""
        return int(self._elf.get_section(section)["sh_offset"])

    @cached_property
    def _tables(self) -> dict[int, list[int]]:
        """Return for each section the indexes of those with its relocations."""
        found: dict[int, list[int]] = {}
        for index, each in enumerate(self._elf.iter_sections()):
            if each["sh_type"] == "SHT_RELA":
                found.setdefault(each["sh_info"], []).append(index)
        return found

    @cached_property
    def _relocations(self) -> dict[int, tuple[Relocation, ...]]:
        return {}

    def relocations(self, section: int) -> tuple[Relocation, ...]:
        """Return the relocations for a section."""
        if section not in self._relocations:
            self._relocations[section] = tuple(
                each for table in self._tables.get(section, ()) for each in self.own_relocations(table)
            )
        return self._relocations[section]

    def own_relocations(self, table: int) -> tuple[Relocation, ...]:
        """Return the relocations that a section holds."""
        # Not by pyelftools, which takes ten seconds for the debug information of a large unit, and only for
        # the sections that somebody asks for.
        return tuple(
            Relocation(offset, info & 0xFFFFFFFF, info >> 32, addend)
            for offset, info, addend in _RELA.iter_unpack(self.content(table))
        )
