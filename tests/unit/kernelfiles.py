# SPDX-License-Identifier: Apache-2.0
"""Tables of symbols as a kernel has them, made by hand."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate


def _tokens() -> list[bytes]:
    """The tokens of a table: characters of names stand for themselves, others are longer."""
    used = set(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.$")
    return [bytes([each]) if each in used else b"filler_%d" % (each % 7) for each in range(256)]


def symbol_table(symbols: Sequence[tuple[int, str, str]], layout: str, address: int) -> bytes:
    """Return the table of a kernel's symbols as it is at an address, as 6.1, 6.12 or 7.2 lays it out.

    Args:
        symbols: addresses, letters and names, in the order of addresses.
    """
    alignment = 4 if layout == "7.2" else 8

    def aligned(*parts: bytes) -> bytes:
        return b"".join(part + bytes(-len(part) % alignment) for part in parts)

    names, markers = bytearray(), []
    for number, (_, letter, name) in enumerate(symbols):
        if number % 256 == 0:
            markers.append(len(names))
        spelled = (letter + name).encode()
        names += bytes(
            [len(spelled)] if len(spelled) < 128 else [len(spelled) & 127 | 128, len(spelled) >> 7]
        )
        names += spelled
    words = _tokens()
    index = list(accumulate((len(each) + 1 for each in words), initial=0))[:256]
    order = b"".join(each.to_bytes(3, "big") for each in range(len(symbols)))
    named = aligned(
        struct.pack("<I", len(symbols)), bytes(names), struct.pack(f"<{len(markers)}I", *markers)
    )  # fmt: skip
    tokens = aligned(b"\0".join([*words, b""]), struct.pack("<256H", *index))
    count, base = len(symbols), min(each for each, _, _ in symbols if each >> 63)
    relative = [each if each < 1 << 31 else base - 1 - each for each, _, _ in symbols]
    addresses = struct.pack(f"<{count}i", *relative)
    if layout == "6.1":
        return aligned(addresses, struct.pack("<Q", base), named, order, tokens)
    if layout == "6.12":
        return aligned(named, tokens, addresses, struct.pack("<Q", base), order)
    first = address + len(named) + len(tokens)
    distances = [each - first - 4 * number for number, (each, _, _) in enumerate(symbols)]
    return aligned(named, tokens, struct.pack(f"<{count}i", *distances), order)
