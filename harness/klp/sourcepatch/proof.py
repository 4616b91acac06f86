# SPDX-License-Identifier: Apache-2.0
"""The proof that what is compiled here is what the kernel executes: function by function, byte for byte.

A livepatch is made of the difference between two compilations. That is worth something only if the first
is the kernel's own: of the same source, configuration and compiler. What linking fills in is not compared
as bytes: it must lead to a symbol of the same name.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from klp.sourcepatch.objects import ObjectFile, Relocation, Symbol
from klp.sourcepatch.places import UnitPlaces
from klp.sourcepatch.shipped import RelocatedFields, ShippedObject


def code_differences(plain: ObjectFile, shipped: ShippedObject, places: UnitPlaces) -> dict[str, str]:
    """Return the functions of a unit that are not the kernel's, and why.

    Args:
        plain: the unit, compiled as the kernel's build does.
        shipped: the object that it is a part of.
        places: where the unit's symbols are there.
    """
    code: dict[int, _Code] = {}
    found = {}
    for each in plain.functions:
        assert each.section is not None
        if each.section not in code:
            code[each.section] = _Code(plain, each.section, shipped)
        address = places.address(each.name)
        why = _missing(each, shipped) if address is None else code[each.section].difference(each, address)
        if why:
            found[each.name] = why
    return found


class _Code:
    """A section with code of a unit, and what the kernel has in its place."""

    def __init__(self, plain: ObjectFile, section: int, shipped: ShippedObject) -> None:
        self._symbols = plain.symbols
        self._shipped = shipped
        self._content = plain.content(section)
        self._relocations = sorted(plain.relocations(section), key=lambda each: each.offset)
        self._offsets = [each.offset for each in self._relocations]
        self._fields = RelocatedFields(self._relocations, shipped.architecture)

    def difference(self, function: Symbol, address: int) -> str:
        """Return why a function is not the one at an address; empty where it is."""
        size, shipped = function.size, self._shipped
        ours, theirs = self._content[function.value : function.value + size], shipped.code(address, size)
        if len(theirs) != size:
            return f"{shipped.name} holds no code of it"
        known = next((each.size for each in shipped.named(function.name) if each.address == address), 0)
        if known and known != size:
            return f"{shipped.name} has {known} bytes of it, compiled here it has {size}"
        aside = self._fields.within(function.value, size) | shipped.relocated(address, size)
        differing = [
            place for place, (one, two) in enumerate(zip(ours, theirs, strict=True))
            if one != two and place not in aside
        ]  # fmt: skip
        if differing:
            return f"{len(differing)} of {size} bytes differ, the first at {differing[0]:#x}"
        return next(self._led_astray(function, address), "")

    def _led_astray(self, function: Symbol, address: int) -> Iterator[str]:
        """Yield what a field in a function leads to here, for each that leads elsewhere in the kernel."""
        first, end = (bisect_left(self._offsets, function.value + each) for each in (0, function.size))
        for relocation in self._relocations[first:end]:
            name = self._symbols[relocation.symbol].name
            place = relocation.offset - function.value
            if name and not self._leads_to(name, address + place, relocation):
                yield f"compiled here it refers to {name} at {place:#x}, in {self._shipped.name} not"

    def _leads_to(self, name: str, address: int, relocation: Relocation) -> bool:
        target = self._shipped.symbol_of(address, relocation)
        if target is None:
            return self._shipped.elsewhere(address) in (name, "")
        # Not every symbol has a name in the kernel.
        known = self._shipped.addresses(name)
        return not known or target in known


def _missing(function: Symbol, shipped: ShippedObject) -> str:
    there = len(shipped.addresses(function.name))
    if not there:
        return f"{shipped.name} has no function of that name"
    if there > 1:
        return f"{shipped.name} has {there} of that name, and none is where this unit's should be"
    why = "code in front of it differs" if function.local else "another unit's overrides it"
    return f"{shipped.name} has it elsewhere than this unit's should be: {why}"
