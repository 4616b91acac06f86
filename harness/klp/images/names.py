# SPDX-License-Identifier: Apache-2.0
"""What a kernel's name means: a definition of vm-images/, or the folder of a build tree.

The pytest plugin asks while tests are collected, which must cost nothing. So this module imports no other
of the room, and opens no definition.
"""

from __future__ import annotations

from pathlib import Path

from klp import paths
from klp.errors import did_you_mean
from klp.kernels import series


def known_kernels() -> list[str]:
    """Return the kernels with a definition, oldest first, from the names of their files: none is opened."""
    names = (file.stem.rpartition("-")[2] for file in paths.IMAGE_DEFINITIONS.glob("*.toml"))
    return sorted(names, key=series)


def tree_of(kernel: str) -> Path | None:
    """Return the folder that `kernel` names, absolute; None where it is, or may be, a definition's name.

    A folder that is called as a definition is meant where its name has a slash in it: ``./6.12``.
    """
    is_folder = "/" in kernel or (kernel not in known_kernels() and Path(kernel).is_dir())
    return Path(kernel).absolute() if is_folder else None


def series_of(kernel: str) -> tuple[int, ...]:
    """Return a kernel's series, by its name or by what its build tree says; () if unknown."""
    tree = tree_of(kernel)
    release = tree / "include/config/kernel.release" if tree else None
    return series(release.read_text() if release and release.is_file() else kernel)


def kernel_complaint(kernel: str) -> str:
    """Return why `kernel` is none; an empty string if it is one."""
    known = known_kernels()
    if kernel in known or Path(kernel).is_dir():
        return ""
    meant = did_you_mean(kernel, known)
    others = f"known: {', '.join(known)}, or a kernel build tree's folder"
    return f"unknown kernel {kernel!r}; {f'{meant} {others}' if meant else others}"
