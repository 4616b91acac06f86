# SPDX-License-Identifier: Apache-2.0
"""Which lines a patch changes in a C file, and in which functions they stand; comments do not count."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

# Comments and literals; literals are kept, because a comment's beginning may stand in one.
_COMMENT_OR_LITERAL = re.compile(
    r"""/\*.*?\*/|//(?:\\\n|[^\n])*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_SPACE = re.compile(r"\s+")
# Words of the language and such as stand in every other line: they tie no function to a changed line.
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "auto bool break case char const continue default define do double else endif enum extern "
        "false for goto if ifdef ifndef include inline int long register return s16 s32 s64 s8 short "
        "signed sizeof static struct switch true typedef u16 u32 u64 u8 "
        "undef union unsigned void volatile while NULL",
    )
)


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines from `first` to `last`, from 1; where `last` is the one before `first`, a place between two."""

    first: int
    last: int

    def touches(self, other: Lines) -> bool:
        """Whether they share a line, or the place of one lies within the other."""
        if self.last < self.first:
            return other.first <= self.last and self.first <= other.last
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Touched:
    """Where a patch changes a C file's code.

    Attributes:
        functions: those with a changed line.
        outside: identifiers in changed lines that stand in no function.
        mentions: for each function of the file the identifiers in it.
    """

    functions: frozenset[str]
    outside: frozenset[str]
    mentions: Mapping[str, frozenset[str]]


def touched_functions(before: str, after: str, declared: Mapping[str, int]) -> Touched:
    """Return where a patch changes a file.

    Args:
        before: the file's text; `after` that of the patched file.
        declared: the line of `before` that the compiler says each function is at.
    """
    old, new = _code_lines(before), _code_lines(after)
    old_bodies, new_bodies = _bodies(old), _bodies(new)
    extents = {name: _extent(line, old, old_bodies) for name, line in declared.items() if line}
    found: set[str] = set()
    outside: set[str] = set()
    held = [*old_bodies, *extents.values()]
    for gone, come in _edits(old, new):
        hit = {name for name, lines in extents.items() if gone.touches(lines)}
        found |= hit
        loose = _outside(gone, old, held)
        if loose or not hit:
            outside |= _identifiers([*loose, *_outside(come, new, new_bodies)])
    mentions = {name: frozenset(_identifiers(old[e.first - 1 : e.last])) for name, e in extents.items()}
    return Touched(frozenset(found), frozenset(outside - _COMMON), mentions)


def _code_lines(text: str) -> list[str]:
    def without(found: re.Match[str]) -> str:
        return "\n" * found[0].count("\n") if found[0][0] == "/" else found[0]

    bare = _COMMENT_OR_LITERAL.sub(without, text).split("\n")
    return [line[:1].replace("\t", " ") + _SPACE.sub(" ", line[1:]).rstrip() for line in bare]


def _edits(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[Lines, Lines]]:
    """Yield which lines of `old` became which of `new`, but for blank ones."""
    begin, end = 0, 0
    shorter = min(len(old), len(new))
    while begin < shorter and old[begin] == new[begin]:
        begin += 1
    while end < shorter - begin and old[-1 - end] == new[-1 - end]:
        end += 1
    matcher = SequenceMatcher(None, old[begin : len(old) - end], new[begin : len(new) - end])
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        gone, come = Lines(begin + i1 + 1, begin + i2), Lines(begin + j1 + 1, begin + j2)
        if kind != "equal" and "".join(_of(gone, old)).strip() != "".join(_of(come, new)).strip():
            yield gone, come


def _of(lines: Lines, text: Sequence[str]) -> Sequence[str]:
    return text[lines.first - 1 : lines.last]


def _bodies(text: Sequence[str]) -> list[Lines]:
    """Return the functions' lines: in the kernel braces in the first column are a function's."""
    found, opened = [], 0
    for number, line in enumerate(text, 1):
        if line.startswith("{") and not opened:
            opened = number
        elif line.startswith("}") and opened:
            found.append(Lines(_head(opened, text), number))
            opened = 0
    return found


def _head(line: int, text: Sequence[str]) -> int:
    """Return where the declaration begins that a line is the last of."""
    while line > 1 and (above := text[line - 2].strip()) and not above.endswith((";", "}", "*/")):
        if above.startswith("#"):
            break
        line -= 1
    return line


def _extent(line: int, text: Sequence[str], bodies: Sequence[Lines]) -> Lines:
    """Return the lines of the function at `line`; of one that a macro makes, those of its call."""
    for each in bodies:
        if each.first <= line <= each.last:
            return each
    last, depth = line, 0
    while last <= len(text):
        depth += text[last - 1].count("(") - text[last - 1].count(")")
        if depth <= 0:
            break
        last += 1
    return Lines(line, min(last, len(text)))


def _outside(lines: Lines, text: Sequence[str], bodies: Sequence[Lines]) -> list[str]:
    return [
        text[number - 1]
        for number in range(lines.first, lines.last + 1)
        if not any(each.first <= number <= each.last for each in bodies)
    ]


def _identifiers(text: Sequence[str]) -> set[str]:
    return {name for line in text for name in _IDENTIFIER.findall(line)}
