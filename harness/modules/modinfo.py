# SPDX-License-Identifier: Apache-2.0
"""What a .ko says about itself, read without trusting a byte of it."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from harness.errors import NotALivepatch, UsageError
from harness.model import Kernel, Module

_ELF = b"\x7fELF"
_COMPRESSED = {
    b"\xfd7zXZ\0": "unxz",
    b"\x1f\x8b": "gunzip",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
_TRUNCATED_HINT = "copy or build it again"


def read_module(file: Path) -> Module:
    """Read a kernel module file.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        NotALivepatch: it is no loadable x86-64 module; says in what way.
    """
    data = _content(file)
    info = _parse(_modinfo(file, data))
    return Module(
        name=info.get("name", file.stem).replace("-", "_"),
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


def require_livepatch(module: Module) -> None:
    """Refuse a module that is not marked as a livepatch; klp_enable_patch() would refuse it too.

    Raises:
        NotALivepatch: it has no such mark.
    """
    if not module.livepatch:
        raise NotALivepatch(
            f"{module.file}: a module, but not marked as a livepatch",
            hint='add MODULE_INFO(livepatch, "Y"); to its source',
        )


def _content(file: Path) -> bytes:
    """The whole file, once its first bytes are those of an ELF file."""
    if not file.exists():
        raise UsageError(f"{file}: no such file", hint="klp build makes modules from sources")
    if not file.is_file():
        raise UsageError(f"{file}: not a file", hint="name the .ko itself")
    try:
        with file.open("rb") as stream:
            head = stream.read(len(max(_COMPRESSED, key=len)))
            _check_magic(file, head)
            return head + stream.read()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None


def _check_magic(file: Path, head: bytes) -> None:
    if not head:
        raise NotALivepatch(f"{file}: empty", hint=_TRUNCATED_HINT)
    for magic, tool in _COMPRESSED.items():
        if head.startswith(magic):
            raise NotALivepatch(f"{file}: compressed", hint=f"unpack it first: {tool} {file}")
    if not head.startswith(_ELF):
        raise NotALivepatch(f"{file}: not an ELF file", hint="name a .ko, or the sources of one")


def _modinfo(file: Path, data: bytes) -> bytes:
    try:
        elf = ELFFile(io.BytesIO(data))
        _check_kind(file, elf)
        _check_complete(file, elf, len(data))
        section = elf.get_section_by_name(".modinfo")
        content = b"" if section is None else bytes(section.data())
    except NotALivepatch:
        raise
    # pyelftools trusts what it reads: a damaged file ends in ELFError, or in construct's errors,
    # AttributeError, KeyError, UnicodeDecodeError, MemoryError, zlib.error, … as it happens to be hit.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise NotALivepatch(f"{file}: damaged ({reason})", hint=_TRUNCATED_HINT) from error
    if not content:
        raise NotALivepatch(
            f"{file}: has no .modinfo section",
            hint="name the .ko that Kbuild linked, not an object file",
        )
    return content


def _check_kind(file: Path, elf: ELFFile) -> None:
    """A module is a relocatable object (ET_REL); the linker's other outputs cannot be loaded."""
    machine, kind = elf["e_machine"], elf["e_type"]
    if not (elf.elfclass == 64 and elf.little_endian and machine == "EM_X86_64"):
        raise NotALivepatch(f"{file}: not built for x86-64 ({machine}, {elf.elfclass} bits)")
    if kind != "ET_REL":
        raise NotALivepatch(f"{file}: not a relocatable object ({kind})", hint="name a .ko, not a program")


def _check_complete(file: Path, elf: ELFFile, size: int) -> None:
    """Do as the kernel does: refuse a file whose headers or sections end beyond its end."""
    count, offset = elf.num_sections(), elf["e_shoff"]
    if not offset or not count:
        raise NotALivepatch(f"{file}: has no sections", hint=_TRUNCATED_HINT)
    end = offset + count * elf["e_shentsize"]
    if end <= size:
        sections = (section.header for section in elf.iter_sections())
        stored = (s for s in sections if s["sh_type"] != "SHT_NOBITS")
        end = max((s["sh_offset"] + s["sh_size"] for s in stored), default=0)
    if end > size:
        raise NotALivepatch(f"{file}: truncated, {size} bytes of at least {end}", hint=_TRUNCATED_HINT)
    if any(s["sh_flags"] & SH_FLAGS.SHF_COMPRESSED for s in _allocated(elf)):
        raise NotALivepatch(f"{file}: damaged (a compressed section)", hint=_TRUNCATED_HINT)


def _allocated(elf: ELFFile) -> list[dict[str, int]]:
    """Headers of the sections that the kernel copies into memory."""
    headers = [section.header for section in elf.iter_sections()]
    return [each for each in headers if each["sh_flags"] & SH_FLAGS.SHF_ALLOC]


def _parse(modinfo: bytes) -> dict[str, str]:
    """Split ``key=value`` strings; of a key that is there twice, the first counts, as in the kernel."""
    found: dict[str, str] = {}
    for entry in modinfo.split(b"\0"):
        key, _, value = entry.decode(errors="replace").partition("=")
        found.setdefault(key, value)
    return found
