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


# --- text in which kprobes stand ---------------------------------------------------------------------

THUNK = BASE + 0x100000
HIDDEN = {
    "a call of a retpoline": relative_call(BASE + 8, THUNK),
    "a call through rax": b"\xff\xd0" + NOP * 3,
    "a call through r9": b"\x41\xff\xd1" + NOP * 2,
    "a filled call through rcx": b"\x2e\x2e\x2e\xff\xd1",
    "a filled call through r8": b"\x2e\x2e\x41\xff\xd0",
    # Of this one the distance has a breakpoint's byte.
    "a call with 0xcc in it": relative_call(BASE + 8, BASE + 13 + 0xCC0011),
}


def search(code, base):
    thunk_at = {THUNK: "r11", BASE + 13 + 0xCC0011: "r12"}
    return klptext.indirect_calls(code, base, thunk_at)


KPROBES, LAYOUT = BASE + 0x200000, {"kprobe": {"hlist": 0, "addr": 40, "opcode": 80}}
HEAP = 0xFFFF888000000000


def heap_of(probed):
    """Return kernel memory with the kprobes at some addresses, chained from the kernel's table."""
    nodes = b""
    for number, (address, opcode) in enumerate(probed):
        following = HEAP + 88 * (number + 1) if number + 1 < len(probed) else 0
        nodes += struct.pack("<Q32xQ32xB7x", following, address, opcode)
    table = struct.pack("<24xQ", HEAP if probed else 0).ljust(64 * 8, b"\0")
    return [(KPROBES, table), (HEAP, nodes or bytes(88))]


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Make a kernel of some text, in which kprobes stand at some addresses; return its symbols."""

    def make(text, probed):
        covered = bytearray(text)
        for address, opcode in probed:
            assert covered[address - BASE] == opcode
            covered[address - BASE] = 0xCC
        core = kcore(tmp_path, [(BASE, bytes(covered)), *heap_of(probed)])
        monkeypatch.setattr(klptext.read_text, "__defaults__", (core,))
        monkeypatch.setattr(klptext.saved_opcodes, "__defaults__", (core, tmp_path / "btf"))
        listing = (
            f"{BASE:x} t klp_enable\n{KPROBES:x} b kprobe_table\n{KPROBES + 512:x} b kprobe_blacklist\n"
        )
        return Symbols(lambda: listing)

    monkeypatch.setattr(klptext.klpbtf, "members", lambda _wanted, _btf: LAYOUT)
    return make


@pytest.mark.parametrize("call", HIDDEN.values(), ids=HIDDEN)
def test_a_call_is_found_that_a_kprobe_hides(kernel, call):
    text = NOP * 8 + call + NOP * 3 + b"\xc3" + b"\xcc" * 15
    bare = kernel(text, [])
    found = klptext.calls(bare, BASE, BASE + len(text), search)
    assert found
    assert found[0].site == BASE + 8
    # Another probe stands elsewhere, on what looks like a call once its first byte is replaced.
    text += b"\x89\xd0" + NOP * 4
    probed = [(BASE + len(text) - 6, 0x89), (BASE + 8, call[0])]
    symbols = kernel(text, probed)
    assert klptext.calls(symbols, BASE, BASE + len(text), search) == found


def test_a_breakpoint_that_is_no_kprobes_stays_one(kernel):
    text = NOP * 8 + b"\xcc\xd0" + NOP * 4
    assert klptext.calls(kernel(text, []), BASE, BASE + len(text), search) == []


def test_kprobes_are_not_looked_for_where_none_can_hide_a_call(kernel, monkeypatch):
    text = NOP * 8 + b"\xff\xd0" + NOP * 3 + b"\x89\xc3\xc3" + b"\xcc" * 8
    symbols = kernel(text, [(BASE + 13, 0x89)])
    monkeypatch.setattr(klptext, "saved_opcodes", None)
    assert klptext.calls(symbols, BASE, BASE + len(text), search) == [Call(BASE + 8, BASE + 10, "rax")]


def test_what_cannot_be_uncovered_is_told_in_one_line(kernel):
    text = NOP * 8 + b"\xff\xd0" + NOP * 3
    kernel(text, [(BASE + 8, 0xFF)])
    without = Symbols(lambda: f"{BASE:x} t klp_enable\n{BASE + 64:x} t klp_other\n")
    with pytest.raises(ProbeError) as refused:
        klptext.calls(without, BASE, BASE + len(text), search)
    assert str(refused.value) == (
        "another probe hides what is called at klp_enable+0x8: this kernel has no kprobe_table"
    )
