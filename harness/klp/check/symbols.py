# SPDX-License-Identifier: Apache-2.0
"""What a module has, where its sections were loaded: names for what is gone with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from klp.analysis.inventory_text import Symbols
from klp.model import Module


def symbols_of(module: Module, places: Mapping[str, int]) -> Symbols:
    """Return begin, end and ``NAME [MODULE]`` of each function and variable in a section of `places`.

    Args:
        places: addresses of sections, as /sys/module/NAME/sections has them.
    """
    with module.file.open("rb") as stream:
        return tuple(sorted(_symbols(ELFFile(stream), module.name, places)))


def _symbols(file: ELFFile, module: str, places: Mapping[str, int]) -> Iterator[tuple[int, int, str]]:
    for table in file.iter_sections():
        if not isinstance(table, SymbolTableSection):
            continue
        for symbol in table.iter_symbols():
            index = symbol["st_shndx"]
            if symbol["st_info"]["type"] not in ("STT_FUNC", "STT_OBJECT") or not isinstance(index, int):
                continue
            base = places.get(file.get_section(index).name)
            if base is not None:
                begin = base + symbol["st_value"]
                yield begin, begin + max(symbol["st_size"], 1), f"{symbol.name} [{module}]"
