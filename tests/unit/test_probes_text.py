# SPDX-License-Identifier: Apache-2.0
"""Finding calls in hand-made kernel text, and reading text from a hand-made /proc/kcore."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "probes"))

import klptext
from klpsymbols import ProbeError, Symbols
from klptext import Call

BASE = 0xFFFFFFFF81184000
NOP = b"\x90"


def relative_call(site: int, target: int) -> bytes:
    return b"\xe8" + struct.pack("<i", target - site - 5)


@pytest.mark.parametrize(
    ("code", "register"),
    [
        (b"\xff\xd0", "rax"),
        (b"\xff\xd3", "rbx"),
        (b"\x41\xff\xd0", "r8"),
        (b"\x41\xff\xd7", "r15"),
        (b"\x2e\x2e\x2e\xff\xd0", "rax"),  # 7.2 with mitigations=off
        (b"\x2e\x2e\x41\xff\xd1", "r9"),
    ],
)
def test_finds_a_call_through_a_register(code, register):
    found = list(klptext.indirect_calls(NOP + code + NOP, BASE, {}))
    assert found[0] == Call(BASE + 1, BASE + 1 + len(code), register)
    assert {call.after for call in found} == {BASE + 1 + len(code)}


def test_finds_a_call_of_a_retpoline():
    thunk = BASE + 0x100000
    code = NOP * 3 + relative_call(BASE + 3, thunk) + NOP
    assert list(klptext.indirect_calls(code, BASE, {thunk: "r11"})) == [Call(BASE + 3, BASE + 8, "r11")]
    assert not list(klptext.indirect_calls(code, BASE, {thunk + 1: "r11"}))


def test_finds_a_call_backwards_and_of_a_named_function():
    target = BASE - 0x1000
    code = relative_call(BASE, target)
    assert list(klptext.direct_calls(code, BASE, {target: "post_unpatch"})) == [
        Call(BASE, BASE + 5, "post_unpatch")
    ]


@pytest.mark.parametrize("code", [b"\xff\xe0", b"\xff\x10", b"\xff", b"\xe8\x00\x00", b""])
def test_a_jump_a_memory_operand_and_a_cut_end_are_no_calls(code):
    assert not list(klptext.indirect_calls(code, BASE, {}))


def test_every_overlapping_match_is_kept_for_the_kernel_to_refuse():
    code = b"\xe8" + b"\xff\xd0\xff\xd1" + NOP
    assert [call.target for call in klptext.indirect_calls(code, BASE, {})] == ["rax", "rcx"]


def kcore(tmp_path, segments):
    """Write an ELF64 core file with the given address and bytes of each PT_LOAD."""
    table, at, body = b"", 64 + 56 * (len(segments) + 1), b""
    table += struct.pack("<IIQQQQQQ", 4, 0, 0, 0, 0, 0, 0, 0)  # PT_NOTE, as the real one begins
    for address, content in segments:
        size = len(content)
        table += struct.pack("<IIQQQQQQ", 1, 7, at + len(body), address, 0, size, size, 4096)
        body += content
    header = bytearray(64)
    header[:4] = b"\x7fELF"
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, len(segments) + 1)
    path = tmp_path / "kcore"
    path.write_bytes(bytes(header) + table + body)
    return path


def test_reads_text_from_the_segment_that_holds_it(tmp_path):
    path = kcore(tmp_path, [(0x1000, b"low memory"), (BASE, b"kernel text")])
    assert klptext.read_text(BASE + 7, BASE + 11, path) == b"text"
    with pytest.raises(ProbeError, match="does not hold"):
        klptext.read_text(BASE + 7, BASE + 12, path)


def test_a_kcore_that_cannot_be_read_is_an_error_of_ours(tmp_path):
    with pytest.raises(ProbeError, match="cannot read kernel text"):
        klptext.read_text(BASE, BASE + 1, tmp_path / "absent")


def test_the_livepatch_core_is_its_functions_and_what_lies_between_them():
    listing = f"""\
{BASE:x} t klp_resolve_symbols
{BASE + 0x100:x} t enabled_store
{BASE + 0x200:x} t klp_kobj_release_patch
{BASE + 0x300:x} T something_else
{BASE + 0x9000:x} t klp_enable_patch.cold
{BASE + 0x9100:x} t other.cold
"""
    symbols = Symbols(lambda: listing)
    assert klptext.livepatch_text(symbols) == [
        (BASE, BASE + 0x300),
        (BASE + 0x9000, BASE + 0x9100),
    ]


def test_thunks_are_told_by_name():
    listing = f"""\
{BASE:x} T __x86_indirect_thunk_array
{BASE:x} T __x86_indirect_thunk_rax
{BASE + 32:x} T __x86_indirect_thunk_rcx
"""
    assert klptext.thunks(Symbols(lambda: listing)) == {BASE: "rax", BASE + 32: "rcx"}
