# SPDX-License-Identifier: Apache-2.0
"""The difference between two objects of a unit by kpatch's create-diff-object, for kernels before v7.0.

It wants the symbol table of the kernel or module that the unit is a part of, as ``readelf`` shows it, with
what a stripped file lacks: which source file each local symbol is of. So it is given one in which the
unit's own symbols come first, below its file's name, and all others below another. It counts positions in
that table; they are put right afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from klp.errors import HostLacks
from klp.images.btf import btf_of
from klp.sourcepatch.objects import ObjectFile
from klp.sourcepatch.places import UnitPlaces
from klp.sourcepatch.positions import Positions
from klp.sourcepatch.replaced import ListedFunction, take_out
from klp.sourcepatch.shipped import ShippedKernel, ShippedObject
from klp.sourcepatch.tools import failed, in_root, staged, string_at, write_fields
from klp.sourcepatch.values import CompiledUnit, PreparedTree, Unit, UnitDifference

_NO_CHANGE = 3  # create-diff-object's exit status
_FUNCS = ".kpatch.funcs"
# create-diff-object takes the sizes of what lies in special sections from its environment. A kernel without
# a structure has no such section: since v6.8 paravirt_patch_site is none of x86.
_SIZES = {
    "ALT_STRUCT_SIZE": "alt_instr",
    "BUG_STRUCT_SIZE": "bug_entry",
    "EX_STRUCT_SIZE": "exception_table_entry",
    "JUMP_STRUCT_SIZE": "jump_entry",
    "ORC_STRUCT_SIZE": "orc_entry",
    "PARA_STRUCT_SIZE": "paravirt_patch_site",
    "PRINTK_INDEX_STRUCT_SIZE": "pi_entry",
    "STATIC_CALL_STRUCT_SIZE": "static_call_site",
}


@dataclass(frozen=True, slots=True)
class _Table:
    """An array of create-diff-object's: its section, the size of an entry, and where members are in one."""

    section: str
    entry: int
    position: int
    name: int
    owner: int


# struct kpatch_patch_func (kpatch-patch.h) and struct kpatch_symbol (kpatch-intermediate.h).
_FUNCTIONS = _Table(_FUNCS, entry=56, position=32, name=40, owner=48)
_SYMBOLS = _Table(".kpatch.symbols", entry=40, position=8, name=24, owner=32)


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry: where in the file its position is, that position, and what the entry names."""

    offset: int
    at: int
    position: int
    owner: str
    name: str


def kpatch_difference(
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
        PatchRefused: create-diff-object cannot make a livepatch of the change, and what it said; a symbol
            is not in this kernel, or which one is meant cannot be known.
    """
    unit = compiled.unit
    before, after, out = staged(compiled, tree, scratch)
    table = symbol_table(unit, ObjectFile.of(before), places, shipped.object(unit.object))
    (scratch / "symbols").write_text(table)
    assert tree.kpatch is not None
    argv: list[str | Path] = [
        tree.kpatch / "create-diff-object", before.name, after.name,
        unit.object, "symbols", "Module.symvers", "livepatch", out.name,
    ]  # fmt: skip
    finished = in_root(tree, argv, scratch, env=entry_sizes(tree.kernel.image))
    if finished.status == _NO_CHANGE:
        return None
    if finished.status:
        raise failed(unit.source, "create-diff-object", finished)
    return _finished(compiled, tree, Positions.of_unit(compiled, places, shipped), out)


def entry_sizes(image: Path) -> dict[str, str]:
    """Return the sizes of entries of special sections as create-diff-object's environment.

    Raises:
        HostLacks: the kernel has no BTF.
    """
    types = btf_of(image)
    found = {}
    for variable, structure in _SIZES.items():
        try:
            found[variable] = str(types.size(structure))
        except HostLacks:
            continue
    return found


def symbol_table(unit: Unit, before: ObjectFile, places: UnitPlaces, shipped: ShippedObject) -> str:
    """Return the symbol table of the object that a unit is of, with the unit's symbols first.

    Args:
        before: the unit, unpatched, with a section for each function.
        shipped: the kernel or module.
    """
    own = [
        (places.address(each.name) or 0, each.size, each.kind, each.name)
        for each in before.symbols
        if each.local and each.kind in ("FUNC", "OBJECT") and each.section is not None
    ]
    listed = {(name, address) for address, _, _, name in own}
    others = [
        (each.address, each.size, each.kind, each.name)
        for each in shipped.symbols
        if each.local and (each.name, each.address) not in listed
    ]
    seen = [(each.address, each.size, each.kind, each.name) for each in shipped.symbols if not each.local]
    rows = [
        (0, 0, "FILE", "LOCAL", "ABS", Path(unit.source).name),
        *((*each[:3], "LOCAL", "1", each[3]) for each in own),
        (0, 0, "FILE", "LOCAL", "ABS", "others.c"),
        *((*each[:3], "LOCAL", "1", each[3]) for each in others),
        *((*each[:3], "GLOBAL", "1", each[3]) for each in seen),
    ]
    lines = (
        f"{number:6}: {address:016x} {size} {kind} {binding} DEFAULT {section} {name}\n"
        for number, (address, size, kind, binding, section, name) in enumerate(rows)
    )
    return f"Symbol table '.symtab' contains {len(rows)} entries:\n{''.join(lines)}"


def _finished(
    compiled: CompiledUnit, tree: PreparedTree, positions: Positions, out: Path
) -> UnitDifference | None:
    held = ObjectFile.of(out)
    write_fields(out, dict(corrections(held, positions)))
    found = tuple(listed_by_kpatch(held, positions))
    return take_out(compiled, tree, out, found, tables=(_FUNCS,)) if found else None


def _entries(held: ObjectFile, table: _Table) -> Iterator[_Entry]:
    section = held.section(table.section)
    if section is None:
        return
    pointers = {each.offset: each for each in held.relocations(section.index)}
    content = held.content(section.index)

    def text(at: int) -> str:
        symbol = held.symbols[pointers[at].symbol]
        assert symbol.section is not None
        return string_at(held, symbol.section, symbol.value + pointers[at].addend)

    for at in range(0, section.size, table.entry):
        where = at + table.position
        position = int.from_bytes(content[where : where + 8], "little")
        yield _Entry(
            held.offset_of(section.index) + where,
            at,
            position,
            text(at + table.owner),
            text(at + table.name),
        )


def corrections(held: ObjectFile, positions: Positions) -> Iterator[tuple[int, bytes]]:
    """Yield the positions that are not the kernel's, by their offset in the file.

    Raises:
        PatchRefused: the kernel has no such symbol, or which is meant cannot be known.
    """
    for table in (_FUNCTIONS, _SYMBOLS):
        for each in _entries(held, table):
            right = positions.of(each.owner, each.name)
            if right != each.position:
                yield each.offset, right.to_bytes(8, "little")


def listed_by_kpatch(held: ObjectFile, positions: Positions) -> Iterator[ListedFunction]:
    """Yield the functions that create-diff-object lists as changed, in its order.

    Raises:
        PatchRefused: which function of the kernel is meant cannot be known.
    """
    section = held.section(_FUNCS)
    pointers = {each.offset: each for each in held.relocations(section.index)} if section else {}
    for each in _entries(held, _FUNCTIONS):
        # Its first member is the new function: by its symbol, or by its section.
        pointer = pointers[each.at]
        symbol = held.symbols[pointer.symbol]
        if symbol.kind == "SECTION":
            where = (symbol.section, symbol.value + pointer.addend)
            symbol = next(one for one in held.functions if (one.section, one.value) == where)
        yield ListedFunction(each.name, positions.of(each.owner, each.name), symbol)
