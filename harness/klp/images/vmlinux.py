# SPDX-License-Identifier: Apache-2.0
"""From a bzImage to the ELF kernel inside it.

QEMU starts an uncompressed ELF kernel with a PVH entry point directly, which under emulation saves
the whole of the decompressor (3.2 s against 2.0 s to /init on 6.12).
"""

from __future__ import annotations

import bz2
import lzma
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from klp.errors import HostLacks, UsageError
from klp.process import CommandFailed, run

# Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
_SETUP_SECTS = 0x1F1
_MAGIC = 0x202
_PAYLOAD = 0x248
_SECTOR = 512
# XEN_ELFNOTE_PHYS32_ENTRY of include/xen/interface/elfnote.h. As text, for pyelftools gives a name in place
# of some numbers, which mean other notes to others than Xen.
_PHYS32_ENTRY = "18"


def write_kernel(image: Path, destination: Path) -> None:
    """Write what QEMU is to start: a vmlinux as it is; of a bzImage its ELF kernel if that has PVH.

    Raises:
        UsageError: `image` is no kernel, or a damaged one.
        HostLacks: it is packed in a way that is not known here.
    """
    if image.name == "vmlinux":
        shutil.copyfile(image, destination)
        return
    extract_vmlinux(image, destination)
    # QEMU takes an ELF kernel by its PVH entry alone; a bzImage unpacks itself in the guest.
    if not has_pvh_entry(destination):
        shutil.copyfile(image, destination)


def extract_vmlinux(bzimage: Path, destination: Path) -> None:
    """Write the ELF kernel that is packed in `bzimage` to `destination`.

    Raises:
        UsageError: not a bzImage, or a damaged one.
        HostLacks: packed in a way that is not known here.
    """
    data = bzimage.read_bytes()
    if data[_MAGIC : _MAGIC + 4] != b"HdrS":
        raise UsageError(f"{bzimage}: not a bzImage", hint="name the folder of a kernel build tree")
    try:
        offset, length = struct.unpack_from("<II", data, _PAYLOAD)
        begin = (data[_SETUP_SECTS] + 1) * _SECTOR + offset
        if begin + length > len(data):
            raise UsageError(f"{bzimage}: truncated", hint="build it again: make")
        unpacked = _unpack(data[begin : begin + length], bzimage)
    except (struct.error, lzma.LZMAError, zlib.error, EOFError, CommandFailed) as error:
        raise UsageError(f"{bzimage}: damaged ({error})", hint="build it again: make") from error
    if not unpacked.startswith(b"\x7fELF"):
        raise UsageError(f"{bzimage}: its payload is no ELF kernel")
    destination.write_bytes(unpacked)


def _unpack(payload: bytes, bzimage: Path) -> bytes:
    """Decompress by magic number.

    To all but gzip's stream Kbuild appends the unpacked size in four bytes (size_append in
    scripts/Makefile.lib), which a decompressor of whole files would call rubbish.
    """
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=31).decompress(payload)
    if payload.startswith(b"BZh"):
        return _bunzip2(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        with tempfile.TemporaryDirectory(prefix="klp-") as folder:
            packed, plain = Path(folder, "packed"), Path(folder, "plain")
            packed.write_bytes(payload[:-4])
            run(["zstd", "--decompress", "--quiet", packed, "-o", plain])
            return plain.read_bytes()
    raise HostLacks(
        f"{bzimage}: compressed in a way klp does not unpack (magic {payload[:4].hex()})",
        hint="build the kernel with CONFIG_KERNEL_ZSTD, _XZ, _GZIP or _BZIP2",
    )


def _bunzip2(payload: bytes) -> bytes:
    try:
        return bz2.BZ2Decompressor().decompress(payload)
    except OSError as error:  # bz2 has no error of its own for a damaged stream
        raise EOFError(str(error)) from error


def has_pvh_entry(vmlinux: Path) -> bool:
    """Whether QEMU can start this ELF kernel directly (CONFIG_PVH)."""
    try:
        with vmlinux.open("rb") as stream:
            return any(
                note["n_name"] == "Xen" and str(note["n_type"]) == _PHYS32_ENTRY
                for segment in ELFFile(stream).iter_segments()
                if isinstance(segment, NoteSegment)
                for note in segment.iter_notes()
            )
    except ELFError:
        return False
