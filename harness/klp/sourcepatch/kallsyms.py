# SPDX-License-Identifier: Apache-2.0
"""The kernel's own symbol table, read out of its file: what /proc/kallsyms shows, without booting it.

The kernel holds a table of its symbols in which names are made of tokens (scripts/kallsyms.c writes it,
kernel/kallsyms.c reads it). A stripped kernel has no symbol that says where it is, so its parts are found
by what they hold, and nothing is taken that does not agree with the rest: the index with the tokens, each
marker with the names before it, addresses with their order and with the beginning of the kernel's text.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from klp.errors import UsageError

_TOKENS = 256
# One marker stands for so many names.
_STEP = 256
# Each part of the table begins at a multiple of one of these: 8 in 6.1 and 6.12, 4 in 7.2.
_ALIGNMENTS = (8, 4)
# So many words are looked at together for markers, which are near what is found by then.
_BLOCK = 1 << 16
# Characters that are used in names are tokens themselves, and all digits are used.
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
_FIRST_DIGIT = ord("0")
# No token is longer than a name: KSYM_NAME_LEN of include/linux/kallsyms.h.
_LONGEST = 512
_TEXT = "_text"


class KernelSymbol(NamedTuple):
    """A line of /proc/kallsyms: the address that it was linked to, nm's letter for its type, the name."""

    address: int
    letter: str
    name: str


@dataclass(frozen=True, slots=True)
class _Names:
    """Where the names are: where their count begins, and where what follows them does."""

    begin: int
    lines: tuple[str, ...]

    @property
    def width(self) -> int:
        """How long a list with a word for each name is."""
        return 4 * len(self.lines)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Where the tokens begin and their index ends, the tokens, and what the parts are aligned to."""

    begin: int
    end: int
    words: tuple[bytes, ...]
    alignment: int

    def aligned(self, offset: int) -> int:
        """Return where the next part begins if the one before it ends at `offset`."""
        return -(-offset // self.alignment) * self.alignment


def kernel_symbols(data: bytes, address: int, text: int) -> tuple[KernelSymbol, ...]:
    """Return the symbols of a kernel, in the order of its table, which is that of addresses.

    Args:
        data: what is linked to `address`, with the whole table in it: the kernel's read-only data.
        address: where `data` was linked to.
        text: where the kernel's text was linked to, which is the address of ``_text``.

    Raises:
        UsageError: there is no such table, or one of another layout than those of 6.1 to 7.2.
    """
    for tokens in _tokens(data):
        for names in _names(data, tokens):
            for addresses in _addresses(data, address, tokens, names):
                if _agree(addresses, names, text):
                    letters, spelled = zip(*((line[0], line[1:]) for line in names.lines), strict=True)
                    return tuple(map(KernelSymbol, addresses, letters, spelled))
    raise UsageError(
        "the kernel's file holds no table of its symbols that agrees with itself",
        hint="it needs CONFIG_KALLSYMS_ALL, and a version of which the table's layout is known: 6.1 to 7.2",
    )


def _tokens(data: bytes) -> Iterator[_Tokens]:
    """Yield each place with 256 strings, the digits in theirs, followed by the offsets of all."""
    for found in re.finditer(re.escape(_DIGITS), data):
        last = found.start() - _FIRST_DIGIT
        # A string is at least its end; the longest that are looked at are names.
        for begin in range(last, max(-1, last - _FIRST_DIGIT * _LONGEST), -1):
            before = data.count(b"\0", begin, found.start())
            # Every earlier beginning has more strings still.
            if before > _FIRST_DIGIT:
                break
            for alignment in _ALIGNMENTS:
                if begin % alignment == 0 and before == _FIRST_DIGIT:
                    yield from _tokens_at(data, begin, alignment)


def _tokens_at(data: bytes, begin: int, alignment: int) -> Iterator[_Tokens]:
    words = data[begin : begin + _TOKENS * _LONGEST].split(b"\0", _TOKENS)[:_TOKENS]
    offsets, end = [], 0
    for word in words:
        offsets.append(end)
        end += len(word) + 1
    if end <= 0xFFFF:
        index = struct.pack(f"<{len(offsets)}H", *offsets)
        place = -(-(begin + end) // alignment) * alignment
        if data.startswith(index, place):
            yield _Tokens(begin, place + len(index), tuple(words), alignment)


def _names(data: bytes, tokens: _Tokens) -> Iterator[_Names]:
    """Yield each list of names in front of the tokens that its markers and its count agree with."""
    step = tokens.alignment
    for end, markers in _markers(data, tokens):
        # The count is a word in front of the names; the last marker says where the last of them begin.
        latest = end - markers[-1]
        for start in range(latest - latest % step, max(0, latest - _STEP * _LONGEST), -step):
            (count,) = struct.unpack_from("<I", data, start - step)
            if -(-count // _STEP) == len(markers):
                lines = _walk(data[start:end], count, markers, tokens)
                if lines:
                    yield _Names(start - step, lines)


def _markers(data: bytes, tokens: _Tokens) -> Iterator[tuple[int, array[int]]]:
    """Yield each run of ascending words from 0 on, with its place, nearest to the tokens first.

    In between the order of names may stand (kallsyms_seqs_of_names), as in 6.1.
    """
    words = array("I", data[: tokens.begin - tokens.begin % 4])
    for block in range(len(words) - len(words) % _BLOCK, -1, -_BLOCK):
        near = words[block : block + _BLOCK + 2]
        found = [
            place for place, (one, two, three) in enumerate(zip(near, near[1:], near[2:], strict=False))
            if one == 0 and _STEP < two < _STEP * _LONGEST and two < three
        ]  # fmt: skip
        for place in (block + each for each in reversed(found)):
            end = place + 1
            while end < len(words) and words[end - 1] < words[end] < words[end - 1] + _STEP * _LONGEST:
                end += 1
            yield place * 4, words[place:end]


def _walk(data: bytes, count: int, markers: array[int], tokens: _Tokens) -> tuple[str, ...]:
    """Return the names in `data`, each after its type; none unless they fill it and fit the markers."""
    lines, place, token = [], 0, tokens.words.__getitem__
    for number in range(count):
        if number % _STEP == 0 and markers[number // _STEP] != place:
            return ()
        if place >= len(data):
            return ()
        length = data[place]
        place += 1
        # Since 6.1 in two bytes where seven bits do not hold it.
        if length & 0x80:
            length = length & 0x7F | data[place] << 7
            place += 1
        lines.append(b"".join(map(token, data[place : place + length])).decode("latin-1"))
        place += length
    return tuple(lines) if tokens.aligned(place) == len(data) else ()


def _addresses(data: bytes, address: int, tokens: _Tokens, names: _Names) -> Iterator[list[int]]:
    """Yield what the addresses are if the table is laid out as in one kernel or another."""
    layout = f"<{len(names.lines)}i"
    # 6.1 has the addresses in front of the names, later kernels behind the tokens; behind them is what
    # they are relative to.
    behind = tokens.aligned(tokens.end)
    base = names.begin - 8
    front = base - names.width
    for place, base_place in (
        (behind, tokens.aligned(behind + names.width)),
        (front - front % tokens.alignment, base),
    ):
        if place >= 0 and base_place + 8 <= len(data):
            offsets = struct.unpack_from(layout, data, place)
            (relative,) = struct.unpack_from("<Q", data, base_place)
            # With CONFIG_KALLSYMS_ABSOLUTE_PERCPU those that are not below 0 are addresses themselves.
            yield [each if each >= 0 else relative - 1 - each for each in offsets]
            yield [relative + (each & 0xFFFFFFFF) for each in offsets]
    if behind + names.width <= len(data):
        # 7.2: each says how far its symbol is from where it stands itself.
        offsets = struct.unpack_from(layout, data, behind)
        yield [address + behind + 4 * number + each for number, each in enumerate(offsets)]


def _agree(addresses: list[int], names: _Names, text: int) -> bool:
    """Whether addresses ascend, and the beginning of the text has the name that it must have."""
    beginnings = [at for at, line in zip(addresses, names.lines, strict=True) if line[1:] == _TEXT]
    return beginnings == [text] and all(one <= two for one, two in pairwise(addresses))
