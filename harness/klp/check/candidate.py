# SPDX-License-Identifier: Apache-2.0
"""From the words of a user to the livepatches to be checked, each with its sources and its plan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from klp import paths
from klp.analysis.checked import CheckedLivepatch
from klp.errors import UsageError
from klp.model import Kernel, Module
from klp.modules.build import build
from klp.modules.modinfo import imports, read_module
from klp.modules.plan import PatchPlan, as_built, module_name, plain_plan, plans_of
from klp.modules.sources import BuiltModule, ModuleSource, find_source
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
    """

    name: str
    plan: PatchPlan
    livepatch: Module
    modules: dict[str, Module]
    kernel: Kernel


def livepatches_of(words: Sequence[str]) -> tuple[Wanted, ...]:
    """Return the livepatches that words name: one for each plan beside the sources, else one a word.

    Raises:
        UsageError: a word names nothing that can be built.
        SettingsError: a patch.toml is broken.
    """
    found: list[Wanted] = []
    for source in dict.fromkeys(find_source(word) for word in words):
        written = plans_of(source)
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
    return Candidate(which.name, as_built(plan, livepatch), livepatch, modules, kernel)


def _only_livepatch(which: Wanted, modules: dict[str, Module]) -> Module:
    livepatches = [each for each in modules.values() if each.livepatch or _ENABLE in imports(each.file)]
    if len(livepatches) != 1:
        raise UsageError(
            f"{which.source.word}: {len(livepatches) or 'no'} livepatches among its modules "
            f"({', '.join(modules)})",
            hint='a patch.toml beside the sources says which one is meant: livepatch = "NAME"',
        )
    return livepatches[0]
