# SPDX-License-Identifier: Apache-2.0
"""What a user asks to be checked: words to livepatches, each with plan, digest and modules."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from klp.analysis.checked import CheckedLivepatch
from klp.drive.job import plans_of
from klp.errors import UsageError
from klp.model import Kernel, Module
from klp.modules.build import build
from klp.modules.modinfo import imports, read_module
from klp.modules.plan import Load, PatchPlan, module_name
from klp.modules.sources import SAMPLES_WORD, find_source
from klp.progress import Progress

# What Kbuild leaves behind in a folder is no source.
_LEFT_BEHIND = (".o", ".ko", ".mod", ".mod.c", ".cmd", ".symvers", ".order")
_ENABLE = "klp_enable_patch"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A livepatch that is to be checked, before it is built.

    Attributes:
        name: one path component, unlike that of any other; what its folder is called.
        word: what the user called it.
        plan: its `patch.toml`, or None where nobody wrote one.
        digest: of its sources.
        alone: whether the word stands for this livepatch and no other.
    """

    name: str
    word: str
    plan: PatchPlan | None
    digest: str
    alone: bool = True

    @property
    def told(self) -> CheckedLivepatch:
        """Return it as check.json has it."""
        return CheckedLivepatch(name=self.name, word=self.word, digest=self.digest)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A livepatch under check, built for one kernel.

    Attributes:
        name: see `Wanted`.
        word: what the user called it.
        plan: what to load before it and what to observe; of the author, or the plainest there is.
        livepatch: its module.
        modules: all that its sources gave, by module name; `livepatch` is among them.
        kernel: what it was built for.
        alone: whether the word stands for this livepatch and no other.
    """

    name: str
    word: str
    plan: PatchPlan
    livepatch: Module
    modules: dict[str, Module]
    kernel: Kernel
    alone: bool


def wanted(words: Sequence[str]) -> tuple[Wanted, ...]:
    """Return the livepatches that words name: one for each plan beside the sources, else one a word.

    Raises:
        UsageError: a word names nothing that can be built.
        SettingsError: a patch.toml is broken.
    """
    found: list[Wanted] = []
    for word in dict.fromkeys(words):
        source = find_source(word, None)
        digest = digest_of(word)
        plans = tuple(plan for plan in plans_of((word,)) if plan.livepatch)
        if plans_of((word,)) and not plans:
            raise UsageError(
                f"{word}: its patch.toml names no livepatch", hint="klp run loads plain modules"
            )
        for plan in plans or (None,):
            name = _unlike(plan.name if plan else Path(source.name).stem, [each.name for each in found])
            found.append(Wanted(name, word, plan, digest, alone=len(plans) < 2))
    return tuple(found)


def _unlike(text: str, taken: Iterable[str]) -> str:
    stem = re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.") or "livepatch"
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 10000))
    return next(each for each in names if each not in taken)


def digest_of(word: str) -> str:
    """Return a digest of the sources that a word names; upstream's samples belong to their kernel.

    Raises:
        UsageError: they cannot be read.
    """
    if word == SAMPLES_WORD:
        return SAMPLES_WORD
    source = find_source(word, None)
    if source.module is not None:
        files = [source.module]
    elif source.files:
        files = [source.folder / name for name in source.files]
    else:
        files = [each for each in sorted(source.folder.rglob("*")) if _is_source(each)]
    told = hashlib.sha256()
    try:
        for file in files:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            told.update(f"{file.relative_to(source.folder)} {content}\n".encode())
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from None
    return told.hexdigest()


def _is_source(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and not file.name.endswith(_LEFT_BEHIND)


def absolute(word: str) -> str:
    """Return a word that means the same from any folder."""
    return str(Path(word).absolute()) if word != SAMPLES_WORD and Path(word).exists() else word


def modules_of(word: str, kernel: Kernel, out: Path, progress: Progress) -> dict[str, Module]:
    """Build what a word names for a kernel, into `out`; return the modules by name.

    A module that is built already is returned whatever kernel it is for: that is for a check to tell.

    Raises:
        BuildFailed: the compiler refused the sources.
        UsageError: they cannot be read, or this kernel comes without them.
    """
    source = find_source(word, kernel)
    if source.module is not None:
        return {each.name: each for each in (read_module(source.module),)}
    return {each.name: each for each in build(source, kernel, out, progress)}


def candidate(which: Wanted, kernel: Kernel, modules: dict[str, Module]) -> Candidate:
    """Return a livepatch with the modules that its sources gave.

    A module without the mark of a livepatch is taken as one all the same if it calls klp_enable_patch():
    that it is refused is what a check tells.

    Raises:
        UsageError: no module among them is the livepatch, or several may be.
    """
    plan = which.plan or _plain_plan(which, modules)
    livepatch = modules.get(module_name(plan.livepatch))
    if livepatch is None:
        told = ", ".join(modules)
        raise UsageError(f"{which.word}: no module {plan.livepatch} among those built ({told})")
    return Candidate(which.name, which.word, plan, livepatch, modules, kernel, which.alone)


def _plain_plan(which: Wanted, modules: dict[str, Module]) -> PatchPlan:
    """Return the plan of a livepatch whose author wrote none: what else was built is loaded before it."""
    livepatches = [each for each in modules.values() if each.livepatch or _ENABLE in imports(each.file)]
    if len(livepatches) != 1:
        told = ", ".join(modules)
        raise UsageError(
            f"{which.word}: {len(livepatches) or 'no'} livepatches among its modules ({told})",
            hint='a patch.toml beside the sources says which one is meant: livepatch = "NAME"',
        )
    [one] = livepatches
    others = tuple(Load(module=name) for name in modules if name != one.name)
    return PatchPlan(name=which.name, summary=f"from {which.word}", livepatch=one.name, load=others)
