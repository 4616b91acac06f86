# SPDX-License-Identifier: Apache-2.0
"""Frozen values that the stages hand on: a prepared tree, units, what changed, what stands in the way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from klp.model import Kernel

VMLINUX = "vmlinux"


class Way(StrEnum):
    """What finds the difference between two objects: the kernel's own objtool, or kpatch's programs."""

    OBJTOOL_KLP = "objtool klp"
    CREATE_DIFF_OBJECT = "create-diff-object"


@dataclass(frozen=True, slots=True)
class PreparedTree:
    """A kernel's source, configured and prepared as the build of the kernel was, and what works on objects.

    Attributes:
        kernel: the one whose source it is.
        way: how objects are compared.
        root: a root folder with the compiler and all else that works in `tree`; read-only.
        tree: the source, seen at the same path inside `root`; read-only.
        make: the words of a make command there but for its targets: compiler and release are in them.
        objtool: the program, seen inside `root`.
        kpatch: the folder of create-diff-object and create-klp-module; None for `Way.OBJTOOL_KLP`.
        includes: a file of which files include each file of the tree, as JSON; None where it was not
            looked for yet.
    """

    kernel: Kernel
    way: Way
    root: Path
    tree: Path
    make: tuple[str, ...]
    objtool: Path
    kpatch: Path | None = None
    includes: Path | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """A translation unit that a patch touches.

    Attributes:
        source: its C file, relative to the tree: ``fs/proc/cmdline.c``.
        object: the object of the kernel that it is a part of: ``vmlinux``, or a module's name with
            underscores.
        command: the shell command that compiles it as the kernel's build does, run in the tree; it ends in
            ``-c -o {stem}.o {stem}.c``.
        folder: the folder of the makefile that builds it, relative to the tree.
        first: shell commands by which Kbuild makes what it includes and the tree has not yet; they write to
            `folder`.
    """

    source: str
    object: str
    command: str
    folder: str = ""
    first: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """Its name without the ending, with the folder."""
        return self.source.removesuffix(".c")


@dataclass(frozen=True, slots=True)
class CompiledUnit:
    """The objects of a unit; objtool has been over all of them, as in the kernel's own build.

    Attributes:
        plain: compiled as the kernel's build did.
        before: with a section for each function and each variable.
        after: the same, of the patched source, other lines' numbers held still.
    """

    unit: Unit
    plain: Path
    before: Path
    after: Path


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why something cannot become a livepatch, in words.

    Attributes:
        file: relative to the tree; empty where it is of none in particular.
        function: the function or variable; empty where it is of none in particular.
        reason: what stands in the way.
        way_out: what the author can do.
    """

    file: str
    function: str
    reason: str
    way_out: str

    @property
    def words(self) -> str:
        """The obstacle in one line, without its way out."""
        where = ": ".join(each for each in (self.file, self.function) if each)
        return f"{where}: {self.reason}" if where else self.reason


@dataclass(frozen=True, slots=True)
class NewFunction:
    """A function that the livepatch replaces.

    Attributes:
        object: ``vmlinux``, or a module's name.
        name: of the function in the kernel, with what the compiler added, such as ``.isra.0``.
        position: which of several of that name it is, from 1, as the kernel counts (``old_sympos``); 0
            where there is one.
        new: the symbol of the new function in the livepatch's objects.
        unit: the stem of the unit that it is of.
    """

    object: str
    name: str
    position: int
    new: str
    unit: str


@dataclass(frozen=True, slots=True)
class UnitDifference:
    """What is different in one unit, as an object file with only that.

    Attributes:
        unit: which.
        file: the object with the new functions and what they bring along; it holds no table of kpatch's or
            klp-build's from which functions are registered at load.
        functions: those that the livepatch replaces.
        added: symbols of functions and variables that are new.
    """

    unit: Unit
    file: Path
    functions: tuple[NewFunction, ...]
    added: tuple[str, ...] = ()
