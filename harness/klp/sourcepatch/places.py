# SPDX-License-Identifier: Apache-2.0
"""Where the kernel has a unit's symbols, and which of several of one name they are.

Linking keeps what a unit has in one section together, at the distances that it has there. So the address of
a section follows from the names in it: it is the one at which most of them are found. Names that many units
have, such as ``show``, are then told apart by where they are. Where names do not tell, as in a section that
holds nothing but an ``__already_done.0``, the code of the unit does: what it refers to in the kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from klp.errors import PatchRefused
from klp.sourcepatch.objects import ObjectFile, Symbol
from klp.sourcepatch.shipped import ShippedObject

_KINDS = frozenset({"FUNC", "OBJECT", "NOTYPE"})


class UnitPlaces:
    """The places of a unit's symbols in the kernel.

    Args:
        symbols: of the unit, compiled as the kernel's build does.
        bases: the address of each section of the unit in the kernel, where that is known.
        shipped: the object that the unit is a part of.
    """

    def __init__(self, symbols: Iterable[Symbol], bases: Mapping[int, int], shipped: ShippedObject) -> None:
        self._shipped = shipped
        self._places: dict[str, set[int | None]] = {}
        self._globals: set[str] = set()
        for each in symbols:
            self._places.setdefault(each.name, set()).add(_place(each, bases, shipped))
            if not each.local:
                self._globals.add(each.name)

    @classmethod
    def of(cls, plain: ObjectFile, shipped: ShippedObject) -> UnitPlaces:
        """Find the places of a unit's symbols.

        Args:
            plain: the unit, compiled as the kernel's build does.
            shipped: the object that it is a part of.
        """
        named = [each for each in plain.symbols if each.name and each.kind in _KINDS]
        inside = [each for each in named if each.section and plain.sections[each.section].allocated]
        outside = [each for each in named if each.undefined]
        votes = _votes_of_names(inside, shipped)
        bases = _elected(votes)
        unknown = {section for section, counted in votes.items() if counted} - bases.keys()
        if unknown:
            for section, votes_of_code in _votes_of_code(plain, bases, unknown, shipped).items():
                votes[section].update(votes_of_code)
            bases = _elected(votes)
        return cls([*inside, *outside], bases, shipped)

    def address(self, name: str) -> int | None:
        """Return the address of a symbol of the unit in the kernel; None where that cannot be known."""
        places = self._places.get(name, set())
        return next(iter(places)) if len(places) == 1 else None

    def position(self, name: str) -> int:
        """Return which of the symbols of a name the unit's is, from 1 (``old_sympos``); 0 if it is alone.

        Args:
            name: a symbol that the unit has, or refers to and the same object has.

        Raises:
            PatchRefused: it cannot be known, or there is none.
        """
        found = self._shipped.named(name)
        if len(found) == 1:
            return 0
        if not found:
            raise _refused(
                name,
                f"{self._shipped.name} of this kernel has no such symbol",
                "another kernel may have it",
            )
        place = self.address(name)
        # What is seen outside of its unit is there only once; one that is weak may be another unit's.
        shared = [each.address for each in found if not each.local]
        if place is None and name in self._globals and len(shared) == 1:
            place = shared[0]
        positions = [number for number, each in enumerate(found, start=1) if each.address == place]
        if len(positions) != 1:
            why = (
                f"{self._shipped.name} has {len(found)} of that name; which is this unit's cannot be known"
            )
            raise _refused(name, why, "leave it as it is, and change a function that calls it")
        lasting = [each.address for each in found if self._shipped.lasts(each.address)]
        if place not in lasting or lasting.index(place) + 1 != positions[0]:
            # A livepatch may be loaded before the module or after it, and has one position for both.
            why = (
                f"which of {len(found)} it is changes as soon as {self._shipped.name} has been initialised"
            )
            raise _refused(name, why, "leave it as it is, and change a function that calls it")
        return positions[0]


def _refused(name: str, why: str, hint: str) -> PatchRefused:
    return PatchRefused(f"{name}: {why}", output="", hint=hint)


def _place(symbol: Symbol, bases: Mapping[int, int], shipped: ShippedObject) -> int | None:
    """Return where the kernel has a symbol: where its section is, and by the same name."""
    if symbol.section is None or symbol.section not in bases:
        return None
    address = bases[symbol.section] + symbol.value
    # A weak function that another unit's overrides is there without its name, if at all.
    return address if address in shipped.addresses(symbol.name) else None


def _votes_of_names(symbols: Iterable[Symbol], shipped: ShippedObject) -> dict[int, Counter[int]]:
    """Return, for each section of a unit, the addresses at which names in it would be found."""
    votes: dict[int, Counter[int]] = {}
    for each in symbols:
        if each.section is not None:
            found = {address - each.value for address in shipped.addresses(each.name)}
            votes.setdefault(each.section, Counter()).update(found)
    return votes


def _votes_of_code(
    plain: ObjectFile, bases: Mapping[int, int], unknown: Collection[int], shipped: ShippedObject
) -> dict[int, Counter[int]]:
    """Return, for each section in `unknown`, where the kernel's code looks in place of the unit's."""
    votes: dict[int, Counter[int]] = {each: Counter() for each in unknown}
    for section, base in bases.items():
        for relocation in plain.relocations(section):
            symbol = plain.symbols[relocation.symbol]
            if symbol.section in votes:
                address = shipped.symbol_of(base + relocation.offset, relocation)
                if address is not None:
                    votes[symbol.section][address - symbol.value] += 1
    return votes


def _elected(votes: Mapping[int, Counter[int]]) -> dict[int, int]:
    """Return the address of each section for which one address has more votes than every other."""
    return {
        section: best[0][0] for section, counted in votes.items()
        if (best := counted.most_common(2)) and (len(best) == 1 or best[0][1] > best[1][1])
    }  # fmt: skip
