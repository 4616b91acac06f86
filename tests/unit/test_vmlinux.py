# SPDX-License-Identifier: Apache-2.0
"""The ELF kernel comes out of a bzImage as it went in, however it was packed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from klp.errors import HostLacks, UsageError
from klp.images.vmlinux import extract_vmlinux, has_pvh_entry
from klp.process import run

PHYS32_ENTRY, OTHER = 18, 6
SETUP_SECTORS = 39
PAYLOAD_OFFSET = 0x3B4


def padded(name: bytes) -> bytes:
    return name + bytes(-len(name) % 4)


def elf(*notes: tuple[bytes, int]) -> bytes:
    """A 64-bit ELF executable with one PT_NOTE segment (elf(5))."""
    body = b"".join(
        struct.pack("<III", len(name) + 1, 4, kind) + padded(name + b"\0") + struct.pack("<I", 0x1000000)
        for name, kind in notes
    )  # fmt: skip
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0x1000000, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(body), len(body), 4)
    return head + segment + body + b"text" * 5000


def with_size(pack: Callable[[bytes], bytes]) -> Callable[[bytes, Path], bytes]:
    """The kernel's Makefile appends the unpacked size to what has it not in itself."""
    return lambda data, _: pack(data) + struct.pack("<I", len(data))


def zstd(data: bytes, folder: Path) -> bytes:
    if not shutil.which("zstd"):
        pytest.skip("zstd is not installed here")
    (folder / "plain").write_bytes(data)
    run(["zstd", "--quiet", "-22", "--ultra", folder / "plain", "-o", folder / "plain.zst"])
    return (folder / "plain.zst").read_bytes() + struct.pack("<I", len(data))


def xz(data: bytes) -> bytes:
    # scripts/xz_wrap.sh: CRC32 and the x86 filter.
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6}]
    return lzma.compress(data, check=lzma.CHECK_CRC32, filters=filters)


def bzimage(payload: bytes, setup_sectors: int = SETUP_SECTORS) -> bytes:
    """Documentation/arch/x86/boot.rst: the header, and after setup the payload where it says."""
    setup = bytearray((setup_sectors + 1) * 512)
    setup[0x1F1] = setup_sectors
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", setup, 0x248, PAYLOAD_OFFSET, len(payload))
    return bytes(setup) + b"\x90" * PAYLOAD_OFFSET + payload + b"decompressor" * 100


def extracted(data: bytes, tmp_path: Path) -> bytes:
    (tmp_path / "bzImage").write_bytes(data)
    extract_vmlinux(tmp_path / "bzImage", tmp_path / "vmlinux")
    return (tmp_path / "vmlinux").read_bytes()


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(with_size(xz), id="xz"),
        pytest.param(lambda data, _: gzip.compress(data), id="gzip"),
        pytest.param(with_size(bz2.compress), id="bzip2"),
        pytest.param(zstd, id="zstd"),
    ],
)
@pytest.mark.parametrize("setup_sectors", [4, SETUP_SECTORS])
def test_round_trip(tmp_path: Path, pack: Callable[[bytes, Path], bytes], setup_sectors: int) -> None:
    kernel = elf((b"Xen", PHYS32_ENTRY))
    assert extracted(bzimage(pack(kernel, tmp_path), setup_sectors), tmp_path) == kernel


@pytest.mark.parametrize("magic", [b"\x02\x21\x4c\x18", b"\x5d\0\0\0", b"\x89LZO"])
def test_an_unknown_compression_is_told(tmp_path: Path, magic: bytes) -> None:
    with pytest.raises(HostLacks, match=f"magic {magic.hex()}") as caught:
        extracted(bzimage(magic + bytes(100)), tmp_path)
    assert caught.value.hint is not None
    assert "CONFIG_KERNEL_ZSTD" in caught.value.hint
    assert not (tmp_path / "vmlinux").exists()


@pytest.mark.parametrize("data", [b"", b"short", bytes(4096), elf()])
def test_no_bzimage(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UsageError, match="not a bzImage"):
        extracted(data, tmp_path)


def test_a_payload_that_is_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no ELF kernel"):
        extracted(bzimage(gzip.compress(b"hello")), tmp_path)


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(with_size(xz), id="xz"),
        pytest.param(lambda data, _: gzip.compress(data), id="gzip"),
        pytest.param(with_size(bz2.compress), id="bzip2"),
        pytest.param(zstd, id="zstd"),
    ],
)
@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_a_damaged_payload_is_told_not_thrown(
    tmp_path: Path, pack: Callable[[bytes, Path], bytes], harm: str
) -> None:
    payload = bytearray(pack(elf(), tmp_path))
    if harm == "cut":
        data = bzimage(bytes(payload))[: (SETUP_SECTORS + 1) * 512 + PAYLOAD_OFFSET + len(payload) // 2]
    else:
        payload[20:24] = bytes(each ^ 0xFF for each in payload[20:24])
        data = bzimage(bytes(payload))
    with pytest.raises(UsageError, match=r"bzImage: "):
        extracted(data, tmp_path)
    assert not (tmp_path / "vmlinux").exists()


@pytest.mark.parametrize(
    ("notes", "pvh"),
    [
        ([(b"Xen", PHYS32_ENTRY)], True),
        ([(b"Linux", 0x100), (b"Xen", OTHER), (b"Xen", PHYS32_ENTRY)], True),
        ([(b"Xen", OTHER)], False),
        ([(b"GNU", PHYS32_ENTRY)], False),
        ([], False),
    ],
)
def test_the_pvh_note(tmp_path: Path, notes: list[tuple[bytes, int]], pvh: bool) -> None:
    file = tmp_path / "vmlinux"
    file.write_bytes(elf(*notes))
    assert has_pvh_entry(file) is pvh


@pytest.mark.parametrize("data", [b"", b"MZ", b"\x7fELF", elf((b"Xen", PHYS32_ENTRY))[:100]])
def test_what_is_no_elf_has_no_pvh_entry(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "vmlinux"
    file.write_bytes(data)
    assert not has_pvh_entry(file)
