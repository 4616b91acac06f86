# SPDX-License-Identifier: Apache-2.0
"""What a user's word stands for: a folder with a Kbuild, a C file, a patch, the samples, a built .ko.

`find_source` looks at the word once, and returns a value with a digest of the contents; nothing after it
looks at the word again. `klp.modules.recipe` says how Kbuild is given such a value.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from klp import paths
from klp.errors import UnknownName, UsageError
from klp.modules.patchfile import PATCH_SUFFIXES, SourcePatch, files_of, is_patch, layers_of

SAMPLES_WORD = "samples"
_SUFFIXES = (".c", ".ko", *PATCH_SUFFIXES)
_KBUILD_NAMES = ("Kbuild", "Makefile")  # Kbuild itself looks in this order
# Kbuild splits words at blanks and make expands $, so a module's file name has to be plain.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")
_BUILDS_MODULES = re.compile(r"^\s*obj-(m|y|\$[({]\w+[)}])\s*[:+]?=", re.MULTILINE)
# What Kbuild leaves behind in a folder is no source.
_LEFT_BEHIND = (".o", ".ko", ".mod", ".mod.c", ".cmd", ".symvers", ".order")


@dataclass(frozen=True, slots=True)
class SourceFolder:
    """A folder of sources with a Kbuild.

    Attributes:
        name: what it is called in progress and messages.
        word: what `find_source` understands in any current folder: a check may be resumed from another.
        digest: SHA-256, in hex, over names and contents of its sources; what Kbuild leaves behind aside.
        folder: as the user wrote it: compiler errors are told in these words.
        kbuild: text of its Kbuild.
    """

    name: str
    word: str
    digest: str
    folder: Path
    kbuild: str


@dataclass(frozen=True, slots=True)
class CFile:
    """One C file, which makes a module of its name.

    Attributes:
        name, word, digest: see `SourceFolder`; of the file and its headers.
        file: as the user wrote it.
        headers: names of all headers in its folder: which of them it includes is not looked into.
    """

    name: str
    word: str
    digest: str
    file: Path
    headers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BuiltModule:
    """A .ko that was built elsewhere; `name`, `word` and `digest` as in `SourceFolder`."""

    name: str
    word: str
    digest: str
    file: Path


@dataclass(frozen=True, slots=True)
class UpstreamSamples:
    """The livepatch samples in each kernel's own source, whose digest is a part of the kernel's."""

    name: str = SAMPLES_WORD
    word: str = SAMPLES_WORD
    digest: str = SAMPLES_WORD


# Each kind of thing that modules can be made of. Code that tells them apart uses `match`, so that mypy
# finds each place where a new kind is missing.
ModuleSource = SourceFolder | CFile | SourcePatch | BuiltModule | UpstreamSamples


def find_source(word: str) -> ModuleSource:
    """Say what a word stands for.

    A path that exists comes before a folder of patches/ of the same name; the word ``samples`` is
    always upstream's (write ``./samples`` for a folder of your own).

    Raises:
        UsageError: there is no such thing, it cannot be read, or nothing could be built into a module.
    """
    if word == SAMPLES_WORD:
        return UpstreamSamples()
    path = _locate(word)
    lasting = str(path.absolute()) if Path(word).exists() else word
    if path.is_dir():
        return _folder(path, lasting)
    if not path.is_file():
        raise UsageError(f"{path}: neither a file nor a folder", hint=_known())
    if path.suffix == ".c":
        return _single_file(path, lasting)
    if path.suffix == ".ko" or ".ko." in path.name:
        return BuiltModule(path.name, lasting, _digest_of(path.parent, [path]), path)
    if is_patch(path):
        return _patch(path, lasting)
    raise UsageError(
        f"{path}: neither C source, nor a source patch, nor a kernel module",
        hint="name a .c file, a .patch, a .ko, or a folder with a Kbuild",
    )


def _patch(path: Path, word: str) -> SourcePatch:
    if not _read(path).strip():
        raise UsageError(f"{path}: empty")
    layers, companion = layers_of(path)
    digest = _digest_of(path.parent, files_of(layers, companion))
    return SourcePatch(path.name, word, digest, layers, companion)


def _locate(word: str) -> Path:
    path = Path(word)
    try:
        if word and path.exists():
            return path
    except OSError as error:  # too long a name, a folder without permission
        raise UsageError(f"{word!r}: {error.strerror}", hint=_known()) from None
    if word and "/" not in word and (paths.PATCHES / word).is_dir():
        return paths.PATCHES / word
    shown = word if word and word.isprintable() else repr(word)
    beside = [str(each) for each in path.parent.glob("*")] if "/" in word else _files_here()
    raise UnknownName(
        f"{shown}: no such file or folder", word, (*beside, *own_livepatches()), hint=_known()
    )


def _files_here() -> list[str]:
    """Return the names in the current folder that may be livepatches."""
    return [each.name for each in Path().iterdir() if each.suffix in _SUFFIXES or each.is_dir()]


def own_livepatches() -> tuple[str, ...]:
    """Return the words for what klp has itself: the folders of patches/, and the samples."""
    return (*sorted(each.parent.name for each in paths.PATCHES.glob("*/Kbuild")), SAMPLES_WORD)


def _known() -> str:
    own = ", ".join(own_livepatches())
    return f"name a .c file, a .patch, a .ko, a folder with a Kbuild, or one of {own}"


def _folder(folder: Path, word: str) -> SourceFolder:
    kbuild = next((folder / n for n in _KBUILD_NAMES if (folder / n).is_file()), None)
    if kbuild is None:
        raise UsageError(f"{folder}: no Kbuild in it", hint=_kbuild_hint(folder))
    text = _read(kbuild)
    if not _BUILDS_MODULES.search(text):
        raise UsageError(f"{kbuild}: names no module", hint="add a line: obj-m += NAME.o")
    files = [each for each in sorted(folder.rglob("*")) if _is_source(each)]
    return SourceFolder(folder.absolute().name, word, _digest_of(folder, files), folder, text)


def _is_source(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and not file.name.endswith(_LEFT_BEHIND)


def _kbuild_hint(folder: Path) -> str:
    sources = sorted(file.name for file in folder.glob("*.c"))
    if not sources:
        return _known()
    return f"add one with: obj-m += {Path(sources[0]).stem}.o, or name {sources[0]} itself"


def _single_file(file: Path, word: str) -> CFile:
    if not _PLAIN_NAME.fullmatch(file.stem):
        raise UsageError(
            f"{file}: Kbuild cannot build a module of that name",
            hint="rename it, with letters, digits, _ and - only",
        )
    if not _read(file).strip():
        raise UsageError(f"{file}: empty", hint="patches/version-banner is one to start from")
    headers = sorted(each for each in file.parent.glob("*.h") if each.is_file())
    digest = _digest_of(file.parent, [file, *headers])
    return CFile(file.name, word, digest, file, tuple(each.name for each in headers))


def _digest_of(folder: Path, files: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    try:
        for file in files:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            whole.update(f"{file.relative_to(folder)} {content}\n".encode())
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from None
    return whole.hexdigest()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise UsageError(f"{file}: {reason}") from None
