# SPDX-License-Identifier: Apache-2.0
"""Which functions a livepatch changes, and by which, read from its .ko before it is loaded.

The kernel's own structures (include/linux/livepatch.h) lie in the module's data, and every pointer in them
is a relocation: `klp_func` begins with a pointer to a string, the old function's name, and one to the new
function; `klp_object` with one to its name (NULL, so no relocation, for vmlinux) and one to its first
`klp_func`. They are found by these pairs of pointers, not by counting: both hold a kobject, whose size
depends on the kernel's configuration.

Modules of kpatch-build and klp-build make the structures when they are loaded: nothing is found in them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from elftools.elf.elffile import ELFFile

from klp.errors import NotALivepatch
from klp.model import Module

_POINTER = 8  # on every architecture of klp.arch
_HINT = "the structures klp_func must be in .data, and not be made when the module is loaded"


class _ChangedFunction(NamedTuple):
    """A function of `object` (vmlinux or a module), and the livepatch's own that takes its place."""

    object: str
    old: str
    new: str


class _Target(NamedTuple):
    """What a relocation points to: a section's index, and the offset in it."""

    section: int
    offset: int


@dataclass(frozen=True)
class _Data:
    """The pointers of a module's .data, by their offset, and what they point to."""

    elf: Any
    index: int
    pointers: dict[int, _Target]
    functions: dict[_Target, str]

    def string(self, at: int) -> str:
        """Return the string that a pointer at `at` points to; empty where there is no pointer."""
        target = self.pointers.get(at)
        section = self.elf.get_section(target.section) if target else None
        if target is None or not section or section["sh_type"] != "SHT_PROGBITS":
            return ""
        return str(section.data()[target.offset :].split(b"\0")[0].decode(errors="replace"))

    def function(self, at: int) -> str:
        """Return the function that a pointer at `at` points to; empty where there is none."""
        target = self.pointers.get(at)
        return self.functions.get(target, "") if target else ""


def watched(modules: Iterable[Module]) -> tuple[str, ...]:
    """Return every function that some livepatches change, in the words of the probe klpconsistency.

    That is LIVEPATCH:OBJECT:OLD:NEW. A livepatch that has only callbacks changes no function.

    Raises:
        NotALivepatch: none can be found in any of them.
    """
    livepatches = tuple(modules)
    changed = tuple(
        f"{module.name}:{each.object}:{each.old}:{each.new}"
        for module in livepatches
        for each in _found(module)
    )
    if not changed:
        names = ", ".join(module.name for module in livepatches) or "no livepatch"
        raise NotALivepatch(f"{names}: no function that is changed can be found", hint=_HINT)
    return changed


def _found(module: Module) -> tuple[_ChangedFunction, ...]:
    data = _read(module.file)
    return tuple(_changed(data)) if data else ()


def _changed(data: _Data) -> Iterator[_ChangedFunction]:
    funcs = [at for at in sorted(data.pointers) if data.string(at) and data.function(at + _POINTER)]
    objects = dict(_objects(data, funcs))
    for at in funcs:
        first = max((each for each in objects if each <= at), default=None)
        # An array of klp_func belongs to the object whose pointer leads to its first one.
        if first is not None:
            yield _ChangedFunction(objects[first], data.string(at), data.function(at + _POINTER))


def _objects(data: _Data, funcs: list[int]) -> Iterator[tuple[int, str]]:
    """Yield where each object's first function is, and the object's name."""
    for at, target in data.pointers.items():
        if target.section == data.index and target.offset in funcs:
            yield target.offset, data.string(at - _POINTER) or "vmlinux"


def _read(file: Path) -> _Data | None:
    elf: Any = ELFFile(io.BytesIO(file.read_bytes()))
    index, symbols = elf.get_section_index(".data"), elf.get_section_by_name(".symtab")
    relocations = elf.get_section_by_name(".rela.data")
    if index is None or symbols is None or relocations is None:
        return None
    table = list(symbols.iter_symbols())
    pointers = {
        each["r_offset"]: _Target(symbol["st_shndx"], symbol["st_value"] + each["r_addend"])
        for each in relocations.iter_relocations()
        if isinstance((symbol := table[each["r_info_sym"]])["st_shndx"], int)
    }
    return _Data(elf, index, pointers, _functions(table))


def _functions(table: list[Any]) -> dict[_Target, str]:
    # __pfx_… are objtool's names for the padding in front of functions (CONFIG_PREFIX_SYMBOLS, x86).
    return {
        _Target(each["st_shndx"], each["st_value"]): each.name
        for each in table
        if each["st_info"]["type"] == "STT_FUNC" and not each.name.startswith("__pfx_")
    }
