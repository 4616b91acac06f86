# SPDX-License-Identifier: Apache-2.0
"""A copy of a module under another name, so that the kernel takes it for another module."""

from __future__ import annotations

import io
from pathlib import Path

from elftools.elf.elffile import ELFFile

from klp.errors import NotALivepatch
from klp.model import Module
from klp.modules.modinfo import read_module

# Where load_module() finds the name (kernel/module/main.c): the second section is struct module, whose
# name sysfs shows and no other module may have; errors and the blacklist go by .modinfo's.
_SECTIONS = {".modinfo": b"name=%s\0", ".gnu.linkonce.this_module": b"%s\0"}


def other_name(name: str) -> str:
    """Return a name that differs in its last letter: of equal length, to be written over the old one."""
    return name[:-1] + ("x" if name[-1] != "x" else "y")


def renamed(module: Module, folder: Path) -> Module:
    """Write a copy of a module into `folder` that differs from it in its name alone (see `other_name`).

    What the module says of itself elsewhere, such as in front of its lines in the kernel log, stays.

    Raises:
        NotALivepatch: its name is not where the kernel looks for it.
    """
    data = bytearray(module.file.read_bytes())
    elf = ELFFile(io.BytesIO(bytes(data)))
    name = other_name(module.name)
    for section, pattern in _SECTIONS.items():
        found = elf.get_section_by_name(section)
        begin, size = (found["sh_offset"], found["sh_size"]) if found else (0, 0)
        old, new = (pattern.replace(b"%s", each.encode()) for each in (module.name, name))
        at = data.find(old, begin, begin + size)
        if at < 0:
            raise NotALivepatch(f"{module.file}: no name {module.name} in its section {section}")
        data[at : at + len(old)] = new
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.ko"
    file.write_bytes(data)
    return read_module(file)
