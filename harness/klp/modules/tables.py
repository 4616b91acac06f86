# SPDX-License-Identifier: Apache-2.0
"""What a livepatch's file holds of struct klp_patch, klp_object and klp_func, as the kernel will see them.

The structures lie in the module's data as the compiler wrote them (include/linux/livepatch.h), laid out as
the kernel's BTF says; their pointers are relocations. Arrays end as they do for the kernel: a klp_object
that has neither name nor funcs is the end (klp_for_each_object_static), and so is a klp_func that has
neither old_name nor new_func nor old_sympos (klp_for_each_func_static). Where an array has no such end, the
kernel reads on into whatever lies behind it.

Livepatches of kpatch-build and klp-build make these structures when they are loaded, of others that the
file has: those are read in their place (`.kpatch.funcs`, kpatch's kmod/patch/kpatch-patch.h;
`.init.klp_objects`, the kernel's include/linux/livepatch_external.h). Of a livepatch that makes them in any
other way nothing is found.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from klp.errors import HostLacks
from klp.images.btf import Btf, btf_of
from klp.model import Kernel, Module
from klp.sourcepatch.objects import ObjectFile, Section, Symbol

_CALLBACKS = ("pre_patch", "post_patch", "pre_unpatch", "post_unpatch")
_WORD = 8  # a pointer, and an unsigned long, on every architecture of klp.arch


@dataclass(frozen=True, slots=True)
class FunctionEntry:
    """A klp_func.

    Attributes:
        old: the function that is changed; None where the pointer is NULL.
        new: the livepatch's own; None where the pointer is NULL.
        position: which of several of that name (``old_sympos``), 0 for the only one.
    """

    old: str | None
    new: str | None
    position: int


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """A klp_object.

    Attributes:
        name: the module's, as the author wrote it; None for vmlinux.
        functions: None where the pointer to them is NULL.
        ended: whether the array of functions has its end.
        callbacks: those that are set: ``pre_patch``, ….
    """

    name: str | None
    functions: tuple[FunctionEntry, ...] | None
    ended: bool
    callbacks: tuple[str, ...]

    @property
    def shown(self) -> str:
        """What sysfs calls it."""
        return "vmlinux" if self.name is None else self.name


@dataclass(frozen=True, slots=True)
class LivepatchTables:
    """A klp_patch.

    Attributes:
        variable: what its source calls it.
        module: whether ``.mod`` is set.
        objects: None where the pointer to them is NULL.
        ended: whether the array of objects has its end.
        unseen: the callbacks of the entry that ends the array: they never run.
    """

    variable: str
    module: bool
    objects: tuple[ObjectEntry, ...] | None
    ended: bool
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KlpSymbol:
    """A symbol that a klp relocation names (Documentation/livepatch/module-elf-format.rst).

    Attributes:
        object: ``vmlinux``, or the module that has it.
        section: the livepatch's own, that is to be filled in once that object is there.
        name: the symbol; empty where the livepatch's own symbol table has it under a name of its own.
        position: which of several of that name, 0 for the only one.
    """

    object: str
    section: str
    name: str
    position: int


# .klp.rela.OBJECT.SECTION and .klp.sym.OBJECT.SYMBOL,POSITION: no object's name has a dot.
_KLP_SECTION = re.compile(r"\.klp\.rela\.([^.]+)\.(.+)")
_KLP_SYMBOL = re.compile(r"\.klp\.sym\.([^.]+)\.([^,]+),(\d+)")


def klp_symbols(module: Module) -> tuple[KlpSymbol, ...]:
    """Return the symbols of a livepatch's klp relocations, each once for a section."""
    file = ObjectFile.of(module.file)
    found: dict[KlpSymbol, None] = {}
    for section in file.sections:
        if named := _KLP_SECTION.fullmatch(section.name):
            for each in file.own_relocations(section.index):
                symbol = _KLP_SYMBOL.fullmatch(file.symbols[each.symbol].name)
                what = (symbol[2], int(symbol[3])) if symbol else ("", 0)
                found[KlpSymbol(named[1], named[2], *what)] = None
    return tuple(found)


def tables_of(module: Module, kernel: Kernel) -> tuple[LivepatchTables, ...]:
    """Return every klp_patch of a module that is filled in its file; none where it is made at loading.

    Raises:
        HostLacks: the kernel has no BTF.
    """
    return tables_in(ObjectFile.of(module.file), btf_of(kernel.image))


def changed_modules(module: Module, kernel: Kernel) -> tuple[str, ...]:
    """Return the names of the modules that a livepatch changes, as far as its file tells them."""
    try:
        tables = tables_of(module, kernel)
    except HostLacks:
        return ()
    return tuple(dict.fromkeys(each.name for table in tables for each in table.objects or () if each.name))


def tables_in(file: ObjectFile, types: Btf) -> tuple[LivepatchTables, ...]:
    """Return every klp_patch that is filled in an object file, in the order of their addresses.

    Args:
        types: those of the kernel that it was built for.
    """
    return tuple(_Reader(file, types).patches())


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    section: int
    offset: int

    def plus(self, offset: int) -> _Place:
        return _Place(self.section, self.offset + offset)


class _Reader:
    """Reads the structures of one file."""

    def __init__(self, file: ObjectFile, types: Btf) -> None:
        self._file = file
        self._types = types

    def patches(self) -> Iterator[LivepatchTables]:
        yield from self._written()
        yield from self._of_kpatch_build()
        yield from self._of_klp_build()

    def _written(self) -> Iterator[LivepatchTables]:
        size = self._types.size("klp_patch")
        for symbol in sorted(self._variables, key=lambda each: (each.section or 0, each.value)):
            place = _Place(symbol.section or 0, symbol.value)
            if symbol.size == size and self._is_patch(place):
                yield self._patch(symbol.name, place)

    def _of_kpatch_build(self) -> Iterator[LivepatchTables]:
        """Read struct kpatch_patch_func: two addresses and sizes, position, name, object's name."""
        section = self._file.section(".kpatch.funcs")
        objects: dict[str | None, list[FunctionEntry]] = {}
        for at in self._records(section, 7 * _WORD):
            owner = self._text(at.plus(6 * _WORD))
            entry = FunctionEntry(
                self._text(at.plus(5 * _WORD)), self._name(at), self._number(at.plus(4 * _WORD))
            )
            objects.setdefault(None if owner == "vmlinux" else owner, []).append(entry)
        if objects:
            found = tuple(ObjectEntry(name, tuple(own), True, ()) for name, own in objects.items())
            yield LivepatchTables(".kpatch.funcs", module=True, objects=found, ended=True)

    def _of_klp_build(self) -> Iterator[LivepatchTables]:
        """Read struct klp_object_ext: name, functions, callbacks, number of functions."""
        section = self._file.section(".init.klp_objects")
        found = [self._external(at) for at in self._records(section, (3 + len(_CALLBACKS)) * _WORD)]
        if found:
            yield LivepatchTables(".init.klp_objects", module=True, objects=tuple(found), ended=True)

    def _external(self, at: _Place) -> ObjectEntry:
        number = self._number(at.plus((2 + len(_CALLBACKS)) * _WORD)) & 0xFFFFFFFF
        first = self._pointers.get(at.plus(_WORD), (None, ""))[0]
        entries = [first.plus(each * 3 * _WORD) for each in range(number)] if first else []
        callbacks = (
            each for count, each in enumerate(_CALLBACKS, 2) if at.plus(count * _WORD) in self._pointers
        )
        functions = (
            FunctionEntry(
                self._text(each), self._name(each.plus(_WORD)), self._number(each.plus(2 * _WORD))
            )
            for each in entries
        )
        return ObjectEntry(self._text(at), tuple(functions), ended=True, callbacks=tuple(callbacks))

    def _records(self, section: Section | None, size: int) -> Iterator[_Place]:
        """Yield where the records of a section begin; none where it is no array of records of that size."""
        if section and section.size % size == 0:
            for offset in range(0, section.size, size):
                yield _Place(section.index, offset)

    @cached_property
    def _variables(self) -> tuple[Symbol, ...]:
        kept = (each for each in self._file.symbols if each.kind == "OBJECT" and each.section is not None)
        return tuple(each for each in kept if self._held(each.section))

    def _held(self, section: int | None) -> bool:
        # What the file has no bytes of (.bss) is filled when the module is loaded.
        return section is not None and self._file.sections[section].kind == "SHT_PROGBITS"

    def _is_patch(self, place: _Place) -> bool:
        """Whether what has its size is one: it points to THIS_MODULE, or to data of the livepatch's own."""
        module, objects = (self._target(place, "klp_patch", each) for each in ("mod", "objs"))
        if objects is not None and not self._held(objects.section):
            return False  # an array that is filled when the module is loaded
        if module is not None:
            return self._section(module).name == ".gnu.linkonce.this_module"
        return objects is not None and self._section(objects).writable

    def _patch(self, variable: str, place: _Place) -> LivepatchTables:
        module = self._target(place, "klp_patch", "mod") is not None
        objects = self._target(place, "klp_patch", "objs")
        if objects is None:
            return LivepatchTables(variable, module, None, ended=True)
        unseen: tuple[str, ...] = ()
        found, ended = [], False
        for at in self._entries(objects, "klp_object"):
            if not self._set(at, "klp_object", "name") and not self._set(at, "klp_object", "funcs"):
                ended, unseen = True, self._callbacks(at)
                break
            found.append(self._object(at))
        return LivepatchTables(variable, module, tuple(found), ended, unseen)

    def _object(self, place: _Place) -> ObjectEntry:
        name = self._text(self._member(place, "klp_object", "name"))
        functions = self._target(place, "klp_object", "funcs")
        callbacks = self._callbacks(place)
        if functions is None:
            return ObjectEntry(name, None, ended=True, callbacks=callbacks)
        found, ended = [], False
        for at in self._entries(functions, "klp_func"):
            entry = self._function(at)
            if entry is None:
                ended = True
                break
            found.append(entry)
        # An array without bytes in the file is filled later: what it holds is not known.
        ended = ended or not self._held(functions.section)
        return ObjectEntry(name, tuple(found), ended, callbacks)

    def _function(self, place: _Place) -> FunctionEntry | None:
        """Return a klp_func; None where it is the end of its array."""
        position = self._number(place.plus(self._types.offset("klp_func", "old_sympos")))
        old, new = (self._set(place, "klp_func", each) for each in ("old_name", "new_func"))
        if not (old or new or position):
            return None
        return FunctionEntry(
            self._text(self._member(place, "klp_func", "old_name")),
            self._name(self._member(place, "klp_func", "new_func")),
            position,
        )

    def _name(self, at: _Place) -> str | None:
        """Return the function that a pointer points to, ``?`` if it has no name; None where it is NULL."""
        target, symbol = self._pointers.get(at, (None, ""))
        if target is None:
            return symbol or ("?" if self._number(at) else None)
        return self._functions.get(target, "?")

    def _callbacks(self, place: _Place) -> tuple[str, ...]:
        begin = self._types.offset("klp_object", "callbacks")
        at = {each: begin + self._types.offset("klp_callbacks", each) for each in _CALLBACKS}
        return tuple(each for each, offset in at.items() if place.plus(offset) in self._pointers)

    def _entries(self, start: _Place, kind: str) -> Iterator[_Place]:
        """Yield where the entries of an array are, as far as the variable goes that they are in."""
        size = self._types.size(kind)
        for number in range((self._end(start) - start.offset) // size):
            yield start.plus(number * size)

    def _end(self, place: _Place) -> int:
        """Return where the variable ends that begins at a place; the section, where none is known to."""
        if not self._held(place.section):
            return place.offset
        starts = self._starts.get(place.section, [])
        number = bisect_right(starts, (place.offset, 1 << 62))
        begin, end = starts[number - 1] if number else (0, 0)
        within = begin <= place.offset < end
        return end if within else self._section(place).size

    @cached_property
    def _starts(self) -> dict[int, list[tuple[int, int]]]:
        found: dict[int, list[tuple[int, int]]] = {}
        for each in self._variables:
            if each.size:
                found.setdefault(each.section or 0, []).append((each.value, each.value + each.size))
        return {section: sorted(own) for section, own in found.items()}

    @cached_property
    def _pointers(self) -> dict[_Place, tuple[_Place | None, str]]:
        """What the relocations of data point to: a place in the file, or the name of a symbol elsewhere."""
        return {
            _Place(section.index, each.offset): self._pointed(each.symbol, each.addend)
            for section in self._file.sections
            if section.allocated and section.kind == "SHT_PROGBITS"
            for each in self._file.relocations(section.index)
        }

    def _pointed(self, number: int, addend: int) -> tuple[_Place | None, str]:
        symbol = self._file.symbols[number]
        if symbol.section is None:
            return None, symbol.name
        return _Place(symbol.section, symbol.value + addend), symbol.name

    @cached_property
    def _functions(self) -> dict[_Place, str]:
        return {_Place(each.section or 0, each.value): each.name for each in self._file.functions}

    def _member(self, place: _Place, kind: str, member: str) -> _Place:
        return place.plus(self._types.offset(kind, member))

    def _set(self, place: _Place, kind: str, member: str) -> bool:
        at = self._member(place, kind, member)
        return at in self._pointers or self._number(at) != 0

    def _target(self, place: _Place, kind: str, member: str) -> _Place | None:
        return self._pointers.get(self._member(place, kind, member), (None, ""))[0]

    def _text(self, at: _Place) -> str | None:
        """Return the string that a pointer points to; None where it is NULL."""
        target = self._pointers.get(at, (None, ""))[0]
        if target is None or not self._held(target.section):
            return None
        content = self._file.content(target.section)
        return content[target.offset :].split(b"\0")[0].decode(errors="replace")

    def _number(self, place: _Place) -> int:
        if not self._held(place.section):
            return 0
        content = self._file.content(place.section)[place.offset : place.offset + _WORD]
        return int.from_bytes(content, "little")

    def _section(self, place: _Place) -> Section:
        return self._file.sections[place.section]
