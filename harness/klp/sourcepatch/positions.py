# SPDX-License-Identifier: Apache-2.0
"""Which of several symbols of one name the kernel takes for one that a unit refers to (``old_sympos``).

objtool and create-diff-object count in the order of the tables that they are given; the kernel counts in
the order of addresses in vmlinux, and in the order of the symbol table in a module.
"""

from __future__ import annotations

from dataclasses import dataclass

from klp.errors import PatchRefused
from klp.sourcepatch.objects import ObjectFile
from klp.sourcepatch.places import UnitPlaces
from klp.sourcepatch.shipped import ShippedKernel
from klp.sourcepatch.values import VMLINUX, CompiledUnit, Unit


@dataclass(frozen=True, slots=True)
class Positions:
    """Positions of what one unit refers to.

    Attributes:
        unit: which.
        defined: the names of the symbols that the unit defines.
        places: where they are in the kernel.
        shipped: the kernel, for symbols of others.
    """

    unit: Unit
    defined: frozenset[str]
    places: UnitPlaces
    shipped: ShippedKernel

    @classmethod
    def of_unit(cls, compiled: CompiledUnit, places: UnitPlaces, shipped: ShippedKernel) -> Positions:
        """Return the positions of a compiled unit."""
        plain = ObjectFile.of(compiled.plain)
        defined = frozenset(each.name for each in plain.symbols if not each.undefined)
        return cls(compiled.unit, defined, places, shipped)

    def of(self, owner: str, name: str) -> int:
        """Return the position of a symbol: 0 where its object has no other of that name.

        Args:
            owner: the object that has it: ``vmlinux``, or a module's name.

        Raises:
            PatchRefused: the object has none of that name, or it cannot be known which is meant.
        """
        if owner == self.unit.object and name in self.defined:
            return self.places.position(name)
        found = [each for each in self.shipped.object(owner).symbols if each.name == name]
        if len(found) == 1:
            return 0
        if not found:
            raise self._missing(owner, name)
        # Others of the name are local: a unit that does not define it can mean only the one that is not.
        seen = [number for number, each in enumerate(found, 1) if not each.local]
        if len(seen) != 1:
            raise PatchRefused(
                f"{self.unit.source}: {name}: {owner} has {len(found)} of that name, and which is meant"
                " cannot be known",
                output="",
            )
        return seen[0]

    def _missing(self, owner: str, name: str) -> PatchRefused:
        """Return the error for a symbol that the object has not in which it is looked for."""
        # What is neither of the unit's own object nor exported cannot be told from what does not exist.
        elsewhere = owner != VMLINUX and self.shipped.object(VMLINUX).addresses(name)
        hint = f"vmlinux has {name}, and exports it to no module: use another" if elsewhere else None
        return PatchRefused(
            f"{self.unit.source}: {name}: {owner} of this kernel has no such symbol", output="", hint=hint
        )
