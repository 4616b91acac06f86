# SPDX-License-Identifier: Apache-2.0
"""The error number behind the words of insmod, rmmod or a shell when something was refused.

None of them prints the number itself.
"""

from __future__ import annotations

import errno
import os

from klp.errors import errno_name

# kmod's insmod (mod_strerror() in tools/insmod.c) has words of its own for these; rmmod refuses a
# module in use before it asks the kernel, which would answer EAGAIN (delete_module(2)).
_KMOD = {
    "Invalid module format": errno.ENOEXEC,
    "Unknown symbol in module": errno.ENOENT,
    "Module has wrong symbol version": errno.ESRCH,
    "Invalid parameters": errno.EINVAL,
}
_LIBC = {os.strerror(number): number for number in errno.errorcode}
_WITHIN = {" is in use": errno.EAGAIN, " is not currently loaded": errno.ENOENT}


def errno_of(said: str) -> int | None:
    """Return the error number in the last line of what a command said, or None if it names none."""
    last = said.strip().splitlines()[-1:] or [""]
    words = last[0].rpartition(": ")[2].strip()
    known = _KMOD.get(words) or _LIBC.get(words)
    return known or next((number for part, number in _WITHIN.items() if part in last[0]), None)


def name_of(number: int | None) -> str:
    """Return an error number's name, such as ``EINVAL``."""
    return "an unknown error" if number is None else errno_name(number)
