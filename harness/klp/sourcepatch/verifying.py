# SPDX-License-Identifier: Apache-2.0
"""Whether a livepatch has all that its objects had: linkers and objtool lose things in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from klp.errors import PatchRefused
from klp.sourcepatch.objects import ObjectFile, Section, Symbol

# What the linker merges or renames (scripts/module.lds.S), what modpost adds up, and what is turned into
# livepatch relocations.
_MERGED = (".text", ".rodata", ".data", ".bss", ".init", ".exit", ".modinfo", ".kpatch.", "__klp_relocs")
_DROPPED = (".discard.", ".export_symbol", ".note", ".comment", ".debug", ".rela")
_PLACES, _STATES = ".orc_unwind_ip", ".orc_unwind"
_PLACE = 4
# struct orc_entry (arch/x86/include/asm/orc_types.h): two offsets, then which register the first is of.
_REGISTER_AT, _REGISTER = 4, 0x0F


def verify(module: ObjectFile, parts: Sequence[ObjectFile], name: str) -> None:
    """Return if a module has all functions and special sections of its parts, and all can be unwound.

    Args:
        name: the module's, for the message.

    Raises:
        PatchRefused: it lacks some, and which.
    """
    complaints = [*lost_sections(module, parts), *lost_functions(module, parts), *not_unwound(module)]
    if complaints:
        raise PatchRefused(
            f"{name}: {complaints[0]}", output="\n".join(complaints),
            hint="a linker or objtool lost it: this livepatch must not be loaded",
        )  # fmt: skip


def special_sizes(sections: Iterable[Section]) -> Counter[str]:
    """Return the bytes of sections that the kernel looks into itself, such as ``__bug_table``, by name."""
    sizes: Counter[str] = Counter()
    for each in sections:
        if (
            each.allocated
            and each.kind == "SHT_PROGBITS"
            and not each.name.startswith((*_MERGED, *_DROPPED))
        ):
            sizes[each.name] += each.size
    return sizes


def lost_sections(module: ObjectFile, parts: Sequence[ObjectFile]) -> Iterator[str]:
    """Yield, in words, which special sections have become smaller than those of the parts together."""
    have = special_sizes(module.sections)
    wanted: Counter[str] = Counter()
    for each in parts:
        wanted += special_sizes(each.sections)
    for name, size in sorted(wanted.items()):
        if have[name] < size:
            yield f"{name} has {have[name]} bytes, and its objects have {size}"


def lost_functions(module: ObjectFile, parts: Sequence[ObjectFile]) -> Iterator[str]:
    """Yield, in words, which functions of the parts are not in the module."""
    wanted = Counter(each.name for part in parts for each in _own_functions(part))
    for name in wanted - Counter(each.name for each in _own_functions(module)):
        yield f"function {name} is lost"


def _own_functions(held: ObjectFile) -> Iterator[Symbol]:
    # .klp.sym.… are the kernel's, and .klp.tombstone.… what objtool leaves of references to them.
    return (each for each in held.functions if not each.name.startswith(".klp."))


def not_unwound(module: ObjectFile) -> Iterator[str]:
    """Yield, in words, which functions have no ORC entry: the kernel could not unwind a stack through them.

    A module without any is of a kernel with another unwinder.
    """
    places, states = module.section(_PLACES), module.section(_STATES)
    if places is None or states is None:
        return
    known = _unwinding(module, places, states)
    for function in _own_functions(module):
        before = [each for each in known.get(function.section or 0, ()) if each[0] <= function.value]
        if not max(before, default=(0, False))[1]:
            yield f"function {function.name} has no ORC entry"


def _unwinding(module: ObjectFile, places: Section, states: Section) -> dict[int, list[tuple[int, bool]]]:
    """Return where in each section the state of the stack changes, and whether it is known from there on.

    objtool writes an entry where the state changes: the one that a function begins with may be that of the
    function before it, or of the padding in front of it. Behind all code is one of an unknown state.
    """
    content = module.content(states.index)
    entry = states.size // max(places.size // _PLACE, 1)
    found: dict[int, list[tuple[int, bool]]] = {}
    for each in module.relocations(places.index):
        symbol = module.symbols[each.symbol]
        if symbol.section is not None:
            state = content[each.offset // _PLACE * entry :][:entry]
            known = bool(state[_REGISTER_AT] & _REGISTER)
            found.setdefault(symbol.section, []).append((symbol.value + each.addend, known))
    return found
