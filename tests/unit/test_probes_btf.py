# SPDX-License-Identifier: Apache-2.0
"""Member offsets from a hand-made BTF blob."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "probes"))

import klpbtf
from klpsymbols import ProbeError

STRINGS = b"\0int\0task_struct\0pid\0comm\0flag\0"


def type_(name: str, kind: int, count: int, size: int, tail: bytes = b"", flag: int = 0) -> bytes:
    at = STRINGS.index(b"\0" + name.encode() + b"\0") + 1 if name else 0
    return struct.pack("<III", at, flag << 31 | kind << 24 | count, size) + tail


def member(name: str, bits: int, number: int = 1) -> bytes:
    at = STRINGS.index(b"\0" + name.encode() + b"\0") + 1 if name else 0
    return struct.pack("<III", at, number, bits)


def blob(types: bytes) -> bytes:
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(STRINGS))
    return head + types + STRINGS


TYPES = (
    type_("int", 1, 0, 4, bytes(4))
    + type_("", 13, 2, 0, bytes(16))  # a function's prototype
    + type_("", 3, 0, 0, bytes(12))  # an array
    + type_("task_struct", 7, 0, 0)  # a forward declaration
    + type_("task_struct", 4, 0, 0)  # an empty one
    + type_(
        "task_struct", 4, 3, 64, member("pid", 64) + member("comm", 256) + member("flag", 3 << 24 | 385), 1
    )
)


def test_finds_members_past_types_of_other_kinds(tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(blob(TYPES))
    assert klpbtf.offsets({"task_struct": ("pid", "comm", "flag")}, path) == [
        "-DTASK_STRUCT_PID=8",
        "-DTASK_STRUCT_COMM=32",
        "-DTASK_STRUCT_FLAG=48",
    ]


@pytest.mark.parametrize("wanted", [{"task_struct": ("tgid",)}, {"klp_patch": ("mod",)}])
def test_names_what_a_kernel_lacks(tmp_path, wanted):
    path = tmp_path / "vmlinux"
    path.write_bytes(blob(TYPES))
    with pytest.raises(ProbeError, match=r"no (task_struct\.tgid|klp_patch\.mod)"):
        klpbtf.offsets(wanted, path)


def test_a_structure_that_a_kernel_lacks_is_not_taken_for_one_without_a_name(tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(blob(type_("", 4, 1, 8, member("pid", 0)) + TYPES))
    assert klpbtf.sizes(("task_struct",), path) == ["-DSIZEOF_TASK_STRUCT=64"]
    with pytest.raises(ProbeError, match="no structure klp_state"):
        klpbtf.sizes(("klp_state",), path)
    with pytest.raises(ProbeError, match=r"no klp_patch\.pid"):
        klpbtf.offsets({"klp_patch": ("pid",)}, path)


def test_a_kernel_without_btf_is_an_error_of_ours(tmp_path):
    with pytest.raises(ProbeError, match="CONFIG_DEBUG_INFO_BTF"):
        klpbtf.offsets({}, tmp_path / "absent")
    with pytest.raises(ProbeError, match="not little-endian"):
        klpbtf.Btf.parse(bytes(24))


def test_finds_members_of_structures_without_a_name_inside_of_others(tmp_path):
    """As CONFIG_RANDSTRUCT has them, which puts most members of task_struct into such a one."""
    path = tmp_path / "vmlinux"
    types = (
        type_("int", 1, 0, 4, bytes(4))
        + type_("", 5, 2, 8, member("comm", 0) + member("", 32, number=1))  # a union, and an int in it
        + type_("", 4, 2, 64, member("flag", 128) + member("", 256, number=2))
        + type_("task_struct", 4, 2, 128, member("pid", 64) + member("", 512, number=3))
    )
    path.write_bytes(blob(types))
    assert klpbtf.offsets({"task_struct": ("pid", "flag", "comm")}, path) == [
        "-DTASK_STRUCT_PID=8",
        "-DTASK_STRUCT_FLAG=80",
        "-DTASK_STRUCT_COMM=96",
    ]
    with pytest.raises(ProbeError, match=r"no task_struct\.tgid"):
        klpbtf.offsets({"task_struct": ("tgid",)}, path)
