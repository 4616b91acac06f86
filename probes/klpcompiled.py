# SPDX-License-Identifier: Apache-2.0
"""A tool's BPF program as bcc compiled it, in a file: so that it can be loaded where compiling takes long.

The file tells which kernel, text and options it was compiled of; it stands for no others. It holds the
instructions of each function, the maps that they use, and how the maps' keys and values are laid out. An
instruction names a map by the descriptor that it had where it was compiled; `klpload.py` puts in its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from klpsymbols import Symbols

NOTES = Path("/sys/kernel/notes")
FORMAT = 1


class Unfit(Exception):
    """A file holds no program for this kernel, text and options; its text says why."""


@dataclass(frozen=True)
class Map:
    """A BPF map: what creates it, and its key's and value's types as `described` has them."""

    name: str
    kind: int
    key_size: int
    value_size: int
    entries: int
    flags: int
    descriptor: int
    key: Any
    value: Any


@dataclass(frozen=True)
class Program:
    """A tool's compiled program.

    `made_of` is what `origin` returned where it was compiled. `functions` has the instructions in hex;
    `event` is the type of what the ring buffer `events` holds.
    """

    made_of: str
    licence: str
    functions: dict[str, str]
    maps: list[Map]
    event: Any


def file_of(tool: str) -> Path:
    """Return where a tool looks for its compiled program: beside its text."""
    return Path(__file__).with_name(f"{tool}.compiled")


def origin(text: str, options: Iterable[str], symbols: Symbols, cpus: int) -> str:
    """Return a digest of all that a compiled program depends on, bcc apart.

    Of the kernel that is its notes, which have the build's identity in them, and where its text was
    loaded, for programs have addresses in them.
    """
    parts = [text, *options, NOTES.read_bytes().hex(), hex(symbols.address("_text")), str(cpus)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


# --- types ---------------------------------------------------------------------------------------


def described(kind: Any) -> Any:
    """Return a ctypes type as JSON can have it: a letter, [type, length], or {"structure": members}."""
    if issubclass(kind, ctypes.Array):
        return [described(kind._type_), kind._length_]
    for name, base in (("structure", ctypes.Structure), ("union", ctypes.Union)):
        if issubclass(kind, base):
            return {name: [[member[0], described(member[1])] for member in kind._fields_]}
    return kind._type_


_SIMPLE: dict[str, Any] = {
    kind._type_: kind
    for kind in (
        *(ctypes.c_bool, ctypes.c_char, ctypes.c_byte, ctypes.c_ubyte, ctypes.c_short, ctypes.c_ushort),
        *(ctypes.c_int, ctypes.c_uint, ctypes.c_long, ctypes.c_ulong, ctypes.c_void_p),
    )
}


def typed(description: Any) -> Any:
    """Return the ctypes type of a description."""
    if isinstance(description, str):
        return _SIMPLE[description]
    if isinstance(description, list):
        element, length = description
        return typed(element) * length
    [(name, members)] = description.items()
    base: Any = {"structure": ctypes.Structure, "union": ctypes.Union}[name]
    return type(name, (base,), {"_fields_": [(member, typed(kind)) for member, kind in members]})


# --- files ---------------------------------------------------------------------------------------


def from_bcc(bpf: Any, made_of: str) -> Program:
    """Return what bcc compiled. Nothing of it need be loaded."""
    from bcc import libbcc

    lib, module = libbcc.lib, bpf.module
    # What bcc's Python does not use it has not declared.
    for function, result in (
        (lib.bpf_num_tables, ctypes.c_size_t),
        (lib.bpf_table_name, ctypes.c_char_p),
        (lib.bpf_table_key_size_id, ctypes.c_size_t),
        (lib.bpf_table_leaf_size_id, ctypes.c_size_t),
        (lib.bpf_table_fd_id, ctypes.c_int),
    ):
        function.restype = result
        function.argtypes = [ctypes.c_void_p] + [ctypes.c_size_t] * (function is not lib.bpf_num_tables)
    names = [lib.bpf_function_name(module, number) for number in range(lib.bpf_num_functions(module))]
    maps = [_map(bpf, lib, number) for number in range(lib.bpf_num_tables(module))]
    return Program(
        made_of=made_of,
        licence=lib.bpf_module_license(module).decode(),
        functions={name.decode(): bpf.dump_func(name).hex() for name in names},
        maps=maps,
        event=described(type(bpf["events"].event(ctypes.create_string_buffer(4096)))),
    )


def _map(bpf: Any, lib: Any, number: int) -> Map:
    module, name = bpf.module, lib.bpf_table_name(bpf.module, number)
    key = value = None
    if name != b"events":
        with suppress(ValueError):  # types that bcc cannot put down; no tool of ours reads such a map
            table = bpf[name]
            key, value = described(table.Key), described(getattr(table, "sLeaf", table.Leaf))
    return Map(
        name=name.decode(),
        kind=lib.bpf_table_type_id(module, number),
        key_size=lib.bpf_table_key_size_id(module, number),
        value_size=lib.bpf_table_leaf_size_id(module, number),
        entries=lib.bpf_table_max_entries_id(module, number),
        flags=lib.bpf_table_flags_id(module, number),
        descriptor=lib.bpf_table_fd_id(module, number),
        key=key,
        value=value,
    )


def write(program: Program, file: Path) -> None:
    """Write a program."""
    file.write_text(json.dumps({"format": FORMAT, **asdict(program)}), encoding="utf-8")


def read(file: Path, made_of: str) -> Program:
    """Read a program.

    Raises:
        Unfit: it is none, or made of something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise Unfit(f"{file.name} has another format")
        program = Program(**{**content, "maps": [Map(**one) for one in content["maps"]]})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unfit(f"{file.name} cannot be read ({error})") from error
    if program.made_of != made_of:
        raise Unfit(f"{file.name} was compiled for another kernel, text or number of CPUs")
    return program
