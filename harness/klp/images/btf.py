# SPDX-License-Identifier: Apache-2.0
"""Where a kernel's structures have their members: read from the BTF in its ELF file.

Of BTF (Documentation/bpf/btf.rst) only as much is known here as it takes to find a member's offset, the
size of a structure, and the length of an array, and to compare layouts.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from klp.errors import HostLacks

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_ARRAY = struct.Struct("<III")
_POINTER, _ARRAY_KIND, _STRUCT, _UNION, _ENUM = 2, 3, 4, 5, 6
_FORWARD, _VARIABLE, _ENUM64 = 7, 14, 19
_FUNCTION, _PROTOTYPE = 12, 13
_PARAMETER = struct.Struct("<II")
# Volatile, const, restrict, and a type tag.
_QUALIFIERS = (9, 10, 11, 18)
_ENTRY = {_ENUM: struct.Struct("<Ii"), _ENUM64: struct.Struct("<IIi")}
_TAGS = {_STRUCT: "struct", _UNION: "union", _ENUM: "enum", _ENUM64: "enum"}
# Bytes that follow a type of a kind: once, and for each of its `vlen` entries (struct btf_type and what
# comes behind it, include/uapi/linux/btf.h).
_ONCE = {1: 4, 3: 12, 14: 4, 17: 4}
_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
_KIND_SHIFT, _KIND_MASK, _VLEN_MASK = 24, 0x1F, 0xFFFF
_OFFSET_MASK = 0xFFFFFF


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a structure or union; of an enumeration a name and its value.

    Attributes:
        bits: the offset in bits; of an enumeration the value.
        width: bits of a bit-field, else 0.
        kind: its type, as in C where that is short: ``struct list_head``, ``char[16]``, ``void *``.
    """

    name: str
    bits: int
    width: int
    kind: str


@dataclass(frozen=True, slots=True)
class Layout:
    """How a type is laid out: its bytes, and its members with those of nameless parts."""

    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class TypeRecord:
    """A type as it stands in BTF (struct btf_type).

    Attributes:
        kind: one of BTF's kinds.
        name: where its name is among the strings.
        info: kind, how many entries follow, and a flag.
        size: in bytes, or the type that it is of.
        at: where its entries are.
    """

    kind: int
    name: int
    info: int
    size: int
    at: int


class Btf:
    """The types of one kernel.

    Args:
        data: the section ``.BTF``, or /sys/kernel/btf/vmlinux.
        base: of a module's types, those of vmlinux, which they go on from.

    Raises:
        HostLacks: it is no BTF.
    """

    def __init__(self, data: bytes, base: Btf | None = None) -> None:
        magic, _, _, header, type_at, type_length, string_at, string_length = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise HostLacks(f"no BTF, but {magic:#06x}")
        before = base._data if base else b""
        self._data: bytes = before + data
        strings = data[header + string_at : header + string_at + string_length]
        self._strings: bytes = (base._strings if base else b"") + strings
        self._records: list[TypeRecord | None] = [
            *(base._records if base else [None]),
            *self._read(len(before) + header + type_at, type_length),
        ]
        self._structs: dict[str, TypeRecord] = {}
        self._variables: dict[str, TypeRecord] = {}
        for each in self._records:
            if each and each.name and each.kind in (_STRUCT, _UNION):
                self._structs.setdefault(self._name(each.name), each)
            elif each and each.kind == _VARIABLE:
                self._variables[self._name(each.name)] = each

    def _read(self, begin: int, length: int) -> Iterator[TypeRecord]:
        at, end = begin, begin + length
        while at < end:
            name, info, size = _TYPE.unpack_from(self._data, at)
            at += _TYPE.size
            kind = info >> _KIND_SHIFT & _KIND_MASK
            yield TypeRecord(kind, name, info, size, at)
            at += _ONCE.get(kind, 0) + _EACH.get(kind, 0) * (info & _VLEN_MASK)

    def _name(self, at: int) -> str:
        return self._strings[at : self._strings.index(b"\0", at)].decode()

    def record(self, number: int) -> TypeRecord | None:
        """Return a type by its number; None for void."""
        return self._records[number]

    def name_of(self, record: TypeRecord) -> str:
        """Return a type's name; empty where it has none."""
        return self._name(record.name)

    def prototype(self, function: str) -> TypeRecord | None:
        """Return the prototype of a function; None where BTF has none."""
        for each in self._records:
            if each and each.kind == _FUNCTION and self._name(each.name) == function:
                return self._records[each.size]
        return None

    def parameters(self, prototype: TypeRecord) -> tuple[tuple[str, int], ...]:
        """Return the names and the types of a prototype's parameters."""
        count = prototype.info & _VLEN_MASK
        found = (
            _PARAMETER.unpack_from(self._data, prototype.at + _PARAMETER.size * n) for n in range(count)
        )
        return tuple((self._name(name), kind) for name, kind in found)

    def array(self, record: TypeRecord) -> tuple[int, int]:
        """Return the type of an array's elements, and how many there are."""
        element, _, length = _ARRAY.unpack_from(self._data, record.at)
        return element, length

    def size(self, name: str) -> int:
        """Return the size of a structure in bytes.

        Raises:
            HostLacks: this kernel has no such structure.
        """
        return self._struct(name).size

    def offset(self, name: str, member: str) -> int:
        """Return where in a structure a member begins, in bytes; members of its nameless parts included.

        Raises:
            HostLacks: this kernel has none.
        """
        return self._member(self._struct(name), f"{name}.{member}", member)[0]

    def length(self, name: str, member: str) -> int:
        """Return how many elements the array has that is a structure's member.

        Raises:
            HostLacks: this kernel has none.
        """
        kind = self._member(self._struct(name), f"{name}.{member}", member)[1]
        return self._elements(kind, f"{name}.{member}")

    def variable_length(self, name: str) -> int:
        """Return how many elements a per-CPU variable has that is an array; BTF has no other variables.

        Raises:
            HostLacks: this kernel has none of that name.
        """
        if name not in self._variables:
            raise HostLacks(f"no variable {name} in this kernel's BTF")
        return self._elements(self._variables[name].size, name)

    def layouts(self) -> dict[str, frozenset[Layout]]:
        """Return how all types with a name are laid out, by words such as ``struct list_head``.

        A name may stand for several types, each in a scope of its own.
        """
        found: dict[str, set[Layout]] = defaultdict(set)
        for each in self._records:
            if each and each.name and each.kind in _TAGS:
                members = self._values(each) if each.kind in _ENTRY else self._members(each, 0)
                layout = Layout(each.size, tuple(members))
                found[f"{_TAGS[each.kind]} {self._name(each.name)}"].add(layout)
        return {name: frozenset(each) for name, each in found.items()}

    def _values(self, record: TypeRecord) -> Iterator[Member]:
        entry = _ENTRY[record.kind]
        for number in range(record.info & _VLEN_MASK):
            name, low, *high = entry.unpack_from(self._data, record.at + number * entry.size)
            yield Member(self._name(name), (high[0] << 32 | low) if high else low, 0, "")

    def _members(self, record: TypeRecord, begins: int) -> Iterator[Member]:
        for number in range(record.info & _VLEN_MASK):
            name, kind, bits = _MEMBER.unpack_from(self._data, record.at + number * _MEMBER.size)
            # With the flag the upper byte is the width of a bit-field.
            flagged = record.info >> 31
            offset = begins + (bits & _OFFSET_MASK if flagged else bits)
            inner = self._records[kind]
            if not name and inner and inner.kind in (_STRUCT, _UNION):
                yield from self._members(inner, offset)
            else:
                yield Member(self._name(name), offset, bits >> 24 if flagged else 0, self._words(kind))

    def _words(self, kind: int) -> str:
        """Return a type in words; of what a pointer is to, no more than the name."""
        record = self._records[kind]
        if record is None:
            return "void"
        name = self._name(record.name)
        if record.kind == _POINTER:
            return f"{self._target(record)} *"
        if record.kind == _ARRAY_KIND:
            element, _, length = _ARRAY.unpack_from(self._data, record.at)
            return f"{self._words(element)}[{length}]"
        if record.kind == _FORWARD:
            return f"{'union' if record.info >> 31 else 'struct'} {name}"
        if tag := _TAGS.get(record.kind):
            return f"{tag} {name or self._nameless(record)}"
        # const, volatile, restrict and type tags have no name, or one that lays nothing out.
        return self._words(record.size) if record.kind in _QUALIFIERS else name

    def _target(self, pointer: TypeRecord) -> str:
        target = self._records[pointer.size]
        if target and target.kind == _PROTOTYPE:
            return "function"
        # A nameless structure may point to itself.
        if target and target.kind in _TAGS and not target.name:
            return _TAGS[target.kind]
        return self._words(pointer.size)

    def _nameless(self, record: TypeRecord) -> str:
        members = self._values(record) if record.kind in _ENTRY else self._members(record, 0)
        return "{" + ", ".join(f"{each.kind} {each.name}".strip() for each in members) + "}"

    def _elements(self, kind: int, shown_as: str) -> int:
        record = self._records[kind]
        if record is None or record.kind != _ARRAY_KIND:
            raise HostLacks(f"{shown_as} is no array in this kernel's BTF")
        return int(_ARRAY.unpack_from(self._data, record.at)[2])

    def _struct(self, name: str) -> TypeRecord:
        if name not in self._structs:
            raise HostLacks(f"no struct {name} in this kernel's BTF")
        return self._structs[name]

    def _member(self, record: TypeRecord, shown_as: str, wanted: str) -> tuple[int, int]:
        found = self._find(record, wanted)
        if found is None:
            raise HostLacks(f"no {shown_as} in this kernel's BTF")
        return found

    def _find(self, record: TypeRecord, wanted: str) -> tuple[int, int] | None:
        for number in range(record.info & _VLEN_MASK):
            name, kind, bits = _MEMBER.unpack_from(self._data, record.at + number * _MEMBER.size)
            begins = (bits & _OFFSET_MASK) // 8
            if name and self._name(name) == wanted:
                return begins, kind
            inner = self._records[kind]
            if not name and inner and (found := self._find(inner, wanted)):
                return begins + found[0], found[1]
        return None


@cache
def btf_of(kernel: Path) -> Btf:
    """Return the types of an ELF kernel, read once.

    Raises:
        HostLacks: it has none (CONFIG_DEBUG_INFO_BTF), or is no ELF file.
    """
    try:
        with kernel.open("rb") as stream:
            section = ELFFile(stream).get_section_by_name(".BTF")
            if section is None:
                raise HostLacks(f"{kernel}: has no BTF", hint="build it with CONFIG_DEBUG_INFO_BTF")
            return Btf(section.data())
    except (ELFError, IsADirectoryError) as error:
        raise HostLacks(f"{kernel}: no ELF kernel ({error})") from error
