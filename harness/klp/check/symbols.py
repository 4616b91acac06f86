# SPDX-License-Identifier: Apache-2.0
"""What a module has, where its sections were loaded: names for what is gone with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from klp.analysis.inventory_text import Symbols
from klp.model import Module
from klp.sourcepatch.objects import ObjectFile


def symbols_of(module: Module, places: Mapping[str, int]) -> Symbols:
    """Return begin, end and ``NAME [MODULE]`` of each function and variable in a section of `places`.

    Args:
        places: addresses of sections, as /sys/module/NAME/sections has them.
    """
    return tuple(sorted(_symbols(ObjectFile.of(module.file), module.name, places)))


def _symbols(file: ObjectFile, module: str, places: Mapping[str, int]) -> Iterator[tuple[int, int, str]]:
    for symbol in file.symbols:
        if symbol.kind not in ("FUNC", "OBJECT") or symbol.section is None:
            continue
        base = places.get(file.sections[symbol.section].name)
        if base is not None:
            begin = base + symbol.value
            yield begin, begin + max(symbol.size, 1), f"{symbol.name} [{module}]"
