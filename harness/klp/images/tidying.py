# SPDX-License-Identifier: Apache-2.0
"""The cache kept within bounds: what was not used for long goes, and what is of no use to anyone.

Each rebuild of a kernel tree adds a kernel, an initrd and a saved guest, half a gigabyte that nobody asks
for again. What a klp uses at this moment stays, whatever its age (`klp.inuse`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from klp.errors import Busy
from klp.images.cache import Cache, EntryKind, Manifest, last_used

# Kinds of entries that are made of a kernel's.
OF_KERNELS = (EntryKind.BOOT, EntryKind.SNAPSHOT, EntryKind.PREPARED, EntryKind.PROGRAMS)
_KERNELS = (EntryKind.KERNEL, EntryKind.TREE)
# Inputs that name another entry by its folder.
_MADE_OF = ("guest", "compiler")
GIB = 2**30
DAY_S = 24 * 3600.0
CacheEntry = tuple[Path, Manifest]


@dataclass(frozen=True, slots=True)
class Going:
    """An entry that is to go, and why, in words."""

    folder: Path
    manifest: Manifest
    why: str


def tree_is_gone(manifest: Manifest) -> bool:
    """Whether an entry is of a build tree that is not there any more."""
    tree = manifest.inputs.get("tree")
    return manifest.kind == EntryKind.TREE and tree is not None and not Path(tree).is_dir()


def to_go(
    entries: Sequence[CacheEntry], *, limit_bytes: float, unused_s: float, spared_s: float = 0.0
) -> Iterator[Going]:
    """Yield what is to go so that the rest is within bounds; each entry once, the least of use first.

    Args:
        entries: all there are.
        limit_bytes: how much may stay.
        unused_s: what was not used for so long goes.
        spared_s: what was used within this time stays, unless it is of no use to anyone.
    """
    now, left = time.time(), list(entries)
    for each in _useless(left):
        left.remove((each.folder, each.manifest))
        yield each
    total = sum(manifest.size for _, manifest in left)
    for folder, manifest in sorted(left, key=lambda entry: last_used(entry[0])):
        idle = now - last_used(folder)
        if idle > unused_s:
            why = f"not used for {idle / DAY_S:.0f} days"
        elif total > limit_bytes and idle > spared_s:
            why = f"above {limit_bytes / GIB:.1f} GiB, and the longest unused"
        else:
            continue
        total -= manifest.size
        yield Going(folder, manifest, why)


def _useless(entries: Sequence[CacheEntry]) -> Iterator[Going]:
    """Yield the entries of trees that are gone, and those that are made of entries that are gone."""
    left = list(entries)
    while True:
        found = [Going(*entry, why) for entry in left if (why := _of_no_use(entry[1], left))]
        if not found:
            return
        for each in found:
            left.remove((each.folder, each.manifest))
        yield from found


def _of_no_use(manifest: Manifest, entries: Sequence[CacheEntry]) -> str:
    if tree_is_gone(manifest):
        return f"{manifest.inputs['tree']} is gone"
    kernels = {each.digest for _, each in entries if each.kind in _KERNELS}
    folders = {folder.name for folder, _ in entries}
    made_of = [manifest.inputs[name] for name in _MADE_OF if name in manifest.inputs]
    of_kernel = manifest.inputs.get("kernel") if manifest.kind in OF_KERNELS else None
    if (of_kernel and of_kernel not in kernels) or not folders.issuperset(made_of):
        return "what it was made of is gone"
    return ""


def tidy(
    cache: Cache, *, limit_bytes: float, unused_s: float, spared_s: float = 0.0
) -> Iterator[tuple[Going, bool]]:
    """Remove what is to go (see `to_go`); yield each with whether it went: what is in use stays."""
    for each in to_go(cache.entries(), limit_bytes=limit_bytes, unused_s=unused_s, spared_s=spared_s):
        try:
            cache.remove(each.folder, each.manifest)
        except Busy:
            yield each, False
        else:
            yield each, True
