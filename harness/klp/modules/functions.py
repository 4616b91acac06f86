# SPDX-License-Identifier: Apache-2.0
"""Which functions a livepatch changes, and by which, read from its .ko before it is loaded.

The kernel's own structures (include/linux/livepatch.h) lie in the module's data, and every pointer in them
is a relocation: `klp_func` begins with a pointer to a string, the old function's name, and one to the new
function; `klp_object` with one to its name (NULL, so no relocation, for vmlinux) and one to its first
`klp_func`. They are found by these pairs of pointers, not by counting: both hold a kobject, whose size
depends on the kernel's configuration.

Modules of kpatch-build and klp-build make the structures when they are loaded: nothing is found in them.

Whether a probe can be put at a new function's entry stands in the file, too: ftrace knows the functions
that the compiler listed in __mcount_loc, and _kprobe_blacklist names those that must have no kprobe.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from elftools.elf.elffile import ELFFile

from klp.errors import NotALivepatch
from klp.model import Module
from klp.sourcepatch.objects import section_index

_POINTER = 8  # on every architecture of klp.arch
_THIS_MODULE = ".gnu.linkonce.this_module"  # where modpost puts THIS_MODULE
_HINT = "the structures klp_func must be in .data, and not be made when the module is loaded"


class ChangedFunction(NamedTuple):
    """A function that a livepatch changes, and the livepatch's own that takes its place.

    Attributes:
        object: vmlinux, or a module.
        old: the function that is changed.
        new: the livepatch's own.
        position: which of several of the name `old` it is, from 1 (``old_sympos``); 0 where there is one.
        hidden: why the kernel would put no probe at the entry of `new`, in words; empty where it would.
    """

    object: str
    old: str
    new: str
    position: int = 0
    hidden: str = ""


class _Target(NamedTuple):
    """What a relocation points to: a section's index, and the offset in it."""

    section: int
    offset: int


@dataclass(frozen=True)
class _Data:
    """The pointers of a module's .data, by their offset, and what they point to.

    `functions` are the module's, by where they are; `hidden` says of some why they cannot be probed.
    """

    elf: Any
    index: int
    pointers: dict[int, _Target]
    functions: dict[_Target, str]
    hidden: dict[str, str]

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

    def number(self, at: int) -> int:
        """Return the unsigned long at `at`."""
        content: bytes = self.elf.get_section(self.index).data()[at : at + _POINTER]
        return int.from_bytes(content, "little")


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
        for each in changed_functions(module)
    )
    if not changed:
        names = ", ".join(module.name for module in livepatches) or "no livepatch"
        raise NotALivepatch(f"{names}: no function that is changed can be found", hint=_HINT)
    return changed


def changed_functions(module: Module) -> tuple[ChangedFunction, ...]:
    """Return the functions that a livepatch changes, in the order of its source.

    Empty where it changes none, and where its structures are made only when it is loaded.
    """
    data = _read(module.file)
    return tuple(_changed(data)) if data else ()


def _changed(data: _Data) -> Iterator[ChangedFunction]:
    funcs = [at for at in sorted(data.pointers) if data.string(at) and data.function(at + _POINTER)]
    objects = dict(_objects(data, funcs))
    for at in funcs:
        first = max((each for each in objects if each <= at), default=None)
        # An array of klp_func belongs to the object whose pointer leads to its first one.
        if first is not None:
            new, position = data.function(at + _POINTER), data.number(at + 2 * _POINTER)
            hidden = data.hidden.get(new, "")
            yield ChangedFunction(objects[first], data.string(at), new, position, hidden)


def _objects(data: _Data, funcs: list[int]) -> Iterator[tuple[int, str]]:
    """Yield where each object's first function is, and the object's name."""
    for at, target in data.pointers.items():
        if target.section == data.index and target.offset in funcs:
            yield target.offset, data.string(at - _POINTER) or "vmlinux"


def _read(file: Path) -> _Data | None:
    elf: Any = ELFFile(io.BytesIO(file.read_bytes()))
    index, symbols = elf.get_section_index(".data"), elf.get_section_by_name(".symtab")
    if index is None or symbols is None or not elf.get_section_by_name(".rela.data"):
        return None
    table = list(symbols.iter_symbols())
    pointers = _pointers(elf, ".data", table)
    return _Data(elf, index, pointers, _functions(table), dict(_hidden(elf, table)))


def _pointers(elf: Any, section: str, table: list[Any]) -> dict[int, _Target]:
    """Return what the relocations of a section point to in this module, by their offset."""
    relocations = elf.get_section_by_name(f".rela{section}")
    return {
        each["r_offset"]: _Target(symbol["st_shndx"], symbol["st_value"] + each["r_addend"])
        for each in (relocations.iter_relocations() if relocations else ())
        if section_index((symbol := table[each["r_info_sym"]])["st_shndx"]) is not None
    }


def _functions(table: list[Any]) -> dict[_Target, str]:
    return {_Target(each["st_shndx"], each["st_value"]): each.name for each in _code(table)}


def _code(table: list[Any]) -> Iterator[Any]:
    # __pfx_… are objtool's names for the padding in front of functions (CONFIG_PREFIX_SYMBOLS, x86).
    for each in table:
        defined = section_index(each["st_shndx"]) is not None
        if each["st_info"]["type"] == "STT_FUNC" and defined and not each.name.startswith("__pfx_"):
            yield each


def _hidden(elf: Any, table: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield the functions at whose entry the kernel would put no probe, each with why."""
    traced = set(_pointers(elf, "__mcount_loc", table).values())
    excepted = set(_pointers(elf, "_kprobe_blacklist", table).values())
    names: Mapping[str, int] = Counter(each.name for each in table)
    for each in _code(table):
        section, start = each["st_shndx"], each["st_value"]
        # Where an indirect call may land, an ENDBR stands before the call that ftrace knows.
        if not any(_Target(section, start + at) in traced for at in range(max(each["st_size"], 1))):
            yield each.name, "ftrace does not know it (notrace)"
        elif _Target(section, start) in excepted:
            yield each.name, "kprobes are forbidden in it (NOKPROBE_SYMBOL)"
        elif names[each.name] > 1:
            yield each.name, f"its name exists {names[each.name]} times in the livepatch"
