# SPDX-License-Identifier: Apache-2.0
"""From the words of a user to the livepatches to be checked, each with its sources and its plan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import msgspec

from klp import paths
from klp.analysis.checked import CheckedLivepatch
from klp.errors import UsageError
from klp.images.kmods import needs_on
from klp.model import Kernel, Module
from klp.modules.build import build
from klp.modules.modinfo import imports, read_module
from klp.modules.plan import LoadedBefore, PatchPlan, as_built, module_name, plain_plan, plans_of
from klp.modules.sources import BuiltModule, ModuleSource, find_source
from klp.modules.tables import changed_modules
from klp.progress import Progress

_ENABLE = "klp_enable_patch"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A livepatch that is to be checked, before it is built.

    Attributes:
        name: what its folder is called; no other livepatch of the check has the same.
        source: what it is made of; several livepatches may share it.
        plan: its `patch.toml`, or None where nobody wrote one.
        alone: whether the source makes this livepatch and no other.
    """

    name: str
    source: ModuleSource
    plan: PatchPlan | None
    alone: bool = True

    @property
    def summary(self) -> CheckedLivepatch:
        """What check.json says of it."""
        return CheckedLivepatch(name=self.name, word=self.source.word, digest=self.source.digest)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A livepatch under check, built for one kernel.

    Attributes:
        name: see `Wanted`.
        plan: what to load before it and what to observe; of the author, or the plainest there is.
        livepatch: its module.
        modules: all that its sources gave, by module name; `livepatch` is among them.
        kernel: what it was built for.
        resident: those of the kernel's own modules that `plan` loads, and what each of them needs.
        implied: those of them that nobody wrote into patch.toml.
    """

    name: str
    plan: PatchPlan
    livepatch: Module
    modules: dict[str, Module]
    kernel: Kernel
    resident: Mapping[str, frozenset[str]] = field(default_factory=dict)
    implied: frozenset[str] = frozenset()


def livepatches_of(words: Sequence[str]) -> tuple[Wanted, ...]:
    """Return the livepatches that words name: one for each plan beside the sources, else one a word.

    Raises:
        UsageError: a word names nothing that can be built.
        SettingsError: a patch.toml is broken.
    """
    found: list[Wanted] = []
    for source in dict.fromkeys(find_source(word) for word in words):
        written = plans_of(source, or_of_the_kernel=True)
        plans = tuple(plan for plan in written if plan.livepatch)
        if written and not plans:
            raise UsageError(
                f"{source.word}: its patch.toml names no livepatch", hint="klp run loads plain modules"
            )
        for plan in plans or (None,):
            name = _unlike(plan.name if plan else Path(source.name).stem, [each.name for each in found])
            found.append(Wanted(name, source, plan, alone=len(plans) < 2))
    return tuple(found)


def _unlike(text: str, taken: Iterable[str]) -> str:
    stem = re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.") or "livepatch"
    return paths.numbered([*taken, stem])[-1]


def modules_of(source: ModuleSource, kernel: Kernel, out: Path, progress: Progress) -> dict[str, Module]:
    """Build sources for a kernel, into `out`; return the modules by name.

    A module that is built already is returned whatever kernel it is for: that is for a check to tell.

    Raises:
        BuildFailed: the compiler refused the sources.
        UsageError: they cannot be read, or this kernel comes without them.
    """
    if isinstance(source, BuiltModule):
        return {each.name: each for each in (read_module(source.file),)}
    return {each.name: each for each in build(source, kernel, out, progress)}


def candidate(which: Wanted, kernel: Kernel, modules: dict[str, Module]) -> Candidate:
    """Return a livepatch with the modules that its sources gave.

    A module without the mark of a livepatch is taken as one all the same if it calls klp_enable_patch():
    that it is refused is what a check tells.

    Raises:
        UsageError: no module among them is the livepatch, or several may be.
    """
    plan = which.plan or plain_plan(_only_livepatch(which, modules), modules.values(), which.source.word)
    livepatch = modules.get(module_name(plan.livepatch))
    if livepatch is None:
        built = ", ".join(modules)
        raise UsageError(f"{which.source.word}: no module {plan.livepatch} among those built ({built})")
    one = Candidate(which.name, as_built(plan, livepatch), livepatch, modules, kernel)
    return with_kernel_modules(one, kernel_needs(kernel))


@cache
def kernel_needs(kernel: Kernel) -> Mapping[str, frozenset[str]]:
    """Return what each loadable module of a kernel needs; nothing where the kernel does not list them.

    Raises:
        HostLacks: there is no debugfs(8) here.
    """
    return needs_on(kernel)


def with_kernel_modules(one: Candidate, needs: Mapping[str, frozenset[str]]) -> Candidate:
    """Return a livepatch whose plan loads the kernel's modules that it changes or uses, before all else.

    As modprobe would for what is used (``depends=``). What is changed could come later, or never: but then
    nothing of it would be seen. What the sources made themselves is loaded as the author says.

    Args:
        needs: the kernel's loadable modules, and what each needs.
    """
    named = {module_name(each.module) for each in one.plan.load}
    users = [one.livepatch, *(one.modules[name] for name in named if name in one.modules)]
    wanted = {
        *changed_modules(one.livepatch, one.kernel),
        *(module_name(name) for user in users for name in user.depends),
    }
    missing = {name for name in wanted if name in needs} - named - one.modules.keys()
    # What others need comes before them; by name where it does not matter, for every check to be alike.
    order = sorted(missing, key=lambda name: (len(needs[name]), name))
    load = (*(LoadedBefore(module=name) for name in order), *one.plan.load)
    resident = {name: needs[name] for name in (*order, *sorted(named)) if name in needs}
    return replace(
        one,
        plan=msgspec.structs.replace(one.plan, load=load),
        resident={name: each for name, each in resident.items() if name not in one.modules},
        implied=frozenset(missing),
    )


def _only_livepatch(which: Wanted, modules: dict[str, Module]) -> Module:
    livepatches = [each for each in modules.values() if each.livepatch or _ENABLE in imports(each.file)]
    if len(livepatches) != 1:
        raise UsageError(
            f"{which.source.word}: {len(livepatches) or 'no'} livepatches among its modules "
            f"({', '.join(modules)})",
            hint='a patch.toml beside the sources says which one is meant: livepatch = "NAME"',
        )
    return livepatches[0]
