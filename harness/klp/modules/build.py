# SPDX-License-Identifier: Apache-2.0
"""Kbuild in a scratch copy of the sources, inside the kernel's own toolchain."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from klp.errors import BuildFailed, HostLacks, UsageError
from klp.images.kconfig import compiler_of, read_config
from klp.images.sandbox import inside
from klp.model import Kernel, Module
from klp.modules.diagnostics import Diagnostics
from klp.modules.modinfo import check_loadable, read_module, release_of
from klp.modules.module_cache import ModuleCache
from klp.modules.recipe import Recipe, recipe_for
from klp.modules.sources import BuiltModule, ModuleSource
from klp.process import Completed, run
from klp.progress import Progress

# Not TMPDIR: the kernel's Makefile takes no blank, % or colon in M=, and a folder below /tmp can be bound
# into every toolchain root, where /tmp is a tmpfs (images/sandbox.py).
_SCRATCH_PARENT = "/tmp"
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
    if isinstance(recipe, BuiltModule):
        module = read_module(recipe.file)
        check_loadable(module, kernel)
        return _publish([module], out)
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
        tempfile.TemporaryDirectory(
            prefix="klp-build-", dir=_SCRATCH_PARENT, ignore_cleanup_errors=True
        ) as made,
    ):
        scratch = Path(made)
        _copy(recipe, scratch)
        place = cache.place(scratch, kernel) if cache else None
        if cache and (files := cache.files(place)):
            return _publish([read_module(file) for file in files], out)
        diagnostics = Diagnostics(scratch, recipe.folder)
        finished = _make(scratch, kernel)
        _check_sandbox(finished)
        for warning in diagnostics.warnings(finished.stderr):
            progress.note(warning)
        if finished.status:
            raise diagnostics.failure(finished)
        modules = _built(scratch, recipe.folder, kernel)
        if cache:
            cache.keep(modules, place)
        return _publish(modules, out)


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


def _make(scratch: Path, kernel: Kernel) -> Completed:
    # Without the maps, debug info and __FILE__ would name the scratch folder: two builds of the same
    # sources would differ. GCC tries the last map first: files lose the folder, and the folder becomes ".".
    maps = f"-ffile-prefix-map={scratch}=. -ffile-prefix-map={scratch}/="
    jobs = len(os.sched_getaffinity(0))
    argv = ["make", "-C", str(kernel.build), f"M={scratch}", f"KCFLAGS={maps}", f"-j{jobs}",
            *_compiler(kernel), "modules"]  # fmt: skip
    command = inside(kernel.toolchain, argv, cwd=scratch, writable=[scratch], readable=readable_for(kernel))
    # The user's TMPDIR is passed on to commands, and need not be there inside the toolchain root.
    return run(command, check=False, env={"TMPDIR": "/tmp"})


def _compiler(kernel: Kernel) -> list[str]:
    """Return the argument that names the compiler.

    Debian's headers name it themselves; a tree's makefiles take `gcc`, and a toolchain root has no
    compiler without a version in its name.
    """
    if kernel.tree is None:
        return []
    return [f"CC={compiler_of(read_config(kernel.tree / '.config'))}"]


def readable_for(kernel: Kernel) -> list[Path]:
    """Return the folders beside its toolchain that building for `kernel` reads."""
    if kernel.tree is None:
        return []
    source = kernel.tree / "source"  # what O= leaves in an output folder
    there = source.resolve()
    apart = source.is_symlink() and there.is_dir() and not there.is_relative_to(kernel.tree)
    return [kernel.tree, there] if apart else [kernel.tree]


def _check_sandbox(finished: Completed) -> None:
    """Tell bubblewrap's own failures from those of what it ran."""
    line = finished.stderr.strip().partition("\n")[0]
    if finished.status and line.startswith("bwrap: "):
        raise HostLacks(
            f"the build sandbox does not work here: {line.removeprefix('bwrap: ')}",
            hint="klp doctor says what to allow",
        )


def _built(scratch: Path, folder: Path, kernel: Kernel) -> list[Module]:
    modules = [read_module(file) for file in sorted(scratch.rglob("*.ko"))]
    if not modules:
        raise BuildFailed(
            f"{folder}: Kbuild made no module of it", output="",
            hint="an obj-$(CONFIG_…) line builds only where the kernel has the option as m; "
            "write obj-m",
        )  # fmt: skip
    for module in modules:
        if release_of(module) != kernel.release:
            raise BuildFailed(
                f"{folder}: {module.name} came out built for {release_of(module)}, "
                f"not for {kernel.release}", output="",
                hint=f"rebuild the kernel in {kernel.build}, and its modules with it",
            )  # fmt: skip
    return modules


def _publish(modules: Iterable[Module], out: Path) -> tuple[Module, ...]:
    """Put modules into `out`: all are copied before the first is put in its place.

    So a full disk costs no module of an earlier build.
    """
    published = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".klp-", dir=out) as staging:
            pairs = [(each, Path(staging, each.file.name)) for each in modules]
            for module, staged in pairs:
                shutil.copyfile(module.file, staged)
            for module, staged in pairs:
                final = out / staged.name
                staged.replace(final)
                published.append(dataclasses.replace(module, file=final))
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise UsageError(f"{error.filename}: in the way of the modules ({error.strerror})") from None
    except OSError as error:
        raise HostLacks(f"{out}: cannot be written ({error.strerror})") from None
    return tuple(published)
