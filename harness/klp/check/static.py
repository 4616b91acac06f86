# SPDX-License-Identifier: Apache-2.0
"""What can be told of a livepatch without a guest: whether it builds, its .modinfo, and its objects."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from klp.check.objects import ObjectNames, judge_names
from klp.images.kmods import modules_on
from klp.model import Kernel, Module
from klp.modules.functions import objects_of
from klp.modules.modinfo import release_of

# include/linux/license.h: license_is_gpl_compatible(). klp_enable_patch() is EXPORT_SYMBOL_GPL.
_GPL = ("GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL")
# include/linux/module.h: MODULE_NAME_LEN, 64 bytes less a long of 8, and less the byte that ends it.
_LONGEST_NAME = 55


@dataclass(frozen=True, slots=True)
class StaticScenario:
    """A scenario that needs no guest. The engine performs these first; they have no function to drive."""

    name: str
    summary: str
    quick: bool = True
    cpus: None = None


def modinfo(module: Module, kernel: Kernel) -> tuple[str, ...]:
    """Return why this kernel would refuse a module as a livepatch, a line each, from its .modinfo alone."""
    return tuple(_complaints(module, kernel))


def object_names(module: Module, own: Collection[str], kernel: Kernel) -> ObjectNames:
    """Return what is to be said of the modules that a livepatch changes.

    Nothing where they are named only when it is loaded, or the kernel does not list its modules.

    Args:
        own: the modules that its sources gave.

    Raises:
        HostLacks: this host has no tool to read the kernel's list.
    """
    objects, known = objects_of(module), modules_on(kernel)
    if objects is None or known is None:
        return ObjectNames()
    return judge_names(objects, own, known, kernel.release)


def _complaints(module: Module, kernel: Kernel) -> Iterator[str]:
    # Each is refused in its own way: without the mark by klp_enable_patch() with EINVAL, without a licence
    # with ENOENT, for its symbol then counts as unknown (simplify_symbols), and for another kernel with
    # ENOEXEC (check_modinfo; both kernel/module/main.c). An errno alone names none of the three to an
    # author.
    if not module.livepatch:
        yield (
            f'{module.name} is not marked as a livepatch: MODULE_INFO(livepatch, "Y") is missing, and '
            "klp_enable_patch() refuses it with EINVAL"
        )
    if module.licence not in _GPL:
        licence = f"MODULE_LICENSE({module.licence!r})" if module.licence else "no MODULE_LICENSE"
        yield f"{module.name} has {licence}: klp_enable_patch() is exported to GPL-compatible modules only"
    if release_of(module) != kernel.release:
        built_for = release_of(module) or "no kernel it names"
        yield f"vermagic: {module.name} was built for {built_for}, and the kernel is {kernel.release}"
    if len(module.name) > _LONGEST_NAME:
        yield f"its name has {len(module.name)} characters, and a module's may have {_LONGEST_NAME}"


BUILD, MODINFO = "build", "modinfo"
STATIC: dict[str, StaticScenario] = {
    each.name: each
    for each in (
        StaticScenario(BUILD, "Kbuild makes modules of the sources, with the kernel's own compiler"),
        StaticScenario(MODINFO, "licence, livepatch mark, vermagic, length of name, objects"),
    )
}
