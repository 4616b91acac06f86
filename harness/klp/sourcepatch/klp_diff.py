# SPDX-License-Identifier: Apache-2.0
"""The difference between two objects of a unit by the kernel's own objtool, as of v7.0 and later.

``objtool klp checksum`` and ``objtool klp diff`` are made for the whole of vmlinux.o and for modules as
they are linked. A unit alone lacks what they look at there: the name of its object in ``.modinfo``; symbols
that only the patched source refers to; in a module of several units the types of what others define,
without which static keys of the module are not seen to be keys (tools/objtool/klp-diff.c).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from klp.sourcepatch.objects import ObjectFile, Symbol
from klp.sourcepatch.places import UnitPlaces
from klp.sourcepatch.positions import Positions
from klp.sourcepatch.replaced import ListedFunction, take_out
from klp.sourcepatch.shipped import ShippedKernel, ShippedObject
from klp.sourcepatch.tools import must, objcopy, staged, string_at, write_fields
from klp.sourcepatch.values import VMLINUX, CompiledUnit, PreparedTree, Unit, UnitDifference

# What `objtool klp diff` lists functions in, for the kernel's own scripts/livepatch/init.c to register.
_FUNCS, _OBJECTS, _STRINGS = ".init.klp_funcs", ".init.klp_objects", ".rodata.klp.str1.1"
# struct klp_func_ext (include/linux/livepatch_external.h): old_name, new_func, sympos.
_ENTRY, _NEW = 24, 8
# .klp.sym.OBJECT.NAME,POSITION; an object's name has no dot, a symbol's may have.
_KLP_SYMBOL = re.compile(r"\.klp\.sym\.([^.]+)\.(.+),(\d+)")
_COUNTED = re.compile(r"(__BTF_ID__\w+?__)\d+")
# Elf64_Sym: its size, and where its type and binding are.
_SYMBOL_SIZE, _SYMBOL_INFO = 24, 4
_KINDS = {"OBJECT": 1, "FUNC": 2}


def klp_difference(
    compiled: CompiledUnit,
    tree: PreparedTree,
    shipped: ShippedKernel,
    places: UnitPlaces,
    scratch: Path,
) -> UnitDifference | None:
    """Return what is different in a unit, with each reference by its right position; None if no code is.

    Args:
        scratch: an empty folder; the result stays in it.

    Raises:
        PatchRefused: objtool cannot make a livepatch of the change, and what it said; a symbol is not in
            this kernel, or which one is meant cannot be known.
    """
    unit = compiled.unit
    before, after, out = staged(compiled, tree, scratch)
    _refer(tree, unit, before, ObjectFile.of(after))
    for each in (before, after):
        objcopy(
            tree,
            unit,
            each,
            (f"--redefine-sym={old}={new}" for old, new in stable_names(ObjectFile.of(each))),
        )
        _name_object(tree, unit, each)
        if unit.object != VMLINUX:
            write_fields(each, dict(typed(ObjectFile.of(each), shipped.object(unit.object))))
        must(tree, [tree.objtool, "klp", "checksum", each.name], scratch, unit.source)
    must(tree, [tree.objtool, "klp", "diff", before.name, after.name, out.name], scratch, unit.source)
    if not out.exists():
        return None
    return _finished(compiled, tree, Positions.of_unit(compiled, places, shipped), out)


def _finished(
    compiled: CompiledUnit, tree: PreparedTree, positions: Positions, out: Path
) -> UnitDifference | None:
    held = ObjectFile.of(out)
    renamed = dict(renamed_symbols(held.symbols, positions))
    found = tuple(listed_by_objtool(held, positions))
    if not found:
        return None
    objcopy(tree, compiled.unit, out, (f"--redefine-sym={old}={new}" for old, new in renamed.items()))
    return take_out(compiled, tree, out, found, tables=(_FUNCS, _OBJECTS, _STRINGS))


def _refer(tree: PreparedTree, unit: Unit, before: Path, after: ObjectFile) -> None:
    """Make known to the original what only the patched unit refers to: objtool pairs symbols by name."""
    known = {each.name for each in ObjectFile.of(before).symbols}
    new = [each.name for each in after.symbols if each.undefined and each.name not in known]
    if new:
        bare = before.with_name("bare.o")
        before.rename(bare)
        must(
            tree,
            ["ld", "-r", *(f"--undefined={each}" for each in new), bare.name, "-o", before.name],
            before.parent, unit.source,
        )  # fmt: skip


def stable_names(held: ObjectFile) -> Iterator[tuple[str, str]]:
    """Yield symbols of a unit whose names change with each change of it, each with a name that does not.

    BTF_ID() ends names in ``__COUNTER__`` (include/linux/btf_ids.h), which WARN() and others count up, too:
    functions that have nothing to do with the patch would refer to another symbol.
    """
    numbers: Counter[str] = Counter()
    for each in held.symbols:
        if found := _COUNTED.fullmatch(each.name):
            numbers[found[1]] += 1
            yield each.name, f"{found[1]}{numbers[found[1]]}"


def _name_object(tree: PreparedTree, unit: Unit, file: Path) -> None:
    """Say in ``.modinfo`` which object the unit is of, which only the link of a module would add."""
    held = ObjectFile.of(file)
    section = held.section(".modinfo")
    content = file.with_name("modinfo")
    content.write_bytes(
        (held.content(section.index) if section else b"") + f"\0name={unit.object}\0".encode()
    )
    how = "--update-section" if section else "--add-section"
    flags = [] if section else ["--set-section-flags=.modinfo=alloc,readonly,data"]
    objcopy(tree, unit, file, [f"{how}=.modinfo={content.name}", *flags])


def typed(held: ObjectFile, shipped: ShippedObject) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes, by their offset in the file, that give undefined symbols the type they are of.

    Args:
        held: an object of a unit, in which they have none.
        shipped: the module that the unit is a part of.
    """
    kinds = {each.name: _KINDS[each.kind] for each in shipped.symbols if each.kind in _KINDS}
    table = held.section(".symtab")
    assert table is not None
    begin = held.offset_of(table.index)
    content = held.content(table.index)
    for each in held.symbols:
        if each.undefined and each.name in kinds:
            at = each.index * _SYMBOL_SIZE + _SYMBOL_INFO
            yield begin + at, bytes([content[at] & 0xF0 | kinds[each.name]])


def renamed_symbols(symbols: Iterable[Symbol], positions: Positions) -> Iterator[tuple[str, str]]:
    """Yield the symbols whose names hold a position that is not the kernel's, each with its right name.

    Raises:
        PatchRefused: the kernel has no such symbol, or which is meant cannot be known.
    """
    for each in symbols:
        if found := _KLP_SYMBOL.fullmatch(each.name):
            owner, name, position = found[1], found[2], int(found[3])
            if (right := positions.of(owner, name)) != position:
                yield each.name, f".klp.sym.{owner}.{name},{right}"


def listed_by_objtool(held: ObjectFile, positions: Positions) -> Iterator[ListedFunction]:
    """Yield the functions that objtool lists as changed, in its order.

    Raises:
        PatchRefused: which function of the kernel is meant cannot be known.
    """
    table = held.section(_FUNCS)
    pointers = {each.offset: each for each in held.relocations(table.index)} if table else {}
    for at in range(0, table.size if table else 0, _ENTRY):
        name, new = pointers[at], held.symbols[pointers[at + _NEW].symbol]
        strings = held.symbols[name.symbol]
        assert strings.section is not None
        old = string_at(held, strings.section, strings.value + name.addend)
        yield ListedFunction(old, positions.of(positions.unit.object, old), new)
