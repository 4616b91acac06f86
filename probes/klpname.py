# SPDX-License-Identifier: Apache-2.0
"""Names of kernel addresses, asked of the kernel one by one.

For one name of a module that was just loaded, reading /proc/kallsyms takes an emulated CPU half a
second, during which a transition waits for that CPU to answer an interrupt. To ask takes 0.3 ms there.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from typing import Any

# Of include/uapi/linux/bpf.h, and bpf(2)'s number on x86-64 and arm64, by os.uname().machine.
_BPF_PROG_TEST_RUN, _BPF_MAP_FREEZE = 10, 22
_SYS_BPF = {"x86_64": 321, "aarch64": 280}
# The members of its union for BPF_PROG_TEST_RUN, up to `cpu`; u64 are aligned.
_TEST_RUN = struct.Struct("=IIIIQQIIIIQQII")
_FREEZE = struct.Struct("=I")
_ADDRESS = struct.Struct("=Q")
_RESULT, _RESULT_AT = struct.Struct("=i"), 4


class Namer:
    """Runs klpname.bpf.c.

    Args:
        bpf: the tool's bcc.BPF, of whose program that is a part.

    Raises:
        OSError: the kernel refuses.
    """

    def __init__(self, bpf: Any) -> None:
        table = bpf["symbol_format"]
        text = table.Leaf()
        text.text = b"%pS"
        table[ctypes.c_int(0)] = text
        system_call(_BPF_MAP_FREEZE, _FREEZE.pack(table.map_fd))
        self._program = bpf.load_func("klp_name", bpf.RAW_TRACEPOINT).fd
        found = bpf["symbol_found"].map_fd
        self._found = mmap.mmap(found, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)

    def __call__(self, address: int) -> str:
        """Return `function+0xOFFSET/0xSIZE [module]`, or the address where the kernel knows no name."""
        context = ctypes.create_string_buffer(_ADDRESS.pack(address), _ADDRESS.size)
        at = ctypes.addressof(context)
        _, attributes = system_call(
            _BPF_PROG_TEST_RUN,
            _TEST_RUN.pack(self._program, 0, 0, 0, 0, 0, 0, 0, _ADDRESS.size, 0, at, 0, 0, 0),
        )
        if _RESULT.unpack_from(attributes, _RESULT_AT)[0] <= 0:  # the name there is another address's
            return f"0x{address:x}"
        return self._found[: self._found.find(b"\0")].decode()


def system_call(command: int, attributes: bytes) -> tuple[int, bytes]:
    """Call bpf(2); return its result, and its attributes as the kernel left them.

    Raises:
        OSError: it failed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    space = ctypes.create_string_buffer(attributes, len(attributes))
    result = libc.syscall(_SYS_BPF[os.uname().machine], command, space, len(attributes))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result, space.raw
