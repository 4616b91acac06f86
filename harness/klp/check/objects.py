# SPDX-License-Identifier: Apache-2.0
"""Whether the modules that a livepatch changes exist, by its file and the kernel's lists of modules. Pure.

The kernel takes any name: a module of that name may come later (klp_find_object_module and
klp_module_coming, kernel/livepatch/core.c). Of one that never comes nothing is patched, without a word.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from klp.images.kmods import KernelModules
from klp.modules.plan import module_name

_VMLINUX = "vmlinux"
# How like two names must be for one to pass for the other, misspelt: one letter of seven.
_LIKE = 0.85


@dataclass(frozen=True, slots=True)
class ObjectNames:
    """What is to be said of the names of a livepatch's objects.

    Attributes:
        faults: of those that no module can have, or that are misspelt; or that it changes nothing here.
        notes: of others that this kernel does not have.
    """

    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def judge_names(
    names: Sequence[str], own: Collection[str], kernel: KernelModules, release: str, *, vmlinux: bool
) -> ObjectNames:
    """Hold the names of a livepatch's objects against the modules that there are.

    Args:
        names: of those that are modules, as the author wrote them.
        own: the modules that its sources gave.
        kernel: those of the kernel.
        vmlinux: whether it changes the kernel itself, too.
    """
    known = {*own, *kernel.loadable}
    wrong = {name: _why_never(name, known, kernel) for name in names if name not in known}
    reasons = {name: why for name, why in wrong.items() if why}
    absent = [name for name in wrong if name not in reasons]
    nowhere = f"no module of {release}, nor of its sources"
    if wrong and not vmlinux and len(wrong) == len(names):
        listed = ", ".join(f"`{name}`" for name in wrong)
        whose = f"its only object {listed} is" if len(wrong) == 1 else f"of its objects {listed} each is"
        why = "".join(f"; {reason}" for reason in reasons.values())
        return ObjectNames((f"it changes nothing on this kernel: {whose} {nowhere}{why}",))
    return ObjectNames(
        tuple(f"its object `{name}` is {nowhere}: {why}" for name, why in reasons.items()),
        tuple(f"its object `{name}` is {nowhere}: what it changes there was not tried" for name in absent),
    )


def _why_never(name: str, known: Collection[str], kernel: KernelModules) -> str:
    """Say why no module of that name will come, and which was meant; empty if one may."""
    plain = module_name(name)
    like = plain if plain in known else next(iter(get_close_matches(plain, sorted(known), 1, _LIKE)), "")
    meant = f": did you mean {like}?" if like else ""
    if name == _VMLINUX:
        return "for the kernel itself, klp_object.name is NULL"
    if name.endswith(".ko"):
        return f"klp_object.name is the module's name, without .ko{meant}"
    if name != plain:
        return f"a module's name has underscores where its file has hyphens{meant}"
    if plain in kernel.builtin:
        return (
            f"{plain} is built into this kernel, so that its functions are those of vmlinux (.name = NULL)"
        )
    return f"did you mean {like}?" if like else ""
