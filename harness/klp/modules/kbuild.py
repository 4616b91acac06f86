# SPDX-License-Identifier: Apache-2.0
"""Kbuild, run in a folder of its own inside the kernel's toolchain; modules put where they are wanted."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from klp.errors import BuildFailed, HostLacks, UsageError
from klp.images.kbuild_lines import BUILD_STEPS, count_steps
from klp.images.kconfig import compiler_of, read_config
from klp.images.sandbox import inside
from klp.model import Kernel, Module
from klp.modules.diagnostics import Diagnostics
from klp.modules.modinfo import read_module, release_of
from klp.process import Completed, run
from klp.progress import Progress, counter

# Not TMPDIR: the kernel's Makefile takes no blank, % or colon in M=, and a folder below /tmp can be bound
# into every toolchain root, where /tmp is a tmpfs (images/sandbox.py).
_SCRATCH_PARENT = "/tmp"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Have an empty folder that toolchain roots can see, for the length of a block."""
    with tempfile.TemporaryDirectory(
        prefix="klp-build-", dir=_SCRATCH_PARENT, ignore_cleanup_errors=True
    ) as made:
        yield Path(made)


def built_in(scratch: Path, folder: Path, kernel: Kernel, progress: Progress) -> list[Module]:
    """Run Kbuild in a folder that is all its own, and return the modules that it made there.

    Args:
        folder: what messages name in place of `scratch`.

    Raises:
        BuildFailed: as `build`.
        HostLacks: bubblewrap does not work here.
    """
    diagnostics = Diagnostics(scratch, folder)
    finished = _make(scratch, kernel, count_steps(counter(progress, BUILD_STEPS)))
    _check_sandbox(finished)
    if finished.status:
        raise diagnostics.failure(finished)
    for warning in diagnostics.warnings(finished.stderr):
        progress.note(warning)
    return _built(scratch, folder, kernel)


def _make(scratch: Path, kernel: Kernel, listen: Callable[[str], None]) -> Completed:
    # Without the maps, debug info and __FILE__ would name the scratch folder: two builds of the same
    # sources would differ. GCC tries the last map first: files lose the folder, and the folder becomes ".".
    maps = f"-ffile-prefix-map={scratch}=. -ffile-prefix-map={scratch}/="
    jobs = len(os.sched_getaffinity(0))
    argv = ["make", "-C", str(kernel.build), f"M={scratch}", f"KCFLAGS={maps}", f"-j{jobs}",
            *_compiler(kernel), "modules"]  # fmt: skip
    command = inside(kernel.toolchain, argv, cwd=scratch, writable=[scratch], readable=readable_for(kernel))
    # The user's TMPDIR is passed on to commands, and need not be there inside the toolchain root.
    return run(command, check=False, env={"TMPDIR": "/tmp"}, listen_out=listen)


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


def publish(modules: Iterable[Module], out: Path) -> tuple[Module, ...]:
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
