# SPDX-License-Identifier: Apache-2.0
"""From the words of a user to a job: sources found, plans read, modules built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from klp.errors import NotALivepatch, UsageError
from klp.model import Image, Module
from klp.modules.build import build
from klp.modules.modinfo import check_loadable
from klp.modules.plan import PatchPlan, as_built, module_name, plain_plan, plans_of
from klp.modules.sources import ModuleSource, find_source
from klp.progress import Progress


@dataclass(frozen=True, slots=True)
class Job:
    """What a run does: plans, the modules they name (by module name), and the image they run on."""

    image: Image
    plans: tuple[PatchPlan, ...]
    modules: dict[str, Module]


@dataclass(frozen=True, slots=True)
class Wish:
    """What one word of the user's stands for, as far as that is known without a kernel.

    Attributes:
        plans: those that stand beside the sources.
    """

    source: ModuleSource
    plans: tuple[PatchPlan, ...]


def wishes(words: Sequence[str]) -> tuple[Wish, ...]:
    """Look at what words name as far as that can be done before there is a kernel.

    Raises:
        UsageError: a word names nothing that could be built.
        SettingsError: a plan beside the sources is broken.
    """
    sources = [find_source(word) for word in words]
    return tuple(Wish(each, plans_of(each, sources)) for each in sources)


def make_job(wanted: Sequence[Wish], image: Image, out: Path, progress: Progress) -> Job:
    """Build what was wished for, for the image's kernel, and gather its plans.

    Args:
        out: where the modules go.

    Raises:
        UsageError: two sources give modules of one name, this kernel comes without samples, …
        BuildFailed: the compiler refused the sources.
        NotALivepatch: a built module cannot be loaded on this kernel.
    """
    modules: dict[str, Module] = {}
    plans: list[PatchPlan] = []
    for each in wanted:
        built = build(each.source, image.kernel, out, progress)
        for module in built:
            check_loadable(module, image.kernel)
            if module.name in modules:
                raise UsageError(
                    f"{each.source.word}: a second module called {module.name}", hint="rename one"
                )
            modules[module.name] = module
        plans += each.plans or _plain_plans(each.source.word, built)
    own = tuple(plan for plan in plans if plan.is_for(image.name))
    if not own:
        raise UsageError(f"nothing here is for kernel {image.name}", hint="see kernels in patch.toml")
    own = tuple(
        as_built(plan, modules[name]) if (name := module_name(plan.livepatch)) in modules else plan
        for plan in own
    )
    return Job(image, own, modules)


def _plain_plans(word: str, built: Sequence[Module]) -> list[PatchPlan]:
    """Return a plan for each livepatch without one: load, disable, unload, with the rest loaded before."""
    livepatches = [module for module in built if module.livepatch]
    if not livepatches:
        raise NotALivepatch(
            f"{word}: no livepatch among its modules ({', '.join(each.name for each in built)})",
            hint='a livepatch says MODULE_INFO(livepatch, "Y"), as patches/version-banner does',
        )
    return [plain_plan(each, built, word) for each in livepatches]
