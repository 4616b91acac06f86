# SPDX-License-Identifier: Apache-2.0
"""The livepatch selftests of a kernel's own source, made ready for a guest.

Upstream's Makefile builds on the machine under test. Here it is done on the host: the test modules and the
programs that scripts call are built in the kernel's toolchain, and all goes into one archive.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from klp.analysis.selftest_output import PlannedCase, planned_cases
from klp.errors import BuildFailed, UnknownName, UsageError
from klp.images import source
from klp.images.kconfig import compiler_of, read_config
from klp.images.sandbox import inside
from klp.model import Kernel, Module
from klp.modules.build import build_recipe
from klp.modules.kbuild import readable_for
from klp.modules.recipe import Recipe, every_module
from klp.process import run
from klp.progress import Progress

# On 6.1 the test modules are part of the kernel's own lib/, and found by modprobe; on 6.12 and 7.2 the
# scripts load them as files of the folder beside them.
_OLD_MODULES = "lib/livepatch"
_MODULES = "test_modules"
_PROGRAMS = re.compile(r"^TEST_PROGS\s*[:+]?=\s*(.*)$", re.MULTILINE)
_FOLDER = "selftests"


@dataclass(frozen=True, slots=True)
class Script:
    """A selftest script: its file, and the cases its text has."""

    name: str
    file: Path
    cases: tuple[PlannedCase, ...]


@dataclass(frozen=True, slots=True)
class Selftests:
    """The selftests in a kernel's source.

    Attributes:
        folder: tools/testing/selftests/livepatch.
        modules: folder of the test modules' sources.
        by_modprobe: the scripts load their modules by modprobe, not by insmod of a file.
    """

    folder: Path
    modules: Path
    by_modprobe: bool
    scripts: tuple[Script, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """What goes into a guest: an archive, the folder it unpacks to, and the modules in it."""

    archive: Path
    folder: str
    modules: tuple[Module, ...]


def find_selftests(kernel: Kernel, wanted: Sequence[str] = ()) -> Selftests:
    """Return a kernel's selftests: all of its Makefile's, or the scripts that `wanted` names.

    Args:
        wanted: names, with or without ``test-`` and ``.sh``, or files of the user's own that source
            functions.sh.

    Raises:
        UsageError: the kernel comes without selftests, or has no such script.
    """
    folder = kernel.source / source.SELFTESTS if kernel.source else None
    if folder is None or not (folder / "functions.sh").is_file():
        raise UsageError(
            f"kernel {kernel.name} comes without {source.SELFTESTS}",
            hint="take a kernel of `klp kernels`, or a build tree that links to its source",
        )
    assert kernel.source is not None
    own = [_script(folder / name) for name in _makefile_scripts(folder)]
    chosen = [_wanted(word, own, kernel) for word in wanted] if wanted else own
    inside_folder = folder / _MODULES
    modules = inside_folder if inside_folder.is_dir() else kernel.source / _OLD_MODULES
    if not modules.is_dir():
        raise UsageError(f"kernel {kernel.name} comes without the selftests' modules")
    scripts = tuple(dict.fromkeys(chosen))
    for name, count in Counter(each.name for each in scripts).items():
        if count > 1:
            raise UsageError(f"two scripts are called {name}", hint="rename one")
    return Selftests(folder, modules, modules != inside_folder, scripts)


def _makefile_scripts(folder: Path) -> list[str]:
    """Return what the Makefile calls TEST_PROGS, in its order."""
    text = (folder / "Makefile").read_text().replace("\\\n", " ")
    names = [name for line in _PROGRAMS.findall(text) for name in line.split()]
    return [name for name in names if (folder / name).is_file()]


def _script(file: Path) -> Script:
    try:
        return Script(file.name, file, planned_cases(file.read_text(errors="replace")))
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None


def _wanted(word: str, own: Sequence[Script], kernel: Kernel) -> Script:
    for each in own:
        if word in (each.name, each.name.removesuffix(".sh"), each.file.stem.removeprefix("test-")):
            return each
    if Path(word).is_file():
        return _script(Path(word).absolute())
    names = [each.file.stem.removeprefix("test-") for each in own]
    known = ", ".join(each.name for each in own)
    what = f"{word}: no such selftest of kernel {kernel.name}, and no file"
    raise UnknownName(what, word, names, hint=f"has {known}")


def make_bundle(selftests: Selftests, kernel: Kernel, out: Path, progress: Progress) -> Bundle:
    """Build modules and programs, and pack all that the scripts need in a guest.

    Args:
        out: a new folder; its ``modules/`` and ``selftests.tar`` stay.

    Raises:
        BuildFailed: the compiler refused something.
    """
    # Kbuild leaves a NAME.mod.c beside each NAME.c in a tree that was built already, such as a user's own.
    stems = sorted(each.stem for each in selftests.modules.glob("*.c") if not each.name.endswith(".mod.c"))
    recipe = Recipe(selftests.modules, kbuild=every_module(*stems))
    modules = build_recipe("the selftests' modules", recipe, kernel, out / "modules", progress=progress)
    staging = out / _FOLDER
    _stage_scripts(selftests, staging)
    for program in sorted(selftests.folder.glob("*.c")):
        _compile(program, kernel, staging)
    if selftests.by_modprobe:
        _stage_for_modprobe(modules, kernel, staging / "lib" / "modules" / kernel.release)
    else:
        _copy_modules(modules, staging / _MODULES)
    archive = out / f"{_FOLDER}.tar"
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(staging, _FOLDER, filter=_as_root)
    shutil.rmtree(staging)
    return Bundle(archive, _FOLDER, modules)


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    # Unpacked by root, who gives files to their owners: the host's user is nobody in the guest.
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _stage_scripts(selftests: Selftests, staging: Path) -> None:
    """Copy what the folder holds beside the scripts, too: functions.sh, settings."""
    staging.mkdir(parents=True)
    for file in selftests.folder.iterdir():
        if file.is_file() and file.suffix not in (".c", ".o"):
            shutil.copy(file, staging / file.name)
    for script in selftests.scripts:
        shutil.copy(script.file, staging / script.name)
        (staging / script.name).chmod(0o755)


def _copy_modules(modules: Sequence[Module], folder: Path) -> None:
    folder.mkdir(parents=True)
    for module in modules:
        shutil.copyfile(module.file, folder / module.file.name)


def _stage_for_modprobe(modules: Sequence[Module], kernel: Kernel, folder: Path) -> None:
    """Make a folder that stands in the guest where the kernel's own modules are."""
    _copy_modules(modules, folder / "extra")
    # depmod complains where these are missing, and BCC looks for the kernel's headers at `build`.
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        (folder / name).touch()
    (folder / "build").symlink_to(f"/usr/src/linux-headers-{kernel.release}")
    run(["depmod", "--basedir", folder.parents[2], kernel.release])


def _compile(program: Path, kernel: Kernel, staging: Path) -> None:
    """Build a program that scripts call; static, for the guest's C library may be another."""
    there = kernel.tree or kernel.toolchain / kernel.build.relative_to("/")
    compiler = compiler_of(read_config(there / ".config"))
    argv = [compiler, "-O2", "-static", "-o", str(staging / program.stem), str(program)]
    readable = [*readable_for(kernel), program.parent]
    finished = run(
        inside(kernel.toolchain, argv, cwd=staging, writable=[staging], readable=readable), check=False
    )
    if finished.status:
        raise BuildFailed(f"{program}: the compiler refused it", output=finished.stderr)
