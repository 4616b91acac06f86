# SPDX-License-Identifier: Apache-2.0
"""Static keys, static calls and tracepoints in new code, and addresses that IBT does not let through.

A livepatch is loaded before or after the modules that it patches. The kernel gives static keys and static
calls to code as it loads it; where the key is of a module, klp's relocations come too late for that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Protocol

from klp.sourcepatch.changes import Changes
from klp.sourcepatch.parts import AskedKey, Part
from klp.sourcepatch.values import VMLINUX, CompiledUnit, Obstacle, PreparedTree, Unit, Way

_TRACEPOINT, _TRACEPOINT_CALL = "__tracepoint_", "__SCK__tp_func_"
# pr_debug() and its like: each call has a description with a key (struct _ddebug) in that section.
_DEBUG, _DEBUG_SECTION = "__UNIQUE_ID_ddebug", "__dyndbg"
_CALL, _TRAMPOLINE = "__SCK__", "__SCT__"
_JUMP_TABLE = "__jump_table"
_IBT = "-fcf-protection=branch"
_SEAL = ("__ibt_endbr_seal", "__ibt_endbr_seal_end")
_PLACE = struct.Struct("<i")


class KernelSymbols(Protocol):
    """What is asked of the object in the running kernel."""

    def addresses(self, name: str) -> tuple[int, ...]:
        """Return where symbols of a name are."""

    def code(self, address: int, size: int) -> bytes:
        """Return bytes; none where the file holds none."""


def key_obstacles(unit: Unit, changes: Changes, tree: PreparedTree) -> tuple[Obstacle, ...]:
    """Return the new code that asks static keys or static calls of modules."""
    found = {}
    for name, key in _of_modules(unit, changes, tree):
        if not key.name.startswith((_TRACEPOINT, _TRACEPOINT_CALL)) and not _is_debug(key, changes):
            found[name, key.name] = Obstacle(unit.source, name, *_about(key, _home(key, unit, tree)))
    return tuple(found.values())


def _about(key: AskedKey, home: str) -> tuple[str, str]:
    if key.table == _JUMP_TABLE:
        return (f"asks the static key {key.name} of module {home}, which its new code could not follow",
                f"let the new code ask static_key_enabled(&{key.name}) instead")  # fmt: skip
    name = key.name.removeprefix(_CALL).removeprefix(_TRAMPOLINE)
    return (f"makes the static call {name} of module {home}, which its new code could not follow",
            f"let the new code call by static_call_query({name}) instead")  # fmt: skip


def cautions(
    compiled: CompiledUnit, changes: Changes, tree: PreparedTree, shipped: KernelSymbols
) -> tuple[str, ...]:
    """Return what the new code does otherwise than the old, and its author may not expect."""
    named = (f"{compiled.unit.source}: {each}" for each in changes.warnings)
    return (*named, *_quiet(compiled.unit, changes, tree), *_sealed(compiled, changes, shipped))


def _quiet(unit: Unit, changes: Changes, tree: PreparedTree) -> Iterator[str]:
    points: dict[str, dict[str, None]] = {}
    for name, key in _of_modules(unit, changes, tree):
        for kind in (_TRACEPOINT, _TRACEPOINT_CALL):
            if key.name.startswith(kind):
                points.setdefault(name, {})[f"tracepoint {key.name.removeprefix(kind)}"] = None
        # create-diff-object gives new code descriptions of its own (__dyndbg), objtool leaves the keys out.
        if _is_debug(key, changes) and tree.way is Way.OBJTOOL_KLP:
            points.setdefault(name, {})["pr_debug()"] = None
    for name, found in points.items():
        listed = ", ".join(found)
        yield f"{unit.source}: {name}: goes quiet in the new code, because its key is in a module: {listed}"


def _of_modules(unit: Unit, changes: Changes, tree: PreparedTree) -> Iterator[tuple[str, AskedKey]]:
    """Yield functions with new code, and each key in it that the running kernel has in a module."""
    for name, part in changes.new_code.items():
        for key in part.keys:
            if not _is_new(key, changes) and _home(key, unit, tree) != VMLINUX:
                yield name.removesuffix(".cold"), key


def _is_debug(key: AskedKey, changes: Changes) -> bool:
    parts = (part for unit in (changes.before, changes.after) for part in unit.variables.get(key.name, ()))
    return key.name.startswith(_DEBUG) or any(each.section.startswith(_DEBUG_SECTION) for each in parts)


def _is_new(key: AskedKey, changes: Changes) -> bool:
    return key.defined and key.name not in changes.before.variables and key.name in changes.after.variables


def _home(key: AskedKey, unit: Unit, tree: PreparedTree) -> str:
    """Return which object of the kernel has a key: without an export it is the unit's own."""
    return (
        unit.object if key.defined else _exporters(tree.tree / "Module.symvers").get(key.name, unit.object)
    )


@cache
def _exporters(symvers: Path) -> Mapping[str, str]:
    """Return which object exports each symbol: a module is named by its path there."""
    fields = (line.split("\t") for line in symvers.read_text().splitlines())
    return {each[1]: each[2].rpartition("/")[2].replace("-", "_") for each in fields if len(each) > 2}


def _sealed(compiled: CompiledUnit, changes: Changes, shipped: KernelSymbols) -> Iterator[str]:
    """Yield functions whose address new code takes first: without ENDBR, IBT kills who calls by address."""
    if _IBT not in compiled.unit.command:
        return
    known = _addresses_taken(
        *changes.before.functions.values(),
        *(part for parts in changes.before.variables.values() for part in parts),
    )
    new = [each.after for each in changes.variables if each.after is not None]
    sealed = _sealed_addresses(shipped) if compiled.unit.object == VMLINUX else frozenset()
    for name in sorted(_addresses_taken(*changes.new_code.values(), *new) - known):
        in_unit = name in changes.before.functions
        if sealed & set(shipped.addresses(name)) or (in_unit and compiled.unit.object != VMLINUX):
            yield (
                f"{compiled.unit.source}: {name}: its address is taken anew, but the kernel removed the "
                "ENDBR at its beginning: with IBT, an indirect call of it is a fault"
            )


def _addresses_taken(*parts: Part) -> frozenset[str]:
    return frozenset(each.target for part in parts for each in part.references if each.takes_address)


def _sealed_addresses(shipped: KernelSymbols) -> frozenset[int]:
    """Return the functions whose ENDBR the kernel removes at boot: nobody points to them."""
    bounds = [shipped.addresses(each) for each in _SEAL]
    if not all(bounds):
        return frozenset()
    (begin, *_), (end, *_) = bounds
    table = shipped.code(begin, end - begin)
    places = struct.iter_unpack("<i", table[: len(table) // _PLACE.size * _PLACE.size])
    # Each entry counts from itself.
    return frozenset(begin + at * _PLACE.size + distance for at, (distance,) in enumerate(places))
