# SPDX-License-Identifier: Apache-2.0
"""What a user's word stands for: a livepatch's folder, one C file, the upstream samples, a .ko."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from klp import paths
from klp.errors import UsageError
from klp.images.source import SAMPLES_FOLDER
from klp.model import Kernel

SAMPLES_WORD = "samples"
_KBUILD_NAMES = ("Kbuild", "Makefile")  # Kbuild itself looks in this order
# Kbuild splits words at blanks and make expands $, so a module's file name has to be plain.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")
_BUILDS_MODULES = re.compile(r"^\s*obj-(m|y|\$[({]\w+[)}])\s*[:+]?=", re.MULTILINE)
_UNCONDITIONAL = re.compile(r"^\s*obj-[my]\s*[:+]?=", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ModuleSource:
    """Where modules come from.

    Attributes:
        name: what it is called in progress and messages.
        folder: holds the sources, as the user wrote it: compiler errors are told in these words.
        files: names in `folder` of the files that take part; empty means all of the folder.
        kbuild: text of the Kbuild to build with; empty means the folder's own.
        module: a .ko that was built elsewhere, or None where there is something to build.
    """

    name: str
    folder: Path
    files: tuple[str, ...] = ()
    kbuild: str = ""
    module: Path | None = None


def find_source(path_or_word: str, kernel: Kernel | None) -> ModuleSource:
    """Say what `path_or_word` stands for.

    A path that exists comes before a folder of patches/ of the same name; the word ``samples`` is
    always upstream's (write ``./samples`` for a folder of your own). Without a kernel, what can be
    told without one is checked.

    Raises:
        UsageError: there is no such thing, or nothing that could be built into a module.
    """
    if path_or_word == SAMPLES_WORD:
        return _samples(kernel)
    path = _locate(path_or_word)
    if path.is_dir():
        return _folder(path, kernel)
    if not path.is_file():
        raise UsageError(f"{path}: neither a file nor a folder", hint=_known())
    if path.suffix == ".c":
        return _single_file(path)
    if path.suffix == ".ko" or ".ko." in path.name:
        return ModuleSource(name=path.name, folder=path.parent, module=path)
    raise UsageError(
        f"{path}: neither C source nor a kernel module",
        hint="name a .c file, a .ko, or a folder with a Kbuild",
    )


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
    raise UsageError(f"{shown}: no such file or folder", hint=_known())


def _known() -> str:
    own = sorted(each.parent.name for each in paths.PATCHES.glob("*/Kbuild"))
    return f"name a .c file, a .ko, a folder with a Kbuild, or one of {', '.join(own)}, samples"


def _samples(kernel: Kernel | None) -> ModuleSource:
    if kernel is None:
        return ModuleSource(name=SAMPLES_WORD, folder=Path(SAMPLES_WORD))
    if kernel.source is None or not (kernel.source / SAMPLES_FOLDER).is_dir():
        raise UsageError(
            f"samples: kernel {kernel.name} comes without {SAMPLES_FOLDER}",
            hint="take a kernel of `klp kernels`, or a build tree that links to its source",
        )
    return _upstream(SAMPLES_WORD, kernel.source / SAMPLES_FOLDER)


def _upstream(name: str, folder: Path) -> ModuleSource:
    """Upstream's folders name modules under an option that distributions leave off: build them all."""
    stems = sorted(file.stem for file in folder.glob("*.c") if not file.name.endswith(".mod.c"))
    if not stems:
        raise UsageError(f"{folder}: no C files in it")
    return ModuleSource(name=name, folder=folder, kbuild=_kbuild(*stems))


def _kbuild(*stems: str) -> str:
    return "".join(f"obj-m += {stem}.o\n" for stem in stems)


def _folder(folder: Path, kernel: Kernel | None) -> ModuleSource:
    kbuild = next((folder / n for n in _KBUILD_NAMES if (folder / n).is_file()), None)
    if kbuild is None:
        raise UsageError(f"{folder}: no Kbuild in it", hint=_kbuild_hint(folder))
    text = _read(kbuild)
    if not _BUILDS_MODULES.search(text):
        raise UsageError(f"{kbuild}: names no module", hint="add a line: obj-m += NAME.o")
    name = folder.absolute().name
    top = kernel.source if kernel else None
    upstream = top is not None and folder.resolve().is_relative_to(top.resolve())
    if upstream and not _UNCONDITIONAL.search(text):
        return _upstream(name, folder)
    return ModuleSource(name=name, folder=folder)


def _kbuild_hint(folder: Path) -> str:
    sources = sorted(file.name for file in folder.glob("*.c"))
    if not sources:
        return _known()
    return f"add one with: obj-m += {Path(sources[0]).stem}.o, or name {sources[0]} itself"


def _single_file(file: Path) -> ModuleSource:
    if not _PLAIN_NAME.fullmatch(file.stem):
        raise UsageError(
            f"{file}: Kbuild cannot build a module of that name",
            hint="rename it, with letters, digits, _ and - only",
        )
    if not _read(file).strip():
        raise UsageError(f"{file}: empty", hint="patches/version-banner is one to start from")
    headers = sorted(each.name for each in file.parent.glob("*.h") if each.is_file())
    return ModuleSource(
        name=file.name, folder=file.parent, files=(file.name, *headers), kbuild=_kbuild(file.stem)
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise UsageError(f"{file}: {reason}") from None
