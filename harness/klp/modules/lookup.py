# SPDX-License-Identifier: Apache-2.0
"""A module as a test names it: a path beside the test, a folder of patches/, or an upstream module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from klp import paths
from klp.errors import NotALivepatch, UsageError
from klp.images.source import SAMPLES_FOLDER, SELFTESTS
from klp.model import Kernel, Module
from klp.modules.sources import ModuleSource, find_source

# Where a kernel's source keeps modules of one file each; 6.1 has its selftests' modules in lib/.
_UPSTREAM = (SAMPLES_FOLDER, f"{SELFTESTS}/test_modules", "lib/livepatch")


def find_module(word: str, places: Iterable[Path], kernel: Kernel) -> ModuleSource:
    """Return the sources that `word` stands for.

    Args:
        word: a folder, .c or .ko, relative to one of `places`; a name of patches/; or the name of a
            module of the kernel's own samples or selftests.
        places: folders, the first in which it is found counts.

    Raises:
        UsageError: there is no such thing, or nothing that could be built.
    """
    for place in (*places, paths.PROJECT):
        if (place / word).exists():
            return find_source(str(place / word))
    own = _upstream_file(word, kernel)
    return find_source(str(own) if own else word)


def _upstream_file(word: str, kernel: Kernel) -> Path | None:
    if kernel.source is None or "/" in word:
        return None
    folders = (kernel.source / each for each in _UPSTREAM)
    # The samples' files are named livepatch-sample.c, the selftests' test_klp_livepatch.c.
    names = (word, word.replace("_", "-"), word.replace("-", "_"))
    files = (folder / f"{name}.c" for folder in folders for name in names)
    return next((file for file in files if file.is_file()), None)


def choose(modules: Sequence[Module], word: str, name: str | None, *, livepatch: bool) -> Module:
    """Return the module of `modules` that is meant: the one called `name`, or the only one of its kind.

    Raises:
        UsageError: there is none, or several and no `name`.
        NotALivepatch: a livepatch is wanted, and it is none.
    """
    if name is not None:
        wanted = [each for each in modules if each.name == name.replace("-", "_")]
    else:
        wanted = [each for each in modules if each.livepatch == livepatch]
    kind = "livepatch" if livepatch else "plain module"
    if len(wanted) != 1:
        names = ", ".join(each.name for each in modules)
        which = f"no module {name}" if name else f"{len(wanted) or 'no'} {kind}s"
        raise UsageError(f"{word}: {which} among its modules ({names})", hint="give its name as second")
    [found] = wanted
    if livepatch and not found.livepatch:
        raise NotALivepatch(f"{word}: {found.name} is no livepatch", hint="module() is for plain modules")
    return found
