# SPDX-License-Identifier: Apache-2.0
"""From sources of any kind to modules for one kernel."""

from __future__ import annotations

import shutil
from pathlib import Path

from klp.errors import UsageError
from klp.model import Kernel, Module
from klp.modules.kbuild import built_in, publish, scratch_folder
from klp.modules.made import made_modules
from klp.modules.modinfo import check_loadable, read_module
from klp.modules.module_cache import ModuleCache
from klp.modules.patchfile import SourcePatch
from klp.modules.recipe import Recipe, recipe_for
from klp.modules.sources import BuiltModule, ModuleSource
from klp.progress import Progress

_BUILT_BEFORE = shutil.ignore_patterns(
    "*.ko", "*.o", "*.mod", "*.mod.c", "*.cmd", "modules.order", "Module.symvers", ".git",
    ".tmp_versions",
)  # fmt: skip


def build(
    source: ModuleSource, kernel: Kernel, out: Path, progress: Progress, cache: ModuleCache | None = None
) -> tuple[Module, ...]:
    """Make `source` into modules for `kernel`, and put them into the folder `out`.

    A module already in `out` is replaced whole, and only once everything was built.

    Args:
        cache: where the same may have been built before, and is kept if not; Kbuild's warnings are told
            only when it runs.

    Returns:
        The modules in `out`, by file name.

    Raises:
        BuildFailed: Kbuild or the compiler refused the sources; has the compiler's own lines.
        NotALivepatch: a module that was built elsewhere is for another kernel, or damaged.
        UsageError: the sources cannot be read, or `out` cannot be a folder.
        HostLacks: bubblewrap does not work here, or `out` cannot be written.
    """
    recipe = recipe_for(source, kernel)
    match recipe:
        case BuiltModule():
            module = read_module(recipe.file)
            check_loadable(module, kernel)
            return publish([module], out)
        case SourcePatch():
            return tuple(each.module for each in made_modules(recipe, kernel, out, progress))
        case Recipe():
            return build_recipe(source.name, recipe, kernel, out, progress=progress, cache=cache)


def build_recipe(
    name: str,
    recipe: Recipe,
    kernel: Kernel,
    out: Path,
    *,
    progress: Progress,
    cache: ModuleCache | None = None,
) -> tuple[Module, ...]:
    """Build what a recipe says, and put the modules into `out`; see `build`.

    Args:
        name: what is built, for progress and messages.
    """
    with (
        progress.step(f"building {name} for {kernel.release}"),
        scratch_folder() as scratch,
    ):
        _copy(recipe, scratch)
        place = cache.place(scratch, kernel) if cache else None
        if cache and (files := cache.files(place)):
            return publish([read_module(file) for file in files], out)
        modules = built_in(scratch, recipe.folder, kernel, progress)
        if cache:
            cache.keep(modules, place)
        return publish(modules, out)


def _copy(recipe: Recipe, scratch: Path) -> None:
    try:
        for file in recipe.files:
            shutil.copy(recipe.folder / file, scratch / file)
        if not recipe.files:
            shutil.copytree(
                recipe.folder, scratch, ignore=_left_behind, copy_function=shutil.copy, dirs_exist_ok=True
            )
    except shutil.Error as error:  # copytree copies what it can, then raises one error with a list
        first, _, reason = error.args[0][0]
        raise UsageError(f"{first}: {reason}") from None
    except OSError as error:
        raise UsageError(f"{error.filename or recipe.folder}: {error.strerror or error}") from None
    # copytree copies modes too, and sources may be read-only: a package's, a store's, a cache's.
    for folder in (scratch, *(each for each in scratch.rglob("*") if each.is_dir())):
        folder.chmod(0o755)
    if recipe.kbuild:
        (scratch / "Kbuild").unlink(missing_ok=True)
        (scratch / "Kbuild").write_text(recipe.kbuild, encoding="utf-8")


def _left_behind(folder: str, names: list[str]) -> set[str]:
    # Not copytree's ignore_dangling_symlinks, which resolves a relative link from the current folder.
    dangling = {name for name in names if not Path(folder, name).exists()}
    return _BUILT_BEFORE(folder, names) | dangling
