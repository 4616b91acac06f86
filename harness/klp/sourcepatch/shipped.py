# SPDX-License-Identifier: Apache-2.0
"""What a kernel is shipped as: symbols and code of vmlinux and of its modules, read from their files."""

from __future__ import annotations

import io
import mmap
import tempfile
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from klp import arch
from klp.arch import Architecture
from klp.errors import UsageError
from klp.images.kmods import module_on_disk
from klp.images.vmlinux import extract_vmlinux
from klp.model import Kernel
from klp.sourcepatch.kallsyms import KernelSymbol, kernel_symbols
from klp.sourcepatch.objects import ObjectFile, Relocation, Symbol
from klp.sourcepatch.values import VMLINUX

# Letters of nm(1) for code; a small one says that no other object may refer to the symbol.
_CODE_LETTERS = frozenset("tTwW")
# Sections of a module that is not loaded have no addresses: here they are farther apart than any is long.
_SECTION_SHIFT = 32
_ADDRESSES = (1 << 64) - 1
# Sections of a module that are not kept, by how their names begin.
_PASSING = (".init", ".modinfo", "__versions")


@dataclass(frozen=True, slots=True)
class ShippedSymbol:
    """A symbol of vmlinux or of a module.

    Attributes:
        address: where vmlinux was linked to have it; of a module, which is loaded anywhere, one that tells
            its section and its offset there.
        size: 0 where it is not known.
        kind: ``FUNC``, ``OBJECT`` or ``NOTYPE``.
        local: whether it is seen in its own unit only.
    """

    name: str
    address: int
    size: int
    kind: str
    local: bool


class RelocatedFields:
    """The bytes of a section that relocations fill in."""

    def __init__(self, relocations: Iterable[Relocation], architecture: Architecture) -> None:
        widths = architecture.relocation_bytes
        self._widest = max(widths.values())
        # A type that is not known here hides as little as it can: what it fills in shows as different.
        self._fields = sorted((each.offset, widths.get(each.kind, 0)) for each in relocations)

    def within(self, begin: int, size: int) -> frozenset[int]:
        """Return which bytes from `begin` on, counted from there, are filled in."""
        first = bisect_right(self._fields, (begin - self._widest, 0))
        found: set[int] = set()
        for offset, width in self._fields[first:]:
            if offset >= begin + size:
                break
            found.update(range(offset - begin, offset - begin + width))
        return frozenset(each for each in found if 0 <= each < size)


class _Memory(Protocol):
    """What there is at an object's addresses."""

    def code(self, address: int, size: int) -> bytes: ...

    def relocated(self, address: int, size: int) -> frozenset[int]: ...

    def target(self, address: int, kind: int) -> int | None: ...

    def elsewhere(self, address: int) -> str: ...

    def lasts(self, address: int) -> bool: ...


class ShippedObject:
    """vmlinux, or one shipped module.

    Attributes:
        name: ``vmlinux``, or the module's name with underscores.
        symbols: in the order in which the kernel counts those of one name (``old_sympos``).
        architecture: that it is for.
    """

    def __init__(
        self, name: str, symbols: tuple[ShippedSymbol, ...], architecture: Architecture, memory: _Memory
    ) -> None:
        self.name = name
        self.symbols = symbols
        self.architecture = architecture
        self._memory = memory

    @cached_property
    def _by_name(self) -> dict[str, list[ShippedSymbol]]:
        found: dict[str, list[ShippedSymbol]] = {}
        for each in self.symbols:
            found.setdefault(each.name, []).append(each)
        return found

    def named(self, name: str) -> tuple[ShippedSymbol, ...]:
        """Return the symbols of a name, in the order in which the kernel counts them."""
        return tuple(self._by_name.get(name, ()))

    def addresses(self, name: str) -> tuple[int, ...]:
        """Return the addresses of the symbols of a name, in the order in which the kernel counts them."""
        return tuple(each.address for each in self.named(name))

    def code(self, address: int, size: int) -> bytes:
        """Return what the file holds at an address; nothing where it does not hold all of it."""
        return self._memory.code(address, size)

    def relocated(self, address: int, size: int) -> frozenset[int]:
        """Return which bytes from an address on, counted from there, are filled in when it is loaded."""
        return self._memory.relocated(address, size)

    def lasts(self, address: int) -> bool:
        """Whether the kernel still knows a symbol at an address when the object has been initialised."""
        return self._memory.lasts(address)

    def symbol_of(self, address: int, relocation: Relocation) -> int | None:
        """Return the address of the symbol that a field at an address was, or will be, filled in with.

        Args:
            relocation: that of the field, in the unit that the code is of; None where it does not tell.
        """
        target = self._memory.target(address, relocation.kind)
        return None if target is None else target - relocation.addend

    def elsewhere(self, address: int) -> str:
        """Return the symbol of another object that a field at an address refers to; empty if it is none."""
        return self._memory.elsewhere(address)


class ShippedKernel:
    """The objects of a kernel, each read when it is asked for.

    Args:
        kernel: its `image` and `disk` are read: a build tree's as well as a stock kernel's.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._objects: dict[str, ShippedObject] = {}

    def object(self, name: str) -> ShippedObject:
        """Return vmlinux, or a module by its name with underscores.

        Raises:
            UsageError: this kernel has no such module, or its file cannot be understood.
            HostLacks: there is no debugfs(8) here.
        """
        if name not in self._objects:
            self._objects[name] = self._read(name)
        return self._objects[name]

    def _read(self, name: str) -> ShippedObject:
        architecture = arch.of(self._kernel.architecture)
        if name != VMLINUX:
            return module_object(name, module_on_disk(self._kernel, name), architecture)
        return kernel_object(_mapped(self._kernel.image), architecture)


def _mapped(image: Path) -> mmap.mmap:
    """Return an ELF kernel in memory; of a bzImage, the one that is packed in it."""
    with image.open("rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    if content[:4] == b"\x7fELF":
        return content
    with tempfile.TemporaryDirectory(prefix="klp-") as folder:
        unpacked = Path(folder, VMLINUX)
        extract_vmlinux(image, unpacked)
        return _mapped(unpacked)


def kernel_table(image: Path, architecture: Architecture) -> tuple[KernelSymbol, ...]:
    """Return the symbols of a kernel's file as /proc/kallsyms lists them.

    Raises:
        UsageError: it holds no such table.
    """
    return _Linked(_mapped(image), architecture).symbols()


def kernel_section(image: Path, name: str) -> bytes:
    """Return what a section of a kernel's file holds.

    Raises:
        UsageError: it has no such section.
    """
    stream: Any = _mapped(image)
    found = ELFFile(stream).get_section_by_name(name)
    if found is None:
        raise UsageError(f"the kernel's file has no section {name}")
    return bytes(found.data())


class _Linked:
    """vmlinux: its sections are where it was linked to."""

    def __init__(self, content: mmap.mmap | bytes, architecture: Architecture) -> None:
        self._content = content
        self._architecture = architecture
        self._order: Literal["little", "big"] = "little" if architecture.little_endian else "big"
        stream: Any = io.BytesIO(content) if isinstance(content, bytes) else content
        self._sections = sorted(
            (each["sh_addr"], each["sh_size"], each["sh_offset"], each.name)
            for each in ELFFile(stream).iter_sections()
            if each["sh_type"] == "SHT_PROGBITS" and each["sh_flags"] & SH_FLAGS.SHF_ALLOC
        )

    def symbols(self) -> tuple[KernelSymbol, ...]:
        """Return the kernel's own table of its symbols."""
        places = {name: (address, size) for address, size, _, name in self._sections}
        if not {".text", ".rodata"} <= places.keys():
            raise UsageError("the kernel's file has no .text or no .rodata")
        return kernel_symbols(self.code(*places[".rodata"]), places[".rodata"][0], places[".text"][0])

    def code(self, address: int, size: int) -> bytes:
        for begin, length, offset, _ in self._sections:
            if begin <= address and address + size <= begin + length:
                place = offset + address - begin
                return self._content[place : place + size]
        return b""

    def relocated(self, address: int, size: int) -> frozenset[int]:
        del address, size
        return frozenset()

    def target(self, address: int, kind: int) -> int | None:
        """Return symbol and addend, as linking put them into a field."""
        field = self.code(address, self._architecture.relocation_bytes.get(kind, 0))
        value = int.from_bytes(field, self._order, signed=True)
        if field and kind in self._architecture.relocations_from_place:
            return (value + address) & _ADDRESSES
        return value & _ADDRESSES if field and kind in self._architecture.relocations_of_address else None

    def elsewhere(self, address: int) -> str:
        """Return nothing: all that vmlinux refers to is in it."""
        del address
        return ""

    def lasts(self, address: int) -> bool:
        """Return True: the kernel keeps all of its own table."""
        del address
        return True


def _loadable_address(symbol: Symbol) -> int:
    return ((symbol.section or 0) << _SECTION_SHIFT) + symbol.value


class _Loadable:
    """A module: its sections are anywhere, far apart, and what relocations fill in is not there yet."""

    def __init__(self, file: ObjectFile, architecture: Architecture) -> None:
        self._file = file
        self._architecture = architecture
        self._contents: dict[int, bytes] = {}
        self._fields: dict[int, RelocatedFields] = {}
        self._relocations: dict[int, dict[int, Relocation]] = {}

    def code(self, address: int, size: int) -> bytes:
        section, offset = divmod(address, 1 << _SECTION_SHIFT)
        if not 0 < section < len(self._file.sections) or self._file.sections[section].kind == "SHT_NOBITS":
            return b""
        if section not in self._contents:
            self._contents[section] = self._file.content(section)
        content = self._contents[section][offset : offset + size]
        return content if len(content) == size else b""

    def relocated(self, address: int, size: int) -> frozenset[int]:
        section, offset = divmod(address, 1 << _SECTION_SHIFT)
        if section not in self._fields:
            relocations = self._file.relocations(section)
            self._fields[section] = RelocatedFields(relocations, self._architecture)
        return self._fields[section].within(offset, size)

    def target(self, address: int, kind: int) -> int | None:
        """Return symbol and addend, as the relocation of a field has them."""
        relocation = self._relocation(address)
        if relocation is None or relocation.kind != kind:
            return None
        symbol = self._file.symbols[relocation.symbol]
        return _loadable_address(symbol) + relocation.addend if symbol.section else None

    def elsewhere(self, address: int) -> str:
        """Return the undefined symbol that a relocation has for a field."""
        relocation = self._relocation(address)
        symbol = self._file.symbols[relocation.symbol] if relocation else None
        return symbol.name if symbol and symbol.undefined else ""

    def _relocation(self, address: int) -> Relocation | None:
        section, offset = divmod(address, 1 << _SECTION_SHIFT)
        if section not in self._relocations:
            self._relocations[section] = {each.offset: each for each in self._file.relocations(section)}
        return self._relocations[section].get(offset)

    def lasts(self, address: int) -> bool:
        """Return whether its section is none that a module is rid of (kernel/module/kallsyms.c)."""
        section = self._file.sections[address >> _SECTION_SHIFT]
        return section.allocated and not section.name.startswith(_PASSING)


def kernel_object(content: mmap.mmap | bytes, architecture: Architecture) -> ShippedObject:
    """Return what an ELF kernel holds, which may be stripped: the symbols come from its own table.

    Raises:
        UsageError: it has no such table.
    """
    memory = _Linked(content, architecture)
    symbols = tuple(map(_shipped_symbol, memory.symbols()))
    return ShippedObject(VMLINUX, symbols, architecture, memory)


def _shipped_symbol(symbol: KernelSymbol) -> ShippedSymbol:
    kind = "FUNC" if symbol.letter in _CODE_LETTERS else "OBJECT"
    return ShippedSymbol(symbol.name, symbol.address, 0, kind, symbol.letter.islower())


def module_object(name: str, content: bytes, architecture: Architecture) -> ShippedObject:
    """Return what a module's file holds: as the kernel does, it takes symbols in the file's order."""
    file = ObjectFile(content)
    symbols = tuple(
        ShippedSymbol(each.name, _loadable_address(each), each.size, each.kind, each.local)
        for each in file.symbols
        if each.section and each.name
    )
    return ShippedObject(name, symbols, architecture, _Loadable(file, architecture))
