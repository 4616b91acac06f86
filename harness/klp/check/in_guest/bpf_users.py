# SPDX-License-Identifier: Apache-2.0
"""Puts BPF programs at the return and entry of functions (fexit, fentry), and counts how often they ran.

Run in the guest by itself: ``attach FOLDER FUNCTION…`` puts the programs there and pins what keeps them
there in a folder of the BPF file system; ``read FOLDER`` says how often each ran. To remove the folder
detaches them. A function is ``NAME`` or ``MODULE:NAME``. Prints JSON: how often each ran, in the order of
the functions, return before entry; or of each that was refused, why.

A program is five instructions, made here: a compiler would take an emulated guest twenty seconds.
"""

import ctypes
import json
import os
import struct
import sys
from pathlib import Path

# include/uapi/linux/bpf.h, and btf.h.
_ARRAY, _TRACING, _FUNCTION = 2, 26, 12
# In this order: where a livepatch changes the function, 6.1 switches all of ftrace off when a program at
# the return comes after one at the entry (docs/facts.md).
_KINDS = {"return": 25, "entry": 24}
_ATTEMPTS = 5
_NAME_BYTES = 64


class _LoadOptions(ctypes.Structure):
    """The beginning of libbpf's bpf_prog_load_opts: it takes as much as is given."""

    _fields_ = [
        ("sz", ctypes.c_size_t), ("attempts", ctypes.c_int), ("expected_attach_type", ctypes.c_uint),
        ("prog_btf_fd", ctypes.c_uint), ("prog_flags", ctypes.c_uint), ("prog_ifindex", ctypes.c_uint),
        ("kern_version", ctypes.c_uint), ("attach_btf_id", ctypes.c_uint),
        ("attach_prog_fd", ctypes.c_uint), ("attach_btf_obj_fd", ctypes.c_uint),
    ]  # fmt: skip


class _BtfInfo(ctypes.Structure):
    """What the kernel says of a BTF object (struct bpf_btf_info)."""

    _fields_ = [
        ("btf", ctypes.c_uint64), ("btf_size", ctypes.c_uint), ("id", ctypes.c_uint),
        ("name", ctypes.c_uint64), ("name_len", ctypes.c_uint), ("kernel_btf", ctypes.c_uint),
    ]  # fmt: skip


class _Libbpf:
    """The functions of libbpf that are used; each raises OSError where it fails."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        for name in ("btf__load_vmlinux_btf", "btf__load_from_kernel_by_id_split"):
            getattr(self._library, name).restype = ctypes.c_void_p

    def call(self, name: str, *arguments: object) -> int:
        """Return what a function returns: a descriptor, a number or a pointer."""
        got: int | None = getattr(self._library, name)(*arguments)
        if got is None or got < 0:
            number = ctypes.get_errno() or -(got or 0)
            raise OSError(number, os.strerror(number))
        return got


class _Types:
    """Finds functions among the kernel's types, and those of its modules."""

    def __init__(self, library: _Libbpf) -> None:
        self._library = library
        self._kernel = ctypes.c_void_p(library.call("btf__load_vmlinux_btf"))
        self._modules: dict[str, tuple[int, ctypes.c_void_p]] = {"": (0, self._kernel)}

    def find(self, function: str) -> tuple[int, int]:
        """Return a descriptor of the types, 0 for the kernel's, and the function's number in them."""
        module, _, name = function.rpartition(":")
        if module not in self._modules:
            self._modules[module] = self._open(module)
        descriptor, types = self._modules[module]
        try:
            number = self._library.call("btf__find_by_name_kind", types, name.encode(), _FUNCTION)
        except OSError as error:
            raise LookupError(f"BTF has no function {name}") from error
        return descriptor, number

    def _open(self, module: str) -> tuple[int, ctypes.c_void_p]:
        following = ctypes.c_uint(0)
        while True:
            try:
                self._library.call("bpf_btf_get_next_id", following, ctypes.byref(following))
            except OSError as error:
                raise LookupError(f"{module} was built without BTF") from error
            descriptor = self._library.call("bpf_btf_get_fd_by_id", following)
            if self._name(descriptor) == module:
                split = self._library.call("btf__load_from_kernel_by_id_split", following, self._kernel)
                return descriptor, ctypes.c_void_p(split)
            os.close(descriptor)

    def _name(self, descriptor: int) -> str:
        name = ctypes.create_string_buffer(_NAME_BYTES)
        info = _BtfInfo(name=ctypes.addressof(name), name_len=_NAME_BYTES)
        size = ctypes.c_uint(ctypes.sizeof(info))
        self._library.call(
            "bpf_obj_get_info_by_fd", descriptor, ctypes.byref(info), ctypes.byref(size)
        )  # fmt: skip
        return name.value.decode()


def _program(counts: int, place: int) -> bytes:
    """Return the instructions that add 1 to the number at a place in a map, and return 0."""
    return b"".join(
        (
            # r1 = the address of the number: of two parts, by the map's descriptor (BPF_PSEUDO_MAP_VALUE).
            struct.pack("<BBhi", 0x18, 1 | 2 << 4, 0, counts),
            struct.pack("<BBhi", 0, 0, 0, place),
            struct.pack("<BBhi", 0xB7, 2, 0, 1),  # r2 = 1
            struct.pack("<BBhi", 0xDB, 1 | 2 << 4, 0, 0),  # lock *(u64 *)r1 += r2
            struct.pack("<BBhi", 0xB7, 0, 0, 0),  # r0 = 0
            struct.pack("<BBhi", 0x95, 0, 0, 0),  # exit
        )
    )


def _attach(folder: str, functions: list[str]) -> dict[str, str]:
    """Attach both programs to each function; return why that was refused, by function and kind."""
    library = _Libbpf()
    types = _Types(library)
    Path(folder).mkdir()
    size = 8 * len(_KINDS) * len(functions)
    counts = library.call("bpf_map_create", _ARRAY, b"klp_counts", 4, size, 1, None)
    library.call("bpf_obj_pin", counts, f"{folder}/counts".encode())
    refused = {}
    for number, function in enumerate(functions):
        for place, (kind, attach_type) in enumerate(_KINDS.items(), number * len(_KINDS)):
            try:
                descriptor, found = types.find(function)
                text = _program(counts, 8 * place)
                options = _LoadOptions(
                    sz=ctypes.sizeof(_LoadOptions), attempts=_ATTEMPTS, expected_attach_type=attach_type,
                    attach_btf_id=found, attach_btf_obj_fd=descriptor,
                )  # fmt: skip
                program = library.call(
                    "bpf_prog_load", _TRACING, b"klp_check", b"GPL", text,
                    ctypes.c_size_t(len(text) // 8), ctypes.byref(options),
                )  # fmt: skip
                link = library.call("bpf_raw_tracepoint_open", None, program)
                library.call("bpf_obj_pin", link, f"{folder}/{place}".encode())
            except LookupError as error:
                refused[f"{function} {kind}"] = str(error)
            except OSError as error:
                refused[f"{function} {kind}"] = str(error.strerror)
    return refused


def _read(folder: str) -> list[int]:
    """Return how often each program ran."""
    library = _Libbpf()
    counts = library.call("bpf_obj_get", f"{folder}/counts".encode())
    info = (ctypes.c_uint * 20)()
    library.call(
        "bpf_obj_get_info_by_fd", counts, ctypes.byref(info), ctypes.byref(ctypes.c_uint(80))
    )  # fmt: skip
    # struct bpf_map_info: type, id, key_size, value_size.
    values = (ctypes.c_uint64 * (info[3] // 8))()
    library.call(
        "bpf_map_lookup_elem", counts, ctypes.byref(ctypes.c_uint(0)), ctypes.byref(values)
    )  # fmt: skip
    return list(values)


if __name__ == "__main__":
    _, action, place, *named = sys.argv
    sys.stdout.write(json.dumps(_attach(place, named) if action == "attach" else _read(place)))
