# SPDX-License-Identifier: Apache-2.0
"""A copy of a module whose init function fails: up to there it is the same module for the kernel."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from klp.arch import Architecture
from klp.errors import NotALivepatch
from klp.model import Module
from klp.modules.modinfo import read_module

_THIS_MODULE = ".gnu.linkonce.this_module"  # struct module, where a relocation fills in .init
_INIT = "init_module"  # what module_init() calls the function (include/linux/module.h)
_RELA = "<QQq"  # Elf64_Rela: place, symbol and type, addend
_SHDR_OFFSET, _SHDR_SIZE = 0x18, 0x20  # in Elf64_Shdr
_ALIGNED = 16


def init_failing(data: bytes, code: bytes, *, said: str) -> bytes | None:
    """Return a module's file changed so that another function is its init function; None if it has none.

    That one is put at the end of the section that the module's own is in, and struct module is led to it.
    Nothing else moves: up to there the copy loads as the module does. It is no longer signed.

    Args:
        code: the function, whole; it must be such that it can lie anywhere.
        said: what to call the file in an error.

    Raises:
        NotALivepatch: it is not laid out like a kernel module.
    """
    elf: Any = ELFFile(io.BytesIO(data))
    symbols, relocations = (
        elf.get_section_by_name(".symtab"),
        elf.get_section_by_name(f".rela{_THIS_MODULE}"),
    )
    if symbols is None or relocations is None:
        raise NotALivepatch(f"{said}: no symbols, or no relocations of {_THIS_MODULE}")
    found = [
        (number, entry)
        for number, entry in enumerate(relocations.iter_relocations())
        if symbols.get_symbol(entry["r_info_sym"]).name == _INIT
    ]
    if not found:
        return None
    number, entry = found[0]
    symbol = symbols.get_symbol(entry["r_info_sym"])
    own = elf.get_section(symbol["st_shndx"]).data()
    at = len(own) + -len(own) % _ALIGNED
    grown = own.ljust(at, b"\0") + code
    out = bytearray(data)
    place = relocations["sh_offset"] + number * struct.calcsize(_RELA)
    struct.pack_into(_RELA, out, place, entry["r_offset"], entry["r_info"], at - symbol["st_value"])
    _move(out, elf, symbol["st_shndx"], grown)
    return bytes(out)


def _move(out: bytearray, elf: Any, section: int, content: bytes) -> None:
    """Put a section's new content at the end of the file, and have its header say so."""
    out.extend(bytes(-len(out) % _ALIGNED))
    header = elf["e_shoff"] + section * elf["e_shentsize"]
    struct.pack_into("<Q", out, header + _SHDR_OFFSET, len(out))
    struct.pack_into("<Q", out, header + _SHDR_SIZE, len(content))
    out.extend(content)


def failing(module: Module, architecture: Architecture, folder: Path) -> Module | None:
    """Write a copy of a module into `folder` whose init function returns -ENODEV; None if it has none.

    Raises:
        NotALivepatch: see `init_failing`.
    """
    changed = init_failing(module.file.read_bytes(), architecture.returns_enodev, said=module.name)
    if changed is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{module.name}.ko"
    file.write_bytes(changed)
    return read_module(file)
