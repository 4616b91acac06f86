# SPDX-License-Identifier: Apache-2.0
"""From what a user names to a job: sources built, plans read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from klp import paths
from klp.errors import NotALivepatch, UsageError
from klp.model import Image, Kernel, Module
from klp.modules.build import build
from klp.modules.modinfo import check_loadable
from klp.modules.plan import Load, PatchPlan, read_plan, read_plans
from klp.modules.sources import ModuleSource, find_source
from klp.progress import Progress

SAMPLES = "samples"
_PLAN_FILE = "patch.toml"


@dataclass(frozen=True, slots=True)
class Job:
    """What a run does: plans, the modules they name (by module name), and the image they run on."""

    image: Image
    plans: tuple[PatchPlan, ...]
    modules: dict[str, Module]


def plans_of(words: Sequence[str]) -> tuple[PatchPlan, ...]:
    """Return the plans that can be told before anything is built: for ``--dry-run``."""
    return tuple(plan for word in words for plan in _written_plans(word))


def _written_plans(word: str) -> tuple[PatchPlan, ...]:
    """Return the plans that stand in a file beside the sources; none where the author wrote none."""
    if word == SAMPLES:
        return read_plans(paths.SAMPLE_PLANS)
    # As find_source does: what is there under that name comes before a folder of patches/.
    folder = Path(word) if Path(word).exists() else paths.PATCHES / word
    return (read_plan(folder / _PLAN_FILE),) if (folder / _PLAN_FILE).is_file() else ()


def check_words(words: Sequence[str]) -> None:
    """Look at what `words` name as far as that can be done before there is a kernel.

    Raises:
        UsageError: a word names nothing that could be built.
        SettingsError: a plan beside the sources is broken.
    """
    for word in words:
        if word != SAMPLES:
            find_source(word, None)
    plans_of(words)


def make_job(words: Sequence[str], image: Image, out: Path, progress: Progress) -> Job:
    """Build what `words` name for the image's kernel, and gather its plans.

    Args:
        words: folders, .c files, .ko files, names of patches/, or ``samples``.
        out: where the modules go.

    Raises:
        UsageError: a word names nothing that can be built, two give modules of one name, …
        BuildFailed: the compiler refused the sources.
        NotALivepatch: a built module cannot be loaded on this kernel.
    """
    modules: dict[str, Module] = {}
    plans: list[PatchPlan] = []
    for word in words:
        built = _modules(find_source(word, image.kernel), image.kernel, out, progress)
        for module in built:
            if module.name in modules:
                raise UsageError(f"{word}: a second module called {module.name}", hint="rename one")
            modules[module.name] = module
        plans += _written_plans(word) or _plain_plans(word, built)
    wanted = tuple(plan for plan in plans if not plan.kernels or image.name in plan.kernels)
    if not wanted:
        raise UsageError(f"nothing here is for kernel {image.name}", hint="see kernels in patch.toml")
    return Job(image, wanted, modules)


def _modules(source: ModuleSource, kernel: Kernel, out: Path, progress: Progress) -> tuple[Module, ...]:
    built = build(source, kernel, out, progress)
    for module in built:
        check_loadable(module, kernel)
    return built


def _plain_plans(word: str, built: Sequence[Module]) -> list[PatchPlan]:
    """Return a plan for each livepatch without one: load, disable, unload, with the rest loaded before."""
    livepatches = [module for module in built if module.livepatch]
    if not livepatches:
        raise NotALivepatch(
            f"{word}: no livepatch among its modules ({', '.join(each.name for each in built)})",
            hint='a livepatch says MODULE_INFO(livepatch, "Y"); see docs/architecture.md',
        )
    others = tuple(Load(module=module.name) for module in built if not module.livepatch)
    return [
        PatchPlan(
            name=module.name.replace("_", "-"), summary=f"from {word}", livepatch=module.name, load=others
        )
        for module in livepatches
    ]
