# SPDX-License-Identifier: Apache-2.0
"""Values at which a careless comparison goes wrong, and how they are handed to a module.

A kernel that compares half of a number, or compares it as a signed one, takes some of these for each other;
one that does with the first or the last what it must do with each shows where there are three and more.
"""

from __future__ import annotations

from collections.abc import Sequence

_HALF = 32
_ONE, _TWO = 0x6B6C7101, 0x6B6C7102

# Ids are unsigned longs: neighbours, equal in their low half, equal in their high half, different in their
# highest bit alone, zero, all ones.
IDS = (
    _ONE,
    _TWO,
    1 << _HALF | _ONE,
    1 << _HALF | _TWO,
    2 << _HALF | _ONE,
    1 << 63 | _ONE,
    0,
    (1 << 64) - 1,
)
# A livepatch's list of states ends with id 0.
STATE_IDS = tuple(each for each in IDS if each)

# Versions of states are unsigned ints: zero and its neighbour, the largest that is none as a signed one,
# its neighbour that is negative so, equal to one in their low half, all ones.
VERSIONS = (0, 1, 1 << 16 | 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)

# Bytes: one, a word less one, a word, a word and one, a page and one.
SIZES = (1, 7, 8, 9, 4097)

# One, the least that has a middle, and many.
COUNTS = (1, 3, 50)


def orders(values: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return values in three orders: as they stand, from the end, and from the middle."""
    half = len(values) // 2
    return tuple(values), tuple(reversed(values)), (*values[half:], *values[:half])


def parameter(name: str, values: Sequence[int]) -> str:
    """Return a module's parameter that is a list of numbers."""
    return f"{name}={','.join(map(hex, values))}"
