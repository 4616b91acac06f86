# SPDX-License-Identifier: Apache-2.0
"""The door between texts of a guest and the user's terminal: nothing that goes through it is obeyed there.

A task may call itself anything, a livepatch under test may log anything, and a terminal obeys some of it:
it sets the clipboard or the title, moves the cursor over what was said before, answers as if the user
typed. So all that klp prints goes through `printable` (by `klp.cli.saying`, `consoles.PrintableConsole`,
and the text of errors); its own colours are put on after that. What is recorded stays as it came.
"""

from __future__ import annotations

# Each becomes one character, so that columns stay as wide: the Unicode picture of a control character, and
# the replacement character for one that has none: C1, and what turns the direction of what follows.
_PICTURES = 0x2400
_REPLACED = (*range(0x80, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
OBEYED = {
    **{code: chr(_PICTURES + code) for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: "\u2421",
    **dict.fromkeys(_REPLACED, "\ufffd"),
}


def printable(text: str) -> str:
    """Return a text in which nothing is left that a terminal would obey; tabs and line ends stay."""
    return text if text.isprintable() else text.translate(OBEYED)
