# SPDX-License-Identifier: Apache-2.0
"""Constants that the kernel writes into its own code as it boots, and into that of no module.

Since 6.11 code has a placeholder in place of a variable that never changes after boot, such as where the
hash of dentries is or, since 6.12, the highest address of user space (runtime_const_ptr() and
runtime_const_shift_right_32(), asm/runtime-const.h); sections called runtime_… list where. A livepatch with
such code would go on with the placeholder. What the kernel's header for other architectures does is right
in a module: it reads the variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from klp import arch
from klp.sourcepatch.changes import Changes
from klp.sourcepatch.objects import ObjectFile
from klp.sourcepatch.shipped import ShippedObject
from klp.sourcepatch.values import Obstacle, PreparedTree, Unit

# Their lists: runtime_ptr_NAME, runtime_shift_NAME.
_LIST = re.compile(r"runtime_[a-z]+_(\w+)")
_PLAIN = Path("include/asm-generic/runtime-const.h")
_WAY_OUT = "leave it as it is, and patch the functions that call it"


def placeholders(after: ObjectFile, changes: Changes) -> tuple[str, ...]:
    """Return the variables that the code a livepatch would have has placeholders for.

    Args:
        after: the unit's object after the patch.
    """
    new = {part.section for part in changes.new_code.values()}
    found = (
        (named[1], after.symbols[relocation.symbol].section)
        for each in after.sections
        if (named := _LIST.fullmatch(each.name))
        for relocation in after.relocations(each.index)
    )
    return tuple(
        dict.fromkeys(
            name for name, place in found if place is not None and after.sections[place].name in new
        )
    )


def read_from_variables(tree: PreparedTree) -> dict[Path, Path]:
    """Return what is to be seen in place of the tree's header, so that the variables are read."""
    own = f"arch/{arch.of(tree.kernel.architecture).kernel}/include/asm/runtime-const.h"
    return {tree.tree / own: tree.tree / _PLAIN}


def constant_obstacles(
    unit: Unit, names: Sequence[str], own: ObjectFile, held: ShippedObject
) -> Iterator[Obstacle]:
    """Yield the constants that this kernel has in its code alone: there is no variable to be read.

    Args:
        names: of variables that new code reads.
        own: the unit's object; a variable of another unit is found where the livepatch is linked.
        held: what the running kernel has.
    """
    defined = {each.name for each in own.symbols if each.section is not None}
    for name in names:
        if name in defined and not held.named(name):
            reason = "is a constant of the kernel's code: its variable was of no use, and left out"
            yield Obstacle(unit.source, name, reason, _WAY_OUT)
