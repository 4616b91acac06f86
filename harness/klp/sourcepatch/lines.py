# SPDX-License-Identifier: Apache-2.0
"""Line numbers held still: ``#line`` directives in a patched text, so that unchanged lines keep theirs.

The number of a line is in the code of what stands there: of each WARN in the bug table, in messages, in the
names that lockdep gives to locks. One line more at the top of a file, and all functions below that hold
such a number look changed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

# difflib compares each line with all equal ones: beyond so many lines it has to leave out frequent ones.
_MANY_LINES = 3000
_DIRECTIVE = re.compile(rb"[ \t]*#[ \t]*(if|ifdef|ifndef|elif|elifdef|elifndef|else|endif)\b")
# What may hold the two characters that begin or end a comment, and the comments themselves.
_TOKEN = re.compile(
    rb'"(?:\\.|[^"\\])*"?|\'(?:\\.|[^\'\\])*\'?|//.*|(?P<open>/\*)(?:.*?(?P<close>\*/)|.*)', re.DOTALL
)


def hold_lines(before: bytes, after: bytes) -> bytes:
    """Return `after` with directives by which each line that was in `before` has the number that it had.

    A directive stands between whole lines: after a macro that goes on by backslashes, and after a comment,
    where one was needed inside.
    """
    lines = _split(after)
    numbers = old_numbers(_split(before), lines)
    return b"".join(_held(lines, numbers))


def old_numbers(before: list[bytes], after: list[bytes]) -> list[int | None]:
    """Return for each line of `after` its number, from 1, in `before`; None for one that is new."""
    shorter = min(len(before), len(after))
    head = next((n for n in range(shorter) if before[n] != after[n]), shorter)
    tail = next((n for n in range(shorter - head) if before[-1 - n] != after[-1 - n]), shorter - head)
    numbers: list[int | None] = [None] * len(after)
    numbers[:head] = range(1, head + 1)
    if tail:
        numbers[-tail:] = range(len(before) - tail + 1, len(before) + 1)
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=len(new) > _MANY_LINES)
    for start, place, size in matcher.get_matching_blocks():
        numbers[head + place : head + place + size] = range(head + start + 1, head + start + size + 1)
    return numbers


def _split(text: bytes) -> list[bytes]:
    """Return the lines as the preprocessor has them: a carriage return alone ends none."""
    lines = [line + b"\n" for line in text.split(b"\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


class _Conditionals:
    """Which directives may have been passed over, for they stand in a group that is left out.

    The preprocessor counts lines in such a group, but takes no ``#line`` there: behind it, or in the next
    group of the same #if, the number has to be said again.
    """

    def __init__(self) -> None:
        self._said: list[bool] = []
        self.in_doubt = False

    def say(self) -> None:
        """A directive stands here."""
        self.in_doubt = False
        if self._said:
            self._said[-1] = True

    def see(self, line: bytes) -> None:
        """Take note of a line, which may be a conditional directive."""
        found = _DIRECTIVE.match(line)
        if found is None:
            return
        if found[1].startswith(b"if"):
            self._said.append(False)
        elif self._said:
            self.in_doubt = self.in_doubt or self._said[-1]
            if found[1] == b"endif":
                self._said.pop()


def _held(lines: list[bytes], numbers: list[int | None]) -> Iterator[bytes]:
    conditionals = _Conditionals()
    counted = 1
    for line, whole, number in zip(lines, _begins_whole(lines), numbers, strict=True):
        if number and whole and (counted != number or conditionals.in_doubt):
            yield b"#line %d\n" % number
            conditionals.say()
            counted = number
        if whole:
            conditionals.see(line)
        yield line
        counted += 1


def _begins_whole(lines: list[bytes]) -> Iterator[bool]:
    """Yield for each line whether a directive may stand in front of it: outside of macros and comments."""
    in_comment = False
    joined = b""
    for line in lines:
        yield not joined and not in_comment
        joined += line
        # As gcc does: blanks behind the backslash do not matter.
        if not line.rstrip().endswith(b"\\"):
            in_comment = _ends_in_comment(joined, in_comment)
            joined = b""


def _ends_in_comment(text: bytes, in_comment: bool) -> bool:
    if in_comment:
        end = text.find(b"*/")
        if end < 0:
            return True
        text = text[end + 2 :]
    return any(found["open"] and not found["close"] for found in _TOKEN.finditer(text))
