# SPDX-License-Identifier: Apache-2.0
"""What was made of a source patch, as a value that is kept beside the module: ``made.json``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

_SCHEMA = 1
REPORT = "made.json"


class ReplacedFunction(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the livepatch replaces.

    Attributes:
        name: in the kernel.
        position: which of several of that name; 0 where there is one.
        along: what the compiler did with a function that the patch changes, where this one changed for that
            alone; empty where the patch changes it itself.
    """

    name: str
    position: int = 0
    along: str = ""

    @property
    def words(self) -> str:
        """It in words: ``type_show (the 18th of that name)``."""
        return f"{self.name} (number {self.position} of that name)" if self.position else self.name


class ChangedObject(msgspec.Struct, frozen=True, kw_only=True):
    """What changes in one object: ``vmlinux``, or a module."""

    name: str
    functions: tuple[ReplacedFunction, ...]
    added: tuple[str, ...] = ()


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A livepatch that was made of source patches.

    Attributes:
        livepatch: the module's name.
        file: of the module, in its folder.
        kernel: what the kernel was asked for by; `release` is its ``uname -r``.
        patches: names of the files, in the order in which they were applied.
        units: translation units that were compiled.
        objects: what it changes.
        warnings: what will not work as it did before, a line each.
    """

    livepatch: str
    file: str
    kernel: str
    release: str
    patches: tuple[str, ...]
    units: tuple[str, ...]
    objects: tuple[ChangedObject, ...]
    warnings: tuple[str, ...] = ()
    replace: bool = False
    schema: int = _SCHEMA

    def lines(self) -> Iterator[str]:
        """Yield what changed, in words."""
        for each in self.objects:
            own = [one.words for one in each.functions if not one.along]
            if own:
                yield f"{each.name}: changes {', '.join(own)}"
            for one in each.functions:
                if one.along:
                    yield f"{each.name}: {one.words} as well, for it {one.along}"
            if each.added:
                yield f"{each.name}: new are {', '.join(each.added)}"
        for warning in self.warnings:
            yield f"warning: {warning}"


def write_report(made: Made, file: Path) -> None:
    """Write the report beside the module."""
    file.write_bytes(encoded(made))


def read_report(file: Path) -> Made:
    """Read a report that `write_report` wrote."""
    return msgspec.json.decode(file.read_bytes(), type=Made)


class MadeFolder(msgspec.Struct, frozen=True, kw_only=True):
    """All that `klp make` made, and the commands that do it again: ``made.json`` of its folder."""

    made: tuple[Made, ...]
    again: tuple[str, ...]


def encoded(value: Made | MadeFolder) -> bytes:
    """Return a report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value))
