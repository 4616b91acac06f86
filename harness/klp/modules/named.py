# SPDX-License-Identifier: Apache-2.0
"""The modules that a Kbuild names, and whether a patch.toml names others: told before anything is built."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from klp.errors import SettingsError, did_you_mean
from klp.modules.sources import ModuleSource, SourceFolder

_OBJECTS = re.compile(r"^\s*obj-(?:m|y|\$[({]\w+[)}])\s*[:+]?=(.*)$", re.MULTILINE)
_INCLUDES = re.compile(r"^\s*-?include\b", re.MULTILINE)


def named_modules(source: ModuleSource) -> frozenset[str] | None:
    """Return the modules that sources make, as the kernel shows them; None where only make can tell."""
    if not isinstance(source, SourceFolder):
        return None
    text = re.sub(r"#.*", "", source.kbuild.replace("\\\n", " "))
    objects = [word for line in _OBJECTS.findall(text) for word in line.split()]
    if _INCLUDES.search(text) or not all(re.fullmatch(r"[\w-]+\.o", each) for each in objects):
        return None
    return frozenset(each.removesuffix(".o").replace("-", "_") for each in objects)


def check_named(
    file: Path, names: Iterable[str], sources: Sequence[ModuleSource], *, or_of_the_kernel: bool = False
) -> None:
    """Refuse a patch.toml with a module that none of the sources make.

    Args:
        names: those that it names.
        sources: all whose modules it may name.
        or_of_the_kernel: whether it may name a module of the kernel as well, of which nothing is known yet:
            then a name is refused only where it is like one that is made, and so most likely misspelt.

    Raises:
        SettingsError: names file, line and module.
    """
    known: set[str] = set()
    for source in sources:
        own = named_modules(source)
        if own is None:
            return
        known |= own
    for name in names:
        meant = did_you_mean(name, known)
        if name not in known and (meant or not or_of_the_kernel):
            lines = file.read_text(encoding="utf-8").splitlines()
            at = next((number for number, line in enumerate(lines, 1) if f'"{name}"' in line), 1)
            raise SettingsError(
                f"{file}:{at}: no module {name} is built here, only {', '.join(sorted(known))}",
                hint=meant or None,
            )
