# SPDX-License-Identifier: Apache-2.0
"""What an object consists of, so that two compiles can be compared function by function, by name.

Names that the compiler and macros number (``__func__.34``) get other numbers as soon as one more is there,
and strings move in their section: numbers are left out here, and a string stands for itself.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from elftools.elf.constants import SH_FLAGS

from klp.sourcepatch.objects import ObjectFile, Relocation, Section, Symbol

# R_X86_64_PC32 and R_X86_64_PLT32: in code their addend counts from the end of the field, four bytes on. A
# compiler uses the second for calls and jumps only; others, such as R_X86_64_32S, take addresses.
_PC32, _PLT32 = 2, 4
_STRINGS = SH_FLAGS.SHF_MERGE | SH_FLAGS.SHF_STRINGS
# call, jmp and conditional jumps with a distance of four bytes.
_NEAR = re.compile(rb"[\xe8\xe9]|\x0f[\x80-\x8f]")
# What GCC adds to the name of a function that it splits or specialises.
_CLONE = re.compile(r"\.(?:isra|part|constprop|cold|localalias)\b")
_NUMBERED = re.compile(r"(?:\.\d+)+$")
_UNIQUE = re.compile(r"(__UNIQUE_ID_\w*?)\d+|(__BTF_ID__\w+?)__\d+$")
# Bytes of an entry of __jump_table and of .static_call_sites (struct jump_entry, struct static_call_site).
_ENTRY = {"__jump_table": 16, ".static_call_sites": 8}
_INITCALL = ".initcall"
_REGISTERED = {
    _INITCALL: "a function to call at boot, or when the module is loaded", "__param": "a module parameter",
    ".init.setup": "a boot parameter", ".BTF_ids": "a BTF id, such as that of a function for BPF",
}  # fmt: skip
_BUGS = "__bug_table"
# A bug entry ends in two bytes of the line and two of flags, which tell WARN_ON_ONCE from WARN_ON.
_FLAGS = 2


def owner(name: str) -> str:
    """Return the function of the source that a symbol of code is a piece or a clone of."""
    found = _CLONE.search(name)
    return name[: found.start()] if found else name


def is_numbered(name: str) -> bool:
    """Whether the compiler numbered a variable, as it does with the static ones inside functions."""
    return bool(_NUMBERED.search(name)) and not _CLONE.search(name)


def stable(name: str) -> str:
    """Return a name without the numbers that differ from compile to compile."""
    name = _UNIQUE.sub(lambda found: found[1] or found[2], name)
    return name if _CLONE.search(name) else _NUMBERED.sub("", name)


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """What a relocation is for: a name, or a string in quotes, and how many bytes beyond its beginning."""

    offset: int
    kind: int
    target: str
    addend: int

    @property
    def takes_address(self) -> bool:
        """Whether it is of the beginning of something, and no call or jump."""
        return self.kind != _PLT32 and not self.addend

    @property
    def calls(self) -> bool:
        """Whether it is a call or a jump."""
        return self.kind == _PLT32


@dataclass(frozen=True, slots=True)
class AskedKey:
    """A static key or static call that code asks at `offset`: which, and whether the unit defines it."""

    table: str
    offset: int
    name: str
    defined: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A function or a variable.

    Attributes:
        symbol: its name in the symbol table.
        section: where it lies.
        writable: whether it can be written to.
        tables: what other sections say of its code, comparable: static keys, WARN and BUG.
    """

    symbol: str
    section: str
    writable: bool
    content: bytes
    references: tuple[Reference, ...]
    keys: tuple[AskedKey, ...] = ()
    tables: tuple[tuple[int, str], ...] = ()

    def same_as(self, other: Part) -> bool:
        """Whether both would do the same, be they in one object or in two."""
        mine = (self.content, self.references, self.tables)
        return mine == (other.content, other.references, other.tables)


def _any_within(ordered: list[int], begins: int, ends: int) -> bool:
    at = bisect_left(ordered, begins)
    return at < len(ordered) and ordered[at] < ends


class Parts:
    """The parts of an object.

    Args:
        made: the object, best one with a section for each function and variable.
    """

    def __init__(self, made: ObjectFile) -> None:
        self._object = made

    @cached_property
    def functions(self) -> Mapping[str, Part]:
        """Its functions, by their symbols' names."""
        return {each.name: self._part(each, code=True) for each in self._object.functions}

    @cached_property
    def variables(self) -> Mapping[str, tuple[Part, ...]]:
        """Its variables by their names without numbers; several may be of one name."""
        found: dict[str, list[Part]] = defaultdict(list)
        for each in self._object.symbols:
            if each.kind == "OBJECT" and each.section is not None and each.name:
                found[stable(each.name)].append(self._part(each, code=False))
        return {name: tuple(parts) for name, parts in found.items()}

    @cached_property
    def exports(self) -> frozenset[str]:
        """The symbols that it exports; the second form is that of kernels before 6.4."""
        forms = ("__export_symbol_", "__ksymtab_")
        names = [each.name for each in self._object.symbols if each.section is not None]
        return frozenset(n.removeprefix(form) for n in names for form in forms if n.startswith(form))

    @cached_property
    def registered(self) -> Mapping[str, frozenset[str]]:
        """What the unit enters into tables of the kernel's, which the kernel reads once: by what it is."""
        found: dict[str, set[str]] = defaultdict(set)
        for section in self._object.sections:
            for begin, what in _REGISTERED.items():
                if section.name.startswith(begin) and section.allocated:
                    found[what].update(self._names_in(section))
        return {what: frozenset(names) for what, names in found.items()}

    def _names_in(self, section: Section) -> Iterator[str]:
        if section.name.startswith(_INITCALL):
            # Their own names have a counter and a line in them; what they call is plain.
            yield from (
                self._reference(e, 0, code=False).target for e in self._object.relocations(section.index)
            )
            return
        for each in self._object.symbols:
            if each.section == section.index and each.kind in ("OBJECT", "NOTYPE") and each.name:
                yield stable(each.name)

    def traced(self, name: str) -> bool:
        """Whether ftrace knows a call in a function of the object."""
        return name in self._traced

    @cached_property
    def _traced(self) -> frozenset[str]:
        places = {
            where
            for section in self._named("__mcount_loc")
            for each in self._object.relocations(section.index)
            if (where := self._place(each))
        }
        calls: dict[int, list[int]] = defaultdict(list)
        for section, offset in sorted(places):
            calls[section].append(offset)
        return frozenset(
            each.name
            for each in self._object.functions
            if _any_within(calls.get(each.section or 0, []), each.value, each.value + each.size)
        )

    def section_of(self, function: str) -> str | None:
        """Return the section that a function lies in; None where there is no such function."""
        return self._sections_of.get(function)

    @cached_property
    def _sections_of(self) -> Mapping[str, str]:
        return {each.name: self._section(each).name for each in self._object.functions}

    def _part(self, symbol: Symbol, *, code: bool) -> Part:
        section = self._section(symbol)
        begins, ends = symbol.value, symbol.value + symbol.size
        references = tuple(
            self._reference(each, begins, code=code)
            for each in self._relocations_of(section.index, begins, ends)
        )
        entries = self._entries.get(section.index, ()) if code else ()
        said = [each for each in entries if begins <= each[0] < ends]
        content = self._content(section.index)[begins:ends]
        if code:
            content, jumps = self._resolved(section.index, begins, content)
            references = tuple(sorted((*references, *jumps)))
        return Part(
            symbol.name, section.name, section.writable, content, references,
            tuple(AskedKey(k.table, k.offset - begins, k.name, k.defined) for _, k, _ in said if k),
            tuple(sorted((offset - begins, words) for offset, _, words in said)),
        )  # fmt: skip

    def _resolved(self, section: int, begins: int, content: bytes) -> tuple[bytes, list[Reference]]:
        """Take out calls and jumps within the section, which the assembler resolved itself."""
        starts = self._starts.get(section, {})
        if len(starts) < 2:
            return content, []
        masked, found = bytearray(content), []
        for each in _NEAR.finditer(content):
            at = each.end()
            distance = int.from_bytes(content[at : at + 4], "little", signed=True)
            target = starts.get(begins + at + 4 + distance)
            if len(content) - at >= 4 and target and target.value != begins:
                masked[at : at + 4] = bytes(4)
                found.append(Reference(at, _PLT32, stable(target.name), 0))
        return bytes(masked), found

    @cached_property
    def _starts(self) -> Mapping[int, Mapping[int, Symbol]]:
        found: dict[int, dict[int, Symbol]] = defaultdict(dict)
        for each in self._object.functions:
            if each.section is not None:
                found[each.section][each.value] = each
        return found

    def _content(self, section: int) -> bytes:
        if section not in self._contents:
            self._contents[section] = self._object.content(section)
        return self._contents[section]

    @cached_property
    def _contents(self) -> dict[int, bytes]:
        return {}

    def _section(self, symbol: Symbol) -> Section:
        assert symbol.section is not None
        return self._object.sections[symbol.section]

    def _relocations_of(self, section: int, begins: int, ends: int) -> tuple[Relocation, ...]:
        ordered = self._ordered.get(section)
        if ordered is None:
            found = sorted(self._object.relocations(section), key=lambda each: each.offset)
            ordered = self._ordered[section] = ([each.offset for each in found], found)
        offsets, relocations = ordered
        first, last = bisect_left(offsets, begins), bisect_left(offsets, ends)
        return tuple(relocations[first:last])

    @cached_property
    def _ordered(self) -> dict[int, tuple[list[int], list[Relocation]]]:
        return {}

    def _reference(self, each: Relocation, begins: int, *, code: bool) -> Reference:
        symbol = self._object.symbols[each.symbol]
        beyond = each.addend + (4 if code and each.kind in (_PC32, _PLT32) else 0)
        target, offset = stable(symbol.name), beyond
        if symbol.section is not None:
            section = self._section(symbol)
            if section.flags & _STRINGS == _STRINGS:
                target, offset = self._string(section.index, symbol.value + beyond), 0
            elif symbol.kind == "SECTION":
                target, offset = self._at(section, symbol.value + beyond)
        return Reference(each.offset - begins, each.kind, target, offset)

    def _at(self, section: Section, at: int) -> tuple[str, int]:
        """Return which symbol holds a byte of a section, and how far in; without one the section itself."""
        for each in self._holders.get(section.index, ()):
            if each.value <= at < each.value + max(each.size, 1):
                return stable(each.name), at - each.value
        # Constants and entries of tables without a name move when others come; their places say nothing.
        return stable(section.name), 0

    @cached_property
    def _holders(self) -> Mapping[int, list[Symbol]]:
        found: dict[int, list[Symbol]] = defaultdict(list)
        for each in self._object.symbols:
            if each.section is not None and each.kind in ("FUNC", "OBJECT"):
                found[each.section].append(each)
        return found

    def _string(self, section: int, at: int) -> str:
        content = self._content(section)
        end = content.find(b"\0", at)
        return repr(content[at : end if end >= 0 else len(content)])[1:]

    def _named(self, *names: str) -> Iterator[Section]:
        return (each for each in self._object.sections if each.name in names)

    def _place(self, each: Relocation) -> tuple[int, int] | None:
        """Return section and offset that a table's entry is for; None where the symbol is not of here."""
        symbol = self._object.symbols[each.symbol]
        return None if symbol.section is None else (symbol.section, symbol.value + each.addend)

    @cached_property
    def _entries(self) -> Mapping[int, list[tuple[int, AskedKey | None, str]]]:
        """For each section of code: where tables have an entry for it, a key, and all in words."""
        found: dict[int, list[tuple[int, AskedKey | None, str]]] = defaultdict(list)
        for section in self._named(*_ENTRY, _BUGS):
            for begins, relocations in self._grouped(section):
                where = self._place(relocations[0])
                if where is None:
                    continue
                key = None if section.name == _BUGS else self._key(section.name, where[1], relocations[-1])
                words = key.name if key else self._bug(section, begins, relocations)
                found[where[0]].append((where[1], key, f"{section.name} {words}"))
        return found

    def _grouped(self, section: Section) -> Iterator[tuple[int, list[Relocation]]]:
        relocations = sorted(self._object.relocations(section.index), key=lambda each: each.offset)
        size = _ENTRY.get(section.name) or self._bug_size(section, relocations)
        groups: dict[int, list[Relocation]] = defaultdict(list)
        for each in relocations:
            groups[each.offset // size * size].append(each)
        yield from groups.items()

    def _bug_size(self, section: Section, relocations: list[Relocation]) -> int:
        """Return the bytes of a bug entry, which kernels differ in: each begins with where the code is."""
        places = [where for each in relocations if (where := self._place(each))]
        executable = SH_FLAGS.SHF_EXECINSTR
        count = sum(bool(self._object.sections[index].flags & executable) for index, _ in places)
        return max(section.size // max(count, 1), 1)

    def _key(self, table: str, offset: int, last: Relocation) -> AskedKey:
        symbol = self._object.symbols[last.symbol]
        if symbol.section is None:
            return AskedKey(table, offset, symbol.name, defined=False)
        # The lowest bits of the addend say which way the branch is likely.
        if symbol.kind != "SECTION":
            return AskedKey(table, offset, stable(symbol.name), defined=True)
        return AskedKey(table, offset, self._at(self._section(symbol), last.addend & ~3)[0], defined=True)

    def _bug(self, section: Section, begins: int, relocations: list[Relocation]) -> str:
        size = self._bug_size(section, list(self._object.relocations(section.index)))
        flags = self._content(section.index)[begins + size - _FLAGS : begins + size]
        strings = [self._reference(each, begins, code=False).target for each in relocations[1:]]
        return " ".join([flags.hex(), *strings])
