# SPDX-License-Identifier: Apache-2.0
"""From a source patch to its modules: made once for a kernel, and kept with what was said of them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from klp.errors import BuildFailed
from klp.model import Kernel, Module
from klp.modules.kbuild import built_in, publish, scratch_folder
from klp.modules.modinfo import read_module
from klp.modules.module_cache import ModuleCache
from klp.modules.patchfile import SourcePatch, files_of
from klp.paths import CacheLayout
from klp.progress import Progress
from klp.settings import load
from klp.sourcepatch.layers import Layer
from klp.sourcepatch.linking import finish, refused_by_modpost
from klp.sourcepatch.making import make
from klp.sourcepatch.prepared import prepared_tree
from klp.sourcepatch.report import REPORT, Made, read_report, write_report

# Raised whenever the same patches are refused, or made, in another way: what was made before is then made
# anew, and judged anew.
_RECIPE = 1


@dataclass(frozen=True, slots=True)
class MadeModule:
    """A livepatch that was made of a source patch.

    Attributes:
        made: what it changes, and how.
    """

    module: Module
    made: Made


def made_modules(
    source: SourcePatch, kernel: Kernel, out: Path, progress: Progress, *, keep: Path | None = None
) -> tuple[MadeModule, ...]:
    """Make the livepatches of a source patch for `kernel`, and put them into the folder `out`.

    Args:
        keep: a folder for the sources that Kbuild is given, each livepatch's in a folder of its name; None
            where they are not wanted.

    Raises:
        PatchRefused: a livepatch cannot do what the patch does.
        BuildFailed: the compiler refused the patched source.
        HostLacks: the kernel's source cannot be had; bubblewrap does not work here.
    """
    return tuple(_made(each, kernel, out, progress, keep) for each in source.layers)


def _made(layer: Layer, kernel: Kernel, out: Path, progress: Progress, keep: Path | None) -> MadeModule:
    cache = ModuleCache(CacheLayout(kernel.cache).modules) if kernel.cache else None
    with scratch_folder() as asked, scratch_folder() as folder, scratch_folder() as work:
        _write_asked(layer, asked)
        place = cache.place(asked, kernel) if cache else None
        if cache and place and not keep and (kept := cache.files(place)):
            [module] = publish([read_module(file) for file in kept], out)
            return MadeModule(module, read_report(place / REPORT))
        with progress.step(f"making {layer.file} for {kernel.release}"):
            tree = prepared_tree(kernel, progress)
            made = make(layer, tree, folder, work, progress, header_limit=load().header_units)
            if keep:
                shutil.copytree(folder, keep / layer.file)
            with progress.step("linking"):
                module = _linked(folder, layer, kernel, progress)
                finish(module.file, tree)
        write_report(made, folder / REPORT)
        if cache:
            cache.keep([module], place, beside=[folder / REPORT])
        [module] = publish([read_module(module.file)], out)
        return MadeModule(module, made)


def _linked(folder: Path, layer: Layer, kernel: Kernel, progress: Progress) -> Module:
    try:
        [module] = built_in(folder, layer.patches[-1], kernel, progress)
    except BuildFailed as failure:
        raise (refused_by_modpost(failure) or failure) from None
    return module


def _write_asked(layer: Layer, into: Path) -> None:
    """Write all that a livepatch depends on, beside the kernel: what is kept goes by it."""
    for number, file in enumerate(files_of([layer], None)):
        shutil.copyfile(file, into / f"{number}-{file.name}")
    (into / "layer").write_text(repr((_RECIPE, layer.file, layer.states, layer.replace)))
