# SPDX-License-Identifier: Apache-2.0
"""Functions that a difference replaces: read, and named so that one link can take several units."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from klp.sourcepatch.objects import ObjectFile, Symbol
from klp.sourcepatch.tools import objcopy
from klp.sourcepatch.values import CompiledUnit, NewFunction, PreparedTree, Unit, UnitDifference

_DATA = (".data", ".rodata", ".bss")


@dataclass(frozen=True, slots=True)
class ListedFunction:
    """A function of the kernel, which of its name, and the symbol of what replaces it."""

    old: str
    position: int
    new: Symbol


def new_name(function: Symbol, unit: Unit) -> str:
    """Return a name under which a function can be seen by the other objects of a livepatch.

    A global one keeps its name. A local one gets its unit's with it: under its own it could be taken for
    one of another unit's, or for a function of the kernel that another unit calls.
    """
    if not function.local:
        return function.name
    return f"{function.name}.{re.sub('[^A-Za-z0-9]', '_', unit.stem)}"


def take_out(
    compiled: CompiledUnit,
    tree: PreparedTree,
    out: Path,
    functions: Sequence[ListedFunction],
    tables: Iterable[str],
) -> UnitDifference:
    """Take the list of functions out of an object, cut away, and make those functions be seen from outside.

    Args:
        out: the object, which is changed.
        functions: what is in its tables.
        tables: the sections that hold them, and nothing else.

    Raises:
        PatchRefused: objcopy refused.
    """
    unit = compiled.unit
    held = ObjectFile.of(out)
    there = {each.name for each in held.sections}
    cut = [f"--remove-section={prefix}{each}" for each in tables for prefix in ("", ".rela")]
    options = [word for word in cut if word.partition("=")[2] in there]
    for each in functions:
        # objcopy looks at the new name when it comes to what becomes global.
        options += [f"--redefine-sym={old}={new}" for old, new in renamed_with(each.new, held, unit)]
        options += [f"--globalize-symbol={new_name(each.new, unit)}"] if each.new.local else []
    added = tuple(added_symbols(ObjectFile.of(compiled.before), held))
    objcopy(tree, unit, out, options)
    found = tuple(
        NewFunction(unit.object, each.old, each.position, new_name(each.new, unit), unit.stem)
        for each in functions
    )
    return UnitDifference(unit, out, found, added)


def renamed_with(function: Symbol, held: ObjectFile, unit: Unit) -> Iterator[tuple[str, str]]:
    """Yield names that change with a function's: objtool knows its cold part and padding by them."""
    new = new_name(function, unit)
    if new == function.name:
        return
    there = {each.name for each in held.symbols}
    yield function.name, new
    for name in sorted(there):
        if re.fullmatch(rf"{re.escape(function.name)}\.cold(\.\d+)?", name):
            yield name, new + name.removeprefix(function.name)
    if (padding := f"__pfx_{function.name}") in there:
        yield padding, f"__pfx_{new}"


def added_symbols(before: ObjectFile, held: ObjectFile) -> Iterator[str]:
    """Yield functions and variables of a difference that the original unit does not have.

    Static variables of functions have numbers in their names, which differ from one compilation to another.
    """
    known = {_without_number(each.name) for each in before.symbols}
    data = {each.index for each in held.sections if each.name.startswith(_DATA)}
    for each in held.symbols:
        # objtool klp makes symbols for entries of special sections, too.
        is_variable = each.kind == "OBJECT" and each.section in data
        if (each.is_code or is_variable) and each.name and _without_number(each.name) not in known:
            yield each.name


def _without_number(name: str) -> str:
    return re.sub(r"\.\d+$", "", name)
