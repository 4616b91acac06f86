# SPDX-License-Identifier: Apache-2.0
"""What a .ko says about itself. The file may come from anywhere: no byte of it is trusted."""

from __future__ import annotations

import hashlib
import io
import re
from itertools import pairwise
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Symbol, SymbolTableSection

from klp import arch
from klp.errors import NotALivepatch, UsageError
from klp.model import Kernel, Module

_ELF = b"\x7fELF"
_ELF_HEADER_SIZE = 64  # Elf64_Ehdr
_COMPRESSED = {
    b"\xfd7zXZ\0": "unxz",
    b"\x1f\x8b": "gunzip",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
# It becomes part of paths below /sys and of commands in the guest.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+]*")
# A module's own struct module, and what takes a reference of one or gives it back
# (include/linux/module.h).
_THIS_MODULE = "__this_module"
_GETTERS, _PUTTER = ("__module_get", "try_module_get"), "module_put"
_TRUNCATED_HINT = "copy or build it again"


def read_module(file: Path) -> Module:
    """Read a kernel module file.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        NotALivepatch: it is no loadable module of an architecture that klp knows; says in what way.
    """
    data = _content(file)
    info = _parse(_modinfo(file, data))
    name = info.get("name", file.stem).replace("-", "_")
    if not _NAME.fullmatch(name):
        raise NotALivepatch(f"{file}: damaged (its name is {name!r})", hint=_TRUNCATED_HINT)
    return Module(
        name=name,
        file=file,
        vermagic=info.get("vermagic", ""),
        livepatch=info.get("livepatch") == "Y",
        depends=tuple(name for name in info.get("depends", "").split(",") if name),
        licence=info.get("license", ""),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def release_of(module: Module) -> str:
    """Return the kernel release that `module` was built for; empty where it does not say."""
    return module.vermagic.partition(" ")[0]


def imports(file: Path) -> frozenset[str]:
    """Return the names that a module, as `read_module` accepts it, takes from outside."""
    with file.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        symbols = table.iter_symbols() if isinstance(table, SymbolTableSection) else ()
        return frozenset(each.name for each in symbols if each["st_shndx"] == "SHN_UNDEF" and each.name)


def can_be_removed(file: Path) -> bool:
    """Whether a module, as `read_module` accepts it, has an exit function, or no init function either.

    The kernel removes no other (delete_module, kernel/module/main.c: EBUSY).
    """
    with file.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        symbols = table.iter_symbols() if isinstance(table, SymbolTableSection) else ()
        names = {each.name for each in symbols if each["st_shndx"] != "SHN_UNDEF"}
    return "cleanup_module" in names or "init_module" not in names


def pins_itself(file: Path) -> bool:
    """Whether a module, as `read_module` accepts it, takes a reference of its own for good as it is loaded.

    Its init function calls __module_get() or try_module_get() with THIS_MODULE, and nothing else calls
    module_put(). Nobody writes that by chance. What is taken elsewhere, as by a callback, may be forgotten.
    """
    with file.open("rb") as stream:
        elf = ELFFile(stream)
        table = elf.get_section_by_name(".symtab")
        found = table.get_symbol_by_name("init_module") if isinstance(table, SymbolTableSection) else None
        if not found:
            return False
        inside, elsewhere = _names_used(elf, found[0])
    # The argument is loaded by the relocation just before that of the call.
    pinned = any(own == _THIS_MODULE and called in _GETTERS for own, called in pairwise(inside))
    return pinned and _PUTTER not in elsewhere


def _names_used(elf: ELFFile, function: Symbol) -> tuple[list[str], set[str]]:
    """Return which symbols relocations name in a function's code, in its order, and which elsewhere."""
    begin, index = function["st_value"], function["st_shndx"]
    inside: list[tuple[int, str]] = []
    elsewhere: set[str] = set()
    for section in elf.iter_sections():
        if not isinstance(section, RelocationSection):
            continue
        table = elf.get_section(section["sh_link"])
        if not isinstance(table, SymbolTableSection):
            continue
        for each in section.iter_relocations():
            at, name = each["r_offset"], table.get_symbol(each["r_info_sym"]).name
            if section["sh_info"] == index and begin <= at < begin + function["st_size"]:
                inside.append((at, name))
            else:
                elsewhere.add(name)
    return [name for _, name in sorted(inside) if name], elsewhere


def check_loadable(module: Module, kernel: Kernel) -> None:
    """Refuse a module that was built for another kernel.

    Raises:
        NotALivepatch: naming both releases.
    """
    built_for = release_of(module)
    if built_for != kernel.release:
        raise NotALivepatch(
            f"{module.file}: built for {built_for or 'no kernel it names'}, "
            f"and the kernel is {kernel.release}",
            hint=f"build it from its sources: klp build SOURCE --kernel {kernel.name}",
        )


def _content(file: Path) -> bytes:
    """The whole file, once its first bytes are those of an ELF file."""
    try:
        if file.exists() and not file.is_file():  # opening a pipe would wait for its writer
            raise UsageError(f"{file}: not a file", hint="name the .ko itself")
        with file.open("rb") as stream:
            head = stream.read(len(max(_COMPRESSED, key=len)))
            _check_magic(file, head)
            return head + stream.read()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}", hint="klp build makes modules") from None


def _check_magic(file: Path, head: bytes) -> None:
    if not head:
        raise NotALivepatch(f"{file}: empty", hint=_TRUNCATED_HINT)
    for magic, tool in _COMPRESSED.items():
        if head.startswith(magic):
            raise NotALivepatch(f"{file}: compressed", hint=f"unpack it first: {tool} {file}")
    if not head.startswith(_ELF):
        raise NotALivepatch(f"{file}: not an ELF file", hint="name a .ko, or the sources of one")


def _modinfo(file: Path, data: bytes) -> bytes:
    """The .modinfo section's bytes."""
    if len(data) < _ELF_HEADER_SIZE:
        raise _truncated(file, len(data), _ELF_HEADER_SIZE)
    try:
        elf = ELFFile(io.BytesIO(data))
        _check_kind(file, elf)
        _check_complete(file, elf, len(data))
        section = elf.get_section_by_name(".modinfo")
        begin, length = (section["sh_offset"], section["sh_size"]) if section else (0, 0)
    except NotALivepatch:
        raise
    # pyelftools trusts what it reads: a damaged file ends in ELFError, or in construct's errors,
    # AttributeError, KeyError, UnicodeDecodeError, OverflowError, … as it happens to be hit.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise NotALivepatch(f"{file}: damaged ({reason})", hint=_TRUNCATED_HINT) from error
    content = data[begin : begin + length]
    if not content:
        raise NotALivepatch(
            f"{file}: has no .modinfo section",
            hint="name the .ko that Kbuild linked, not an object file",
        )
    return content


def _check_kind(file: Path, elf: ELFFile) -> None:
    """A module is a relocatable object (ET_REL); the linker's other outputs cannot be loaded."""
    machine, kind = elf["e_machine"], elf["e_type"]
    found = (machine, elf.elfclass, elf.little_endian)
    if found not in [(each.elf_machine, each.elf_bits, each.little_endian) for each in arch.ALL]:
        known = " or ".join(each.title for each in arch.ALL)
        raise NotALivepatch(f"{file}: not built for {known} ({machine}, {elf.elfclass} bits)")
    if kind != "ET_REL":
        raise NotALivepatch(f"{file}: not a relocatable object ({kind})", hint="name a .ko, not a program")


def _check_complete(file: Path, elf: ELFFile, size: int) -> None:
    """Refuse a file whose headers or sections end beyond its end.

    The kernel does, too (kernel/module/main.c), but says only ENOEXEC, and only in a guest.
    """
    count, offset = elf.num_sections(), elf["e_shoff"]
    if not offset or not count:
        raise NotALivepatch(f"{file}: has no sections", hint=_TRUNCATED_HINT)
    end = offset + count * elf["e_shentsize"]
    if end <= size:
        sections = (section.header for section in elf.iter_sections())
        stored = (s for s in sections if s["sh_type"] != "SHT_NOBITS")
        end = max((s["sh_offset"] + s["sh_size"] for s in stored), default=0)
    if end > size:
        raise _truncated(file, size, end)


def _truncated(file: Path, size: int, needed: int) -> NotALivepatch:
    return NotALivepatch(f"{file}: truncated, {size} bytes of at least {needed}", hint=_TRUNCATED_HINT)


def _parse(modinfo: bytes) -> dict[str, str]:
    """Split ``key=value`` strings; of equal keys the first counts, as in the kernel's get_modinfo()."""
    found: dict[str, str] = {}
    for entry in modinfo.split(b"\0"):
        key, _, value = entry.decode(errors="replace").partition("=")
        found.setdefault(key, value)
    return found
