# SPDX-License-Identifier: Apache-2.0
"""Image definitions: one TOML file in vm-images/ for each kernel that can be booted."""

from __future__ import annotations

from pathlib import Path

import msgspec

from klp import paths
from klp.errors import UnknownName
from klp.kernels import series
from klp.toml import read_toml


class ImageDefinition(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"
):
    """What an image is made from.

    Attributes:
        name: the kernel series, and the name it is asked for by.
        suite: Debian suite of the guest root and the toolchain.
        architecture: Debian's name of it.
        summary: one line for `klp kernels`.
        kernel_source: package with the kernel's source.
        selftest_modules: where in it the livepatch selftests keep their modules.
        toolchain_packages: what builds modules for the kernel, its compiler among them.
        extra_suites: further suites of the same archive, such as backports, for a kernel from there.
    """

    name: str
    suite: str
    architecture: str
    summary: str
    kernel_source: str
    selftest_modules: str
    toolchain_packages: tuple[str, ...]
    extra_suites: tuple[str, ...] = ()


def definitions(folder: Path = paths.IMAGE_DEFINITIONS) -> dict[str, ImageDefinition]:
    """Read every definition, oldest kernel first.

    Raises:
        SettingsError: a file is broken; names file and line.
    """
    found = [read_toml(file, ImageDefinition) for file in sorted(folder.glob("*.toml"))]
    return {each.name: each for each in sorted(found, key=lambda each: series(each.name))}


def definition(name: str) -> ImageDefinition:
    """Return the definition called `name`.

    Raises:
        UnknownName: there is none; names those there are.
    """
    known = definitions()
    if name not in known:
        raise UnknownName(
            f"unknown kernel {name}", name, known,
            hint=f"klp kernels lists them ({', '.join(known)}); or name a kernel build tree's folder",
        )  # fmt: skip
    return known[name]
