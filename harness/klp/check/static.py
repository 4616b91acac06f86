# SPDX-License-Identifier: Apache-2.0
"""What can be told of a livepatch without a guest: whether it builds, and what its file says of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from klp import arch
from klp.check.candidate import Candidate
from klp.check.entries import LONGEST_MODULE, entry_faults
from klp.check.objects import ObjectNames, judge_names
from klp.errors import HostLacks
from klp.images.kmods import KernelModules, modules_on
from klp.model import Kernel, Module
from klp.modules.modinfo import can_be_removed, release_of
from klp.modules.replaceable import why_unchangeable
from klp.modules.tables import KlpSymbol, LivepatchTables, ObjectEntry, klp_symbols, tables_of
from klp.sourcepatch.shipped import ShippedKernel, ShippedObject, module_object
from klp.sourcepatch.values import VMLINUX

# include/linux/license.h: license_is_gpl_compatible(). klp_enable_patch() is EXPORT_SYMBOL_GPL.
_GPL = ("GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL")
# What the kernel reads as the livepatch is loaded, before the klp relocations of a module that is not there
# are applied.
_READ_AT_ONCE = {
    "__jump_table": "static keys",
    ".static_call_sites": "static calls",
    "__tracepoints_ptrs": "tracepoints",
}


@dataclass(frozen=True, slots=True)
class StaticScenario:
    """A scenario that needs no guest. The engine performs these first; they have no function to drive."""

    name: str
    summary: str
    quick: bool = True
    cpus: None = None


def static_faults(one: Candidate) -> ObjectNames:
    """Return why the kernel would refuse a livepatch, or not see what it is to do, by its file alone.

    Raises:
        HostLacks: this host has no tool to read the kernel's modules.
    """
    module, kernel = one.livepatch, one.kernel
    reasons = [*modinfo_faults(module, kernel), *_without_exit(one)]
    # Of a module for another kernel nothing more can be said: its structures may be laid out otherwise.
    if release_of(module) != kernel.release:
        return ObjectNames(tuple(reasons))
    try:
        tables = tables_of(module, kernel)
    except HostLacks as lacks:
        return ObjectNames(tuple(reasons), (f"its structures were not read: {lacks.message}",))
    for each in tables:
        reasons += entry_faults(each)
    names = _names(one, tables)
    reasons += names.faults
    reasons += _unchangeable(one, tables)
    reasons += _symbols_elsewhere(one)
    return ObjectNames(tuple(dict.fromkeys(reasons)), names.notes)


def modinfo_faults(module: Module, kernel: Kernel) -> tuple[str, ...]:
    """Return why this kernel would refuse a module as a livepatch, by its .modinfo alone."""
    return tuple(_complaints(module, kernel))


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
    if len(module.name) > LONGEST_MODULE:
        yield f"its name has {len(module.name)} characters, and a module's may have {LONGEST_MODULE}"


def _without_exit(one: Candidate) -> Iterator[str]:
    if not one.plan.stays and not can_be_removed(one.livepatch.file):
        yield (
            f"{one.livepatch.name} has no module_exit(): the kernel never removes a module with an init "
            'function and no exit function; if it is to stay, patch.toml can say so: stays = "REASON"'
        )


def _names(one: Candidate, tables: tuple[LivepatchTables, ...]) -> ObjectNames:
    entries = [each for table in tables for each in table.objects or ()]
    known = _modules(one.kernel)
    if known is None:
        return ObjectNames()
    names = tuple(dict.fromkeys(each.name for each in entries if each.name))
    vmlinux = any(each.name is None for each in entries)
    return judge_names(names, one.modules, known, one.kernel.release, vmlinux=vmlinux)


def _unchangeable(one: Candidate, tables: tuple[LivepatchTables, ...]) -> Iterator[str]:
    """Yield the functions that are none, or that the kernel cannot redirect."""
    for table in tables:
        for entry in table.objects or ():
            if entry.functions and (shipped := _shipped(one, entry)):
                for each in entry.functions:
                    if each.old and (why := why_unchangeable(one.kernel, shipped, each.old, each.position)):
                        yield f"{each.old[:60]} of {entry.shown}: {why}"


def _symbols_elsewhere(one: Candidate) -> Iterator[str]:
    """Yield the symbols of klp relocations that their objects do not have so (klp_resolve_symbols)."""
    for each in klp_symbols(one.livepatch):
        if special := _READ_AT_ONCE.get(each.section) if each.object != VMLINUX else None:
            yield (
                f"its new code uses {special} of {each.object} ({each.section}): the kernel reads those as "
                f"the livepatch is loaded, before it knows where {each.object} is"
            )
        shipped = _shipped(one, ObjectEntry(_name_of(each), (), ended=True, callbacks=()))
        if each.name and shipped and (why := _unresolved(shipped, each)):
            yield f"a klp relocation names {each.name} of {each.object}: {why}"


def _unresolved(shipped: ShippedObject, symbol: KlpSymbol) -> str:
    number = len(shipped.named(symbol.name))
    if not number:
        return f"{shipped.name} has no symbol of that name"
    if not symbol.position and number > 1:
        return f"{shipped.name} has {number} of that name, and it says no position"
    return f"at position {symbol.position}, of {number}" if symbol.position > number else ""


def _name_of(symbol: KlpSymbol) -> str | None:
    return None if symbol.object == VMLINUX else symbol.object


def _shipped(one: Candidate, entry: ObjectEntry) -> ShippedObject | None:
    """Return what an object has; None of one that is neither the kernel's nor of the sources."""
    if entry.name in one.modules:
        architecture = arch.of(one.kernel.architecture)
        return module_object(entry.name, one.modules[entry.name].file.read_bytes(), architecture)
    known = _modules(one.kernel)
    if entry.name is None or (known and entry.name in known.loadable):
        return _kernel(one.kernel).object(entry.shown)
    return None


# The symbols of one kernel, as Python has them, take some 40 MB, and to unpack them two seconds.
@lru_cache(maxsize=2)
def _kernel(kernel: Kernel) -> ShippedKernel:
    return ShippedKernel(kernel)


@lru_cache(maxsize=8)
def _modules(kernel: Kernel) -> KernelModules | None:
    return modules_on(kernel)


BUILD, STATIC_READ = "build", "static"
STATIC: dict[str, StaticScenario] = {
    each.name: each
    for each in (
        StaticScenario(BUILD, "Kbuild makes modules of the sources, with the kernel's own compiler"),
        StaticScenario(
            STATIC_READ, "what its file says: licence, mark, structures, objects, functions, symbols"
        ),
    )
}
