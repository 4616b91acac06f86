# SPDX-License-Identifier: Apache-2.0
"""The cases of cases.toml as patches for one kernel: made of its source when a test asks for them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from klp.toml import read_toml

_FILE = Path(__file__).with_name("cases.toml")


class Edit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One statement of one file, put in place of another.

    Attributes:
        after: text that stands once in the file: the first `old` behind it is meant, else the file's first.
        new: ``{old}`` in it stands for `old`.
    """

    file: str
    old: str
    new: str
    after: str = ""

    def apply(self, text: str) -> str:
        """Return the file's text with the edit made."""
        assert text.count(self.after) == 1 or not self.after, (self.file, self.after)
        start = text.index(self.after) + len(self.after) if self.after else 0
        at = text.index(self.old, start)
        return text[:at] + self.new.replace("{old}", self.old) + text[at + len(self.old) :]


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A source patch.

    Attributes:
        kernels: those that it is for.
        made: what `klp make` says of the functions, an expression for each line.
        refused: what it says where it makes nothing, by kernel; ``*`` for all others.
        command: shows the change in a guest; `shows` is found in what it prints while enabled, not before.
    """

    name: str
    edit: tuple[Edit, ...]
    kernels: tuple[str, ...] = ("6.1", "6.12", "7.2")
    made: tuple[str, ...] = ()
    refused: Mapping[str, str] = msgspec.field(default_factory=dict)
    command: str = ""
    shows: str = ""

    def refusal(self, kernel: str) -> str:
        """Return the expression of its refusal for a kernel; empty where it is made."""
        return self.refused.get(kernel, self.refused.get("*", ""))

    def patch(self, tree: Path) -> str:
        """Return it as a unified diff of a kernel's source."""
        texts: dict[str, tuple[str, str]] = {}
        for each in self.edit:
            file = tree / each.file
            before = file.read_text(encoding="utf-8") if file.is_file() else ""
            _, now = texts.setdefault(each.file, (before, before))
            texts[each.file] = (before, each.apply(now))
        return "".join(
            line
            for name, (before, after) in texts.items()
            for line in difflib.unified_diff(
                before.splitlines(keepends=True), after.splitlines(keepends=True),
                f"a/{name}" if before else "/dev/null", f"b/{name}",
            )
        )  # fmt: skip


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    case: tuple[Case, ...]


CASES = {each.name: each for each in read_toml(_FILE, _Table).case}
