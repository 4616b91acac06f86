# SPDX-License-Identifier: Apache-2.0
"""What livepatches are to be made of which patches, and what is said of them beside the patches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

# A module's name has 55 letters at most (MODULE_NAME_LEN, include/linux/moduleparam.h); suffixes need room.
_LONGEST = 44


class PatchState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A state that a livepatch has (struct klp_state): its id and its version."""

    id: Annotated[int, msgspec.Meta(ge=0)]
    version: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)] = 0


class MakeTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a livepatch is made of a source patch: ``[make]`` in the TOML file beside it.

    Attributes:
        first: patches that are applied before it, and are part of the same livepatch.
        replaces: patches of which earlier livepatches were made, the oldest first: this one holds their
            changes, too, and replaces them.
        callbacks: a C file with ``pre_patch()``, ``post_patch()``, ``pre_unpatch()``, ``post_unpatch()``.
        state: the states it has.
    """

    first: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    callbacks: str = ""
    state: tuple[PatchState, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """A livepatch that is to be made.

    Attributes:
        file: the name of its module's file, without ``.ko``.
        patches: applied in this order.
        callbacks: the author's C file; None without.
        states: those it has.
        replace: whether it replaces the livepatches that were loaded before.
    """

    file: str
    patches: tuple[Path, ...]
    callbacks: Path | None = None
    states: tuple[PatchState, ...] = ()
    replace: bool = False

    @property
    def module(self) -> str:
        """The module's name as sysfs shows it."""
        return self.file.replace("-", "_")


def module_file(patch: Path) -> str:
    """Return what the module of a patch's livepatch is called: ``livepatch-fix`` for ``fix.patch``."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", patch.stem).strip("-").lower() or "patch"
    return f"livepatch-{stem}"[:_LONGEST].rstrip("-")
