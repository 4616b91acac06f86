# SPDX-License-Identifier: Apache-2.0
"""Where members lie in the kernel's structures, from the running kernel's BTF.

Including <linux/sched.h> and <linux/livepatch.h> would tell as well, but bcc's clang takes a minute to
read them on 7.2 in an emulated guest, and needs the very flags that this kernel was built with
(-fms-extensions since 6.19) to lay them out as the kernel does.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from klpsymbols import ProbeError

VMLINUX = Path("/sys/kernel/btf/vmlinux")
_MAGIC = 0xEB9F
_STRUCT = 4
# Bytes that follow struct btf_type, by kind: fixed, and per element (include/uapi/linux/btf.h).
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}  # int, array, var, decl_tag
_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}  # struct, union, enum, func_proto, datasec, enum64


@dataclass(frozen=True)
class Btf:
    """A BTF blob: its types and its strings."""

    types: bytes
    strings: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Btf:
        """Split a blob into its sections."""
        magic, _version, _flags, header, type_off, type_len, str_off, str_len = struct.unpack_from(
            "<HBBIIIII", raw
        )
        if magic != _MAGIC:
            raise ProbeError("the kernel's BTF is not little-endian BTF")
        types, strings = header + type_off, header + str_off
        return cls(raw[types : types + type_len], raw[strings : strings + str_len])

    def _name(self, at: int) -> str:
        return self.strings[at : self.strings.index(b"\0", at)].decode()

    def _name_at(self, name: str) -> int:
        """Return where a name is in the strings, 0 if it is not: types are compared by that number."""
        return self.strings.find(b"\0" + name.encode() + b"\0") + 1

    def members(self, wanted: Collection[str]) -> dict[str, dict[str, int]]:
        """Return the byte offsets of all members of some structures."""
        names = {at: name for name in wanted if (at := self._name_at(name))}
        found: dict[str, dict[str, int]] = {}
        for at, name_at, count, _size in self._structures():
            if name_at in names and count:
                found[names[name_at]] = dict(self._members(at, count))
                if len(found) == len(names):
                    break
        return found

    def size(self, name: str) -> int:
        """Return the size of a structure in bytes, 0 if there is none of that name."""
        wanted = self._name_at(name)
        sizes = (
            size for _, name_at, _, size in self._structures() if wanted and name_at == wanted and size
        )
        return next(sizes, 0)

    def _structures(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield where each structure's members begin, its name, how many there are, and its size."""
        at = 0
        while at < len(self.types):
            name_at, info, size = struct.unpack_from("<III", self.types, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            if kind == _STRUCT:
                yield at + 12, name_at, count, size
            at += 12 + _FIXED.get(kind, 0) + _EACH.get(kind, 0) * count

    def _members(self, at: int, count: int) -> Iterator[tuple[str, int]]:
        for name_at, _type, bits in struct.iter_unpack("<III", self.types[at : at + 12 * count]):
            # With a bit field in the structure, the upper byte is a width.
            yield self._name(name_at), (bits & 0xFFFFFF) // 8


def _parse(path: Path) -> Btf:
    try:
        return Btf.parse(path.read_bytes())
    except OSError as error:
        raise ProbeError(f"the kernel has no BTF (CONFIG_DEBUG_INFO_BTF): {error}") from error


def sizes(wanted: Collection[str], path: Path = VMLINUX) -> list[str]:
    """Return compiler flags such as -DSIZEOF_KLP_STATE=24, for walking arrays of structures.

    Raises:
        ProbeError: the kernel has no BTF, or lacks one of them.
    """
    btf = _parse(path)
    found = {name: btf.size(name) for name in wanted}
    absent = [name for name, size in found.items() if not size]
    if absent:
        raise ProbeError(f"this kernel has no structure {absent[0]}")
    return [f"-DSIZEOF_{name.upper()}={size}" for name, size in found.items()]


def members(wanted: Mapping[str, Collection[str]], path: Path = VMLINUX) -> dict[str, dict[str, int]]:
    """Return the byte offsets of members of structures, by structure and member.

    Raises:
        ProbeError: the kernel has no BTF, or lacks one of them.
    """
    found = _parse(path).members(wanted)
    for structure, names in wanted.items():
        for member in names:
            if member not in found.get(structure, {}):
                raise ProbeError(f"this kernel has no {structure}.{member}")
    return {
        structure: {name: found[structure][name] for name in names} for structure, names in wanted.items()
    }


def offsets(wanted: Mapping[str, Collection[str]], path: Path = VMLINUX) -> list[str]:
    """Return compiler flags such as -DTASK_STRUCT_PID=2464 for members of structures.

    Raises:
        ProbeError: as `members`.
    """
    return [
        f"-D{structure.upper()}_{member.upper()}={offset}"
        for structure, places in members(wanted, path).items()
        for member, offset in places.items()
    ]
