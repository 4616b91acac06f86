# SPDX-License-Identifier: Apache-2.0
"""Prototypes of the kernel's functions as C writes them, from BTF."""

from __future__ import annotations

import re
from dataclasses import dataclass

from klp.images.btf import Btf, TypeRecord

# Kinds of BTF (include/uapi/linux/btf.h).
_INT, _POINTER, _ARRAY, _STRUCT, _UNION, _ENUM, _FORWARD, _TYPEDEF = 1, 2, 3, 4, 5, 6, 7, 8
_VOLATILE, _CONST, _RESTRICT, _PROTOTYPE, _TYPE_TAG, _ENUM64 = 9, 10, 11, 13, 18, 19
# A type tag, such as that of __user, says nothing to the compiler.
_QUALIFIERS = {_VOLATILE: "volatile ", _CONST: "const ", _RESTRICT: "restrict ", _TYPE_TAG: ""}
_TAGS = {_STRUCT: "struct", _UNION: "union", _ENUM: "enum", _ENUM64: "enum"}
# The compiler's names of these types, and what the kernel's source calls them.
_SPELLED = {
    "_Bool": "bool",
    "short int": "short",
    "short unsigned int": "unsigned short",
    "long int": "long",
    "long unsigned int": "unsigned long",
    "long long int": "long long",
    "long long unsigned int": "unsigned long long",
}


@dataclass(frozen=True, slots=True)
class NamedType:
    """A type that a prototype names: ``struct seq_file``, or the name of a typedef.

    Attributes:
        whole: whether its definition is needed, for it is more than pointed to.
    """

    name: str
    whole: bool


@dataclass(frozen=True, slots=True)
class Prototype:
    """A function's prototype.

    Attributes:
        declarator: the C declaration of a function of that kind, with ``{}`` for its name.
        arguments: its parameters' names.
        returns: whether it returns anything.
        variadic: whether it takes any number of arguments.
        types: that it names; None where it has one that cannot be named.
    """

    declarator: str
    arguments: tuple[str, ...]
    returns: bool
    variadic: bool
    types: tuple[NamedType, ...] | None

    def declared(self, name: str) -> str:
        """Return the declaration of a function called `name`, as the kernel's style has it."""
        return self.declarator.format(name)


def prototype_of(btf: Btf, function: str) -> Prototype | None:
    """Return the prototype of a function; None where BTF has none of it.

    It has none of a function that the compiler changed, or that has different ones by one name.
    """
    found = btf.prototype(function)
    if found is None:
        return None
    parameters = btf.parameters(found)
    names = tuple(name or f"arg{number}" for number, (name, _) in enumerate(parameters, 1))
    writer = _Writer(btf)
    declarator = writer.function(found, "{}", names)
    types: dict[str, bool] = {}
    for each in writer.types:
        types[each.name] = types.get(each.name, False) or each.whole
    variadic = bool(parameters) and parameters[-1] == ("", 0)
    return Prototype(
        re.sub(r"(?<=\*) (?=\w|\{)", "", declarator),
        names[:-1] if variadic else names,
        returns=btf.record(found.size) is not None,
        variadic=variadic,
        types=None if writer.nameless else tuple(NamedType(name, whole) for name, whole in types.items()),
    )


class _Writer:
    """Writes declarations, and notes the types that they name."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self.types: list[NamedType] = []
        self.nameless = False

    def function(self, prototype: TypeRecord, inner: str, names: tuple[str, ...] = ()) -> str:
        """Return the declaration of a function, `inner` being its name and what stands around that."""
        given = self._btf.parameters(prototype)
        shown = [
            "..." if (name, kind) == ("", 0) else self.declared(kind, names[number] if names else name)
            for number, (name, kind) in enumerate(given)
        ]
        return self.declared(prototype.size, f"{inner}({', '.join(shown) or 'void'})")

    def declared(self, number: int, inner: str, *, pointed: bool = False) -> str:
        """Return the declaration of something of a type, `inner` being its name and what is around it.

        Args:
            pointed: whether a pointer is all that there is to it.
        """
        record = self._btf.record(number)
        if record is None:
            return f"void {inner}".rstrip()
        target = record.size
        match record.kind:
            case kind if kind == _POINTER:
                to = self._behind(target)
                wrapped = to is not None and to.kind in (_ARRAY, _PROTOTYPE)
                return self.declared(target, f"(*{inner})" if wrapped else f"*{inner}", pointed=True)
            case kind if kind == _ARRAY:
                element, length = self._btf.array(record)
                return self.declared(element, f"{inner}[{length}]", pointed=pointed)
            case kind if kind == _PROTOTYPE:
                return self.function(record, inner)
            case kind if kind in _QUALIFIERS:
                return self._qualified(record, inner, pointed=pointed)
        return f"{self._named(record, pointed=pointed)} {inner}".rstrip()

    def _qualified(self, record: TypeRecord, inner: str, *, pointed: bool) -> str:
        """Put a qualifier of a pointer behind its star, any other in front."""
        word = _QUALIFIERS[record.kind]
        to = self._behind(record.size)
        if to is not None and to.kind == _POINTER:
            return self.declared(record.size, f" {word}{inner}" if word else inner, pointed=pointed)
        return f"{word}{self.declared(record.size, inner, pointed=pointed)}"

    def _behind(self, number: int) -> TypeRecord | None:
        """Return a type without its qualifiers and tags."""
        record = self._btf.record(number)
        while record is not None and record.kind in _QUALIFIERS:
            record = self._btf.record(record.size)
        return record

    def _named(self, record: TypeRecord, *, pointed: bool) -> str:
        name = self._btf.name_of(record)
        if record.kind == _FORWARD:
            name = f"{'union' if record.info >> 31 else 'struct'} {name}"
        elif record.kind in _TAGS:
            self.nameless = self.nameless or not name
            name = f"{_TAGS[record.kind]} {name}"
        elif record.kind != _TYPEDEF:
            return _SPELLED.get(name, name)
        self.types.append(NamedType(name, record.kind == _TYPEDEF or not pointed))
        return name
