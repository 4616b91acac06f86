# SPDX-License-Identifier: Apache-2.0
"""How a kernel's Kbuild is given sources: which files of which folder, and by which Kbuild."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from klp.errors import UsageError
from klp.images.source import SAMPLES_FOLDER
from klp.model import Kernel
from klp.modules.patchfile import SourcePatch
from klp.modules.sources import BuiltModule, CFile, ModuleSource, SourceFolder, UpstreamSamples

_UNCONDITIONAL = re.compile(r"^\s*obj-[my]\s*[:+]?=", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is copied and built.

    Attributes:
        folder: holds the sources, as the user wrote it.
        files: names in `folder` of the files that take part; empty means all of the folder.
        kbuild: text of the Kbuild to build with; empty means the folder's own.
    """

    folder: Path
    files: tuple[str, ...] = ()
    kbuild: str = ""


def recipe_for(source: ModuleSource, kernel: Kernel) -> Recipe | BuiltModule | SourcePatch:
    """Return how to build `source` for `kernel`.

    A module that is built already stands for itself, and so does a patch, of which sources are made first.

    Raises:
        UsageError: the kernel comes without the samples.
    """
    match source:
        case BuiltModule() | SourcePatch():
            return source
        case CFile(file=file, headers=headers):
            return Recipe(file.parent, (file.name, *headers), every_module(file.stem))
        case SourceFolder(folder=folder):
            return _upstream(folder) if _optional(source, kernel) else Recipe(folder)
        case UpstreamSamples():
            return _samples(kernel)


def _optional(source: SourceFolder, kernel: Kernel) -> bool:
    """Whether a folder is of the kernel's own source and names every module under a CONFIG_ option.

    Distributions leave the options of samples and tests off, and Kbuild would make nothing of the folder.
    """
    top = kernel.source
    own = top is not None and source.folder.resolve().is_relative_to(top.resolve())
    return own and not _UNCONDITIONAL.search(source.kbuild)


def _samples(kernel: Kernel) -> Recipe:
    if kernel.source is None or not (kernel.source / SAMPLES_FOLDER).is_dir():
        raise UsageError(
            f"samples: kernel {kernel.name} comes without {SAMPLES_FOLDER}",
            hint="take a kernel of `klp kernels`, or a build tree that links to its source",
        )
    return _upstream(kernel.source / SAMPLES_FOLDER)


def _upstream(folder: Path) -> Recipe:
    """Return how to build every C file of an upstream folder as a module, whatever its Kbuild says."""
    stems = sorted(file.stem for file in folder.glob("*.c") if not file.name.endswith(".mod.c"))
    if not stems:
        raise UsageError(f"{folder}: no C files in it")
    return Recipe(folder, kbuild=every_module(*stems))


def every_module(*stems: str) -> str:
    """Return the text of a Kbuild that makes a module of each C file, by its name without ``.c``."""
    return "".join(f"obj-m += {stem}.o\n" for stem in stems)
