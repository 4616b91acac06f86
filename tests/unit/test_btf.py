# SPDX-License-Identifier: Apache-2.0
"""Members' offsets out of BTF, made here of four types: an int, an array of it, two structures."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from klp.errors import HostLacks
from klp.images.btf import Btf, Layout, Member, btf_of

_STRINGS = b"\0int\0outer\0count\0lists\0inner\0bases\0"


def _at(word: str) -> int:
    return _STRINGS.index(b"\0" + word.encode() + b"\0") + 1


def _type(name: int, kind: int, length: int, size: int) -> bytes:
    return struct.pack("<III", name, kind << 24 | length, size)


def made() -> bytes:
    """Return struct outer { int count; struct { int inner; }; int lists[9]; } and bases."""
    types = b"".join(
        [
            _type(_at("int"), 1, 0, 4), struct.pack("<I", 32),
            _type(0, 3, 0, 0), struct.pack("<III", 1, 1, 9),
            _type(0, 4, 1, 4), struct.pack("<III", _at("inner"), 1, 0),
            _type(_at("outer"), 4, 3, 44),
            struct.pack("<III", _at("count"), 1, 0),
            struct.pack("<III", 0, 3, 4 * 8),
            struct.pack("<III", _at("lists"), 2, 8 * 8),
            _type(_at("bases"), 14, 0, 2), struct.pack("<I", 0),
        ]
    )  # fmt: skip
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(_STRINGS))
    return head + types + _STRINGS


def test_a_member_is_found_also_in_a_nameless_part() -> None:
    btf = Btf(made())
    assert btf.size("outer") == 44
    assert [btf.offset("outer", each) for each in ("count", "inner", "lists")] == [0, 4, 8]


def test_layouts_have_the_members_of_nameless_parts_with_their_types_in_words() -> None:
    members = (
        Member("count", 0, 0, "int"),
        Member("inner", 32, 0, "int"),
        Member("lists", 64, 0, "int[9]"),
    )
    assert Btf(made()).layouts() == {"struct outer": frozenset({Layout(44, members)})}


def test_types_in_words_and_enumerations() -> None:
    """struct node { const char *name; struct node *next; unsigned int low : 3; enum e kind; }"""
    strings = b"\0char\0node\0name\0next\0low\0e\0A\0kind\0"

    def at(word: bytes) -> int:
        return strings.index(b"\0" + word + b"\0") + 1

    types = b"".join(
        [
            _type(at(b"char"), 1, 0, 1), struct.pack("<I", 8),
            _type(0, 10, 0, 1), _type(0, 2, 0, 2), _type(0, 2, 0, 5),
            struct.pack("<III", at(b"node"), 1 << 31 | 4 << 24 | 4, 24),
            struct.pack("<III", at(b"name"), 3, 0), struct.pack("<III", at(b"next"), 4, 64),
            struct.pack("<III", at(b"low"), 1, 3 << 24 | 128), struct.pack("<III", at(b"kind"), 6, 160),
            _type(at(b"e"), 6, 1, 4), struct.pack("<Ii", at(b"A"), -1),
        ]
    )  # fmt: skip
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    found = Btf(head + types + strings).layouts()
    [node], [enum] = found["struct node"], found["enum e"]
    assert node.members == (
        Member("name", 0, 0, "char *"), Member("next", 64, 0, "struct node *"),
        Member("low", 128, 3, "char"), Member("kind", 160, 0, "enum e"),
    )  # fmt: skip
    assert enum.members == (Member("A", -1, 0, ""),)


def test_arrays_have_their_length() -> None:
    btf = Btf(made())
    assert btf.length("outer", "lists") == 9
    assert btf.variable_length("bases") == 9


def test_what_the_kernel_lacks_is_said() -> None:
    btf = Btf(made())
    with pytest.raises(HostLacks, match=r"no struct absent"):
        btf.size("absent")
    with pytest.raises(HostLacks, match=r"no outer\.absent"):
        btf.offset("outer", "absent")
    with pytest.raises(HostLacks, match=r"outer\.count is no array"):
        btf.length("outer", "count")
    with pytest.raises(HostLacks, match="no variable absent"):
        btf.variable_length("absent")
    with pytest.raises(HostLacks, match="no BTF"):
        Btf(b"x" * 32)


def test_a_file_that_is_no_kernel_is_told(tmp_path: Path) -> None:
    other = tmp_path / "kernel"
    other.write_bytes(b"no ELF at all, whatever its length is")
    with pytest.raises(HostLacks, match="no ELF kernel"):
        btf_of(other)
