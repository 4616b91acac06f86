# SPDX-License-Identifier: Apache-2.0
"""What DWARF says of an object's functions: the line that each begins at, and what was inlined into it."""

from __future__ import annotations

import io
import struct
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

_RELA = struct.Struct("<QQq")
# R_X86_64_64 and R_X86_64_32, the only relocations in debug information, with their sizes.
_FIELDS = {1: struct.Struct("<Q"), 10: struct.Struct("<I")}
_RELOCATED = (".debug_info", ".debug_line")
_FUNCTION, _INLINED = "DW_TAG_subprogram", "DW_TAG_inlined_subroutine"


@dataclass(frozen=True, slots=True)
class DeclaredFunction:
    """A function of the source.

    Attributes:
        line: where the unit's own file has it; 0 where a header does.
        inlines: functions that the compiler put into its code, directly or not; known of those that were
            asked for.
    """

    name: str
    line: int
    inlines: frozenset[str]


def declared_functions(file: Path, source: str, wanted: Collection[str]) -> Mapping[str, DeclaredFunction]:
    """Return the functions of an object by their names in the source.

    Args:
        source: the unit's C file, as a path or the end of one.
        wanted: of which functions to find out what they inline: reading that of all takes seconds.
    """
    with file.open("rb") as stream:
        elf = ELFFile(stream)
        if elf.get_section_by_name(".debug_info") is None:
            return {}
        return _Reader(_debug_information(elf), source).functions(frozenset(wanted))


def _debug_information(elf: Any) -> Any:
    # pyelftools relocates debug information itself, but takes five seconds for a unit of 2,600 lines.
    info = elf.get_dwarf_info(relocate_dwarf_sections=False)
    symbols = [each["st_value"] for each in elf.get_section_by_name(".symtab").iter_symbols()]
    for name in _RELOCATED:
        attribute = f"{name.removeprefix('.')}_sec"
        section, changes = elf.get_section_by_name(name), elf.get_section_by_name(f".rela{name}")
        if section is not None and changes is not None:
            content = _relocated(section.data(), changes.data(), symbols)
            described = getattr(info, attribute)._replace(stream=io.BytesIO(content), size=len(content))
            setattr(info, attribute, described)
    return info


def _relocated(content: bytes, relocations: bytes, symbols: list[int]) -> bytes:
    done = bytearray(content)
    for offset, info, addend in _RELA.iter_unpack(relocations):
        if field := _FIELDS.get(info & 0xFFFFFFFF):
            value = symbols[info >> 32] + addend
            field.pack_into(done, offset, value & ((1 << 8 * field.size) - 1))
    return bytes(done)


class _Reader:
    def __init__(self, info: Any, source: str) -> None:
        self._info = info
        self._source = Path(source).parts

    def functions(self, wanted: frozenset[str]) -> dict[str, DeclaredFunction]:
        lines: dict[str, int] = {}
        inlines: dict[str, set[str]] = defaultdict(set)
        for unit in self._info.iter_CUs():
            own = self._own_files(unit)
            for each in unit.iter_DIE_children(unit.get_top_DIE()):
                if each.tag != _FUNCTION:
                    continue
                origin = _origin(each)
                name = _name(origin)
                if not name or "DW_AT_declaration" in origin.attributes:
                    continue
                lines[name] = max(lines.get(name, 0), _line(origin, own))
                if name in wanted:
                    inlines[name].update(_inlined(unit, each))
        return {
            name: DeclaredFunction(name, line, frozenset(inlines.get(name, ())))
            for name, line in lines.items()
        }

    def _own_files(self, unit: Any) -> frozenset[int]:
        """Return the numbers that the unit's own file has among the files of its lines."""
        program = self._info.line_program_for_CU(unit)
        if program is None:
            return frozenset()
        # Files are numbered from 0 since DWARF 5, from 1 before.
        first = 0 if program["version"] >= 5 else 1
        wanted = self._source[-1].encode()
        return frozenset(
            number for number, each in enumerate(program["file_entry"], first) if _is_own(each, wanted)
        )


def _is_own(entry: Any, wanted: bytes) -> bool:
    return bool(entry.name.rpartition(b"/")[2] == wanted)


def _origin(entry: Any) -> Any:
    """Return the entry that has the name: that of a copy of a function stands at the function itself."""
    for attribute in ("DW_AT_abstract_origin", "DW_AT_specification"):
        if attribute in entry.attributes:
            return _origin(entry.get_DIE_from_attribute(attribute))
    return entry


def _name(entry: Any) -> str:
    found = entry.attributes.get("DW_AT_name")
    return found.value.decode() if found else ""


def _line(entry: Any, own: frozenset[int]) -> int:
    file, line = (entry.attributes.get(f"DW_AT_decl_{each}") for each in ("file", "line"))
    return int(line.value) if file and line and file.value in own else 0


def _inlined(unit: Any, entry: Any) -> Iterator[str]:
    if not entry.has_children:
        return
    for each in unit.iter_DIE_children(entry):
        if each.tag == _INLINED:
            yield _name(_origin(each))
        yield from _inlined(unit, each)
