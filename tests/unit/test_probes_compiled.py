# SPDX-License-Identifier: Apache-2.0
"""Compiled programs: written and read back, for one kernel and no other, and their maps put in."""

from __future__ import annotations

import ctypes
import dataclasses
import struct
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "probes"))

import klpcompiled
import klpload
import klpprobe
from klpsymbols import ProbeError, Symbols

KALLSYMS = "ffffffff81000000 T _text\n"


class Inner(ctypes.Structure):
    _fields_ = (("obj", ctypes.c_ulong), ("id", ctypes.c_uint))


class Either(ctypes.Union):
    _fields_ = (("wide", ctypes.c_ulonglong), ("narrow", ctypes.c_ushort))


class Event(ctypes.Structure):
    _fields_ = (
        ("ts_ns", ctypes.c_ulonglong),
        ("of", Inner),
        ("either", Either),
        ("counts", ctypes.c_int * 5),
        ("comm", ctypes.c_char * 16),
        ("raw", ctypes.c_ubyte * 3),
        ("yes", ctypes.c_bool),
    )


PROGRAM = klpcompiled.Program(
    made_of="this",
    licence="GPL",
    functions={"on_init": "b700000000000000"},
    maps=[klpcompiled.Map("lost", 2, 4, 8, 1, 1024, 7, "i", "L")],
    event=klpcompiled.described(Event),
)


def test_a_type_that_was_put_down_reads_the_same_bytes():
    raw = bytes(range(1, ctypes.sizeof(Event) + 1))
    told, made = Event.from_buffer_copy(raw), klpcompiled.typed(klpcompiled.described(Event))
    read = made.from_buffer_copy(raw)

    assert ctypes.sizeof(made) == ctypes.sizeof(Event)
    assert (read.ts_ns, read.of.id, read.either.narrow) == (told.ts_ns, told.of.id, told.either.narrow)
    assert (list(read.counts), read.comm, bytes(read.raw)) == (
        list(told.counts),
        told.comm,
        bytes(told.raw),
    )


def test_a_program_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "klpstates.compiled"
    klpcompiled.write(PROGRAM, file)

    assert klpcompiled.read(file, "this") == PROGRAM


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ('{"format": 0}', "another format"),
        ('{"format": 1, "made_of": "this"}', "cannot be read"),
    ],
)
def test_what_is_no_program_is_not_taken(tmp_path, content, why):
    file = tmp_path / "klpstates.compiled"
    if content is not None:
        file.write_text(content)

    with pytest.raises(klpcompiled.Unfit, match=why):
        klpcompiled.read(file, "this")


def origins(tmp_path, monkeypatch):
    """Return a function that tells what a program is made of, by what differs from the usual."""

    def origin(*, text="text", options=(), notes=b"GNU", kallsyms=KALLSYMS, cpus=2):
        file = tmp_path / "notes"
        file.write_bytes(notes)
        monkeypatch.setattr(klpcompiled, "NOTES", file)
        return klpcompiled.origin(text, options, Symbols(lambda: kallsyms), cpus)

    return origin


@pytest.mark.parametrize(
    "other",
    [
        {"text": "other"},
        {"options": ("-DSTACKS",)},
        {"notes": b"another build"},
        {"kallsyms": KALLSYMS.replace("81", "9a")},
        {"cpus": 4},
    ],
)
def test_a_program_is_for_one_kernel_one_text_and_so_many_cpus(tmp_path, monkeypatch, other):
    origin = origins(tmp_path, monkeypatch)
    file = tmp_path / "klpstates.compiled"
    klpcompiled.write(dataclasses.replace(PROGRAM, made_of=origin()), file)

    assert klpcompiled.read(file, origin()).functions == PROGRAM.functions
    with pytest.raises(klpcompiled.Unfit, match="another kernel"):
        klpcompiled.read(file, origin(**other))


def test_maps_are_put_where_their_stand_ins_were():
    load = struct.Struct("<BBhi")
    two_words = load.pack(0x18, 0x11, 0, 7) + load.pack(0, 0, 0, 0)
    constant = load.pack(0x18, 0x01, 0, 7) + load.pack(0, 0, 0, 0)
    other = load.pack(0xB7, 0x10, 0, 7)

    changed = klpload.with_maps(two_words + constant + other, {7: 33})

    assert changed == load.pack(0x18, 0x11, 0, 33) + two_words[8:] + constant + other


def tool(name="klpstates"):
    return klpprobe.Tool(
        name,
        "",
        0.1,
        lambda _kind, _fields: None,
        lambda _symbols: [],
        lambda _probes: None,
        lambda *_: None,
    )


def test_a_tool_compiles_where_its_program_does_not_fit_and_says_so(tmp_path, monkeypatch, capsys):
    origins(tmp_path, monkeypatch)()
    klpcompiled.write(PROGRAM, tmp_path / "klpstates.compiled")
    monkeypatch.setattr(klpcompiled, "file_of", lambda name: tmp_path / f"{name}.compiled")
    monkeypatch.setattr(klpprobe, "compiled", lambda _tool, _symbols: "compiled here")
    monkeypatch.setattr(klpprobe, "cpus", lambda: 2)

    assert klpprobe.load(tool(), Symbols(lambda: KALLSYMS)) == "compiled here"
    assert capsys.readouterr().err == (
        "klpstates: klpstates.compiled was compiled for another kernel, text or number of CPUs; "
        "compiling it here\n"
    )


def test_a_tool_without_a_program_compiles_without_a_word(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(klpcompiled, "file_of", lambda name: tmp_path / f"{name}.compiled")
    monkeypatch.setattr(klpprobe, "compiled", lambda _tool, _symbols: "compiled here")

    assert klpprobe.load(tool(), Symbols(lambda: KALLSYMS)) == "compiled here"
    assert capsys.readouterr().err == ""


def test_a_tool_needs_libbpf_to_load_what_was_compiled(monkeypatch):
    def none(*_args, **_options):
        raise OSError("libbpf.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", none)

    with pytest.raises(ProbeError, match="libbpf is not installed"):
        klpload.Loaded(PROGRAM, 2)
