# SPDX-License-Identifier: Apache-2.0
"""Who includes whom in a kernel's source, by the words of ``#include`` alone.

Which folders the compiler looks through differs from unit to unit, so a name that is not beside the file
that includes it stands for every header whose path ends in it: rather a unit too many than one too few, for
a unit that does not see the change comes out without a difference.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from klp import arch
from klp.progress import unheard

# Not tied to the beginning of a line: so it takes a tenth of the time, for more than a GB of text.
_INCLUDE = re.compile(rb'#[ \t]*include[ \t]*(["<])([^">\n]+)[">]')
# No unit of a kernel or a module is there.
_NOT_THERE = {"Documentation", "tools", "samples", "scripts", "usr", ".git"}
_ENDINGS = (".c", ".h", ".S", ".inc")
# As many files are looked through before the next is told of.
_TOLD_EACH = 1000


def index_of(
    tree: Path, architecture: str = arch.DEFAULT.kernel, tell: Callable[[str], None] = unheard
) -> dict[str, list[str]]:
    """Return for each file that is included, by its path in the tree, the files that include it.

    Args:
        architecture: the folder in ``arch`` that is looked at; others are left out.
        tell: gets how far it is.
    """
    paths, texts = list(_sources(tree, architecture)), {}
    for number, path in enumerate(paths):
        if number % _TOLD_EACH == 0:
            tell(f"{number} of {len(paths)} files")
        texts[path] = _INCLUDE.findall((tree / path).read_bytes())
    by_name = defaultdict(list)
    for path in texts:
        by_name[posixpath.basename(path)].append(path)
    found: dict[str, list[str]] = defaultdict(list)
    for path, names in texts.items():
        for each in {header for quote, name in names for header in _meant(path, quote, name, by_name)}:
            found[each].append(path)
    return {header: sorted(each) for header, each in sorted(found.items())}


def units_including(index: Mapping[str, list[str]], header: str) -> list[str]:
    """Return the C files that include a file, be it through others, sorted."""
    seen = {header}
    waiting = [header]
    while waiting:
        for each in index.get(waiting.pop(), ()):
            if each not in seen:
                seen.add(each)
                waiting.append(each)
    return sorted(each for each in seen if each.endswith(".c") and each != header)


def _sources(tree: Path, architecture: str) -> Iterator[str]:
    for folder, below, files in os.walk(tree):
        place = os.path.relpath(folder, tree)
        if place == ".":
            below[:] = [each for each in below if each not in _NOT_THERE]
        if place == "arch":
            below[:] = [each for each in below if each == architecture]
        for name in files:
            path = posixpath.normpath(posixpath.join(place, name))
            if name.endswith(_ENDINGS) and not (tree / path).is_symlink():
                yield path


def _meant(includer: str, quote: bytes, name: bytes, by_name: Mapping[str, list[str]]) -> list[str]:
    """Return the files that a name in an ``#include`` may stand for."""
    said = name.decode(errors="surrogateescape").strip()
    known = by_name.get(posixpath.basename(said), [])
    beside = posixpath.normpath(posixpath.join(posixpath.dirname(includer), said))
    if quote == b'"' and beside in known:
        return [beside]
    ending = "/" + posixpath.normpath(said).replace("../", "")
    return [each for each in known if f"/{each}".endswith(ending)]
