# SPDX-License-Identifier: Apache-2.0
"""Members' offsets out of BTF, made here of four types: an int, an array of it, two structures."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from klp.errors import HostLacks
from klp.images.btf import Btf, btf_of

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
