# SPDX-License-Identifier: Apache-2.0
"""The difference between a unit before and after a patch, by whatever finds it for the kernel at hand."""

from __future__ import annotations

from pathlib import Path

from klp.sourcepatch.klp_diff import klp_difference
from klp.sourcepatch.kpatch_diff import kpatch_difference
from klp.sourcepatch.places import UnitPlaces
from klp.sourcepatch.shipped import ShippedKernel
from klp.sourcepatch.values import CompiledUnit, PreparedTree, UnitDifference, Way


def difference(
    compiled: CompiledUnit,
    tree: PreparedTree,
    shipped: ShippedKernel,
    places: UnitPlaces,
    scratch: Path,
) -> UnitDifference | None:
    """Return what is different in a unit, with each reference by its right position; None if no code is.

    Args:
        compiled: the unit's objects, which stay as they are.
        places: where its symbols are in the kernel.
        scratch: a folder of this unit's; a new folder in it has the result.

    Raises:
        PatchRefused: no livepatch can be made of the change; a symbol is not in this kernel, or which one
            is meant cannot be known.
    """
    folder = scratch / "difference"
    folder.mkdir()
    match tree.way:
        case Way.OBJTOOL_KLP:
            return klp_difference(compiled, tree, shipped, places, folder)
        case Way.CREATE_DIFF_OBJECT:
            return kpatch_difference(compiled, tree, shipped, places, folder)
