# SPDX-License-Identifier: Apache-2.0
"""What a patch file says: which files it changes, and by which hunks. Nothing is applied here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unidiff.errors import UnidiffParseError
from unidiff.patch import PatchSet

from klp.errors import PatchRefused

# A fix has a few hundred lines; a whole stable update has some MB, and is no livepatch.
_LARGEST = 4 * 2**20
_NOWHERE = "/dev/null"
# Modes by which git says that something is not a plain file: a link, and a repository in it.
_NO_FILES = {"120000": "a symbolic link", "160000": "a submodule"}
_HINT = (
    "klp reads what `diff -up`, `git diff` and `git format-patch` write, paths as `patch -p1` takes them"
)


@dataclass(frozen=True, slots=True)
class DiffHunk:
    """A hunk: the line at which it begins in the old file, and its text, header included."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class FileDiff:
    """What a patch does to one file.

    Attributes:
        source: the file that is read, relative to the tree; None where the patch makes a new one.
        target: the file that is written; None where the patch removes it.
        hunks: in their order; none where a file is only renamed, or gets another mode.
        copied: `source` stays though it is not `target`.
    """

    source: str | None
    target: str | None
    hunks: tuple[DiffHunk, ...]
    copied: bool = False


def read_diff(file: Path) -> tuple[FileDiff, ...]:
    """Read a patch file.

    Text that is no UTF-8 is kept by surrogates.

    Raises:
        PatchRefused: it cannot be read, holds no change, changes what is no text, or names a path that may
            lead out of the tree.
    """
    text = _text_of(file)
    try:
        parsed = PatchSet(text)
    except UnidiffParseError as error:
        reason = str(error).strip().partition("\n")[0]
        raise PatchRefused(f"{file}: not a patch: {reason}", output="", hint=_HINT) from None
    if not parsed:
        raise PatchRefused(f"{file}: there is no change in it", output="", hint=_HINT)
    return tuple(_file_diff(file, each) for each in parsed)


def _text_of(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except OSError as error:
        raise PatchRefused(f"{file}: {error.strerror or error}", output="") from None
    if len(content) > _LARGEST:
        raise PatchRefused(
            f"{file}: has more than {_LARGEST >> 20} MB",
            output="",
            hint="a livepatch is made of a few functions' changes",
        )
    # Mailers and editors write CRLF; the header tells a patch that was turned from one that changes such
    # a file, of which the header ends in LF.
    if re.search(rb"^\+\+\+ .*\r$", content, re.MULTILINE):
        content = content.replace(b"\r\n", b"\n")
    return content.decode("utf-8", "surrogateescape")


def _file_diff(file: Path, each: Any) -> FileDiff:
    info = "".join(each.patch_info or ())
    source = _path_of(file, each.source_file, "a")
    target = _path_of(file, each.target_file, "b")
    name = target or source
    if name is None:
        raise PatchRefused(f"{file}: names no file between two {_NOWHERE}", output="", hint=_HINT)
    if each.is_binary_file:
        raise PatchRefused(f"{name}: {file} changes it as a binary file", output="")
    for mode in (each.source_mode, each.target_mode):
        if mode in _NO_FILES:
            raise PatchRefused(f"{name}: {file} makes or changes {_NO_FILES[mode]}", output="")
    if not each and "diff --git " not in info:
        raise PatchRefused(f"{name}: {file} names it, and has no hunk for it", output="", hint=_HINT)
    moved, copied = "\nrename from " in info, "\ncopy from " in info
    if source and target and not (moved or copied):
        # `diff -u x.c.orig x.c`: patch takes the name of the new one.
        source = target
    if each.is_added_file and source == target:
        source = None
    if each.is_removed_file and source == target:
        target = None
    hunks = tuple(DiffHunk(one.source_start, str(one)) for one in each)
    return FileDiff(source, target, hunks, copied)


def _path_of(file: Path, name: str, side: str) -> str | None:
    """Return a path without its first folder, as `patch -p1` reads it; None for /dev/null."""
    if name == _NOWHERE:
        return None
    # git quotes what is not plain ASCII; no file of the kernel is called so.
    first, slash, path = name.partition("/")
    unsafe = (
        '"' in name
        or "\\" in name
        or not name.isprintable()
        or not first
        or any(part in ("", ".", "..", ".git") for part in path.split("/"))
    )
    if slash and not unsafe:
        return path
    if not slash:
        raise PatchRefused(
            f"{file}: the path {name!r} has no folder to strip",
            output="",
            hint=f"write {side}/PATH, as git does",
        )
    raise PatchRefused(f"{file}: the path {name!r} may lead out of the tree", output="", hint=_HINT)
