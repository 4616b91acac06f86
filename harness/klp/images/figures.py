# SPDX-License-Identifier: Apache-2.0
"""What a first build takes, said before it begins; the one place for these figures.

Measured on two cores without KVM, the archive nearby; `bench/` measures them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from klp.images.cache import EntryKind
from klp.progress import spoken


@dataclass(frozen=True, slots=True)
class Figure:
    """What one entry of the cache takes to be made.

    Attributes:
        download_mb: megabytes fetched from the archive.
        disk_mb: megabytes that stay in the cache.
    """

    seconds: float
    download_mb: int
    disk_mb: int


FIGURES = {
    EntryKind.GUEST: Figure(40, 105, 400),
    EntryKind.KERNEL: Figure(45, 370, 800),
    EntryKind.TREE: Figure(15, 0, 400),
    # With the compiler that is taken out of the guest's root disk, once for each suite.
    EntryKind.SNAPSHOT: Figure(25, 0, 600),
    EntryKind.PREPARED: Figure(120, 260, 2000),
}


def first_build(kinds: Iterable[EntryKind]) -> str:
    """Return what it takes to make entries of these kinds: ``about 3 min on two cores, …``."""
    known = [each for each in kinds if each in FIGURES]
    seconds = sum(FIGURES[each].seconds for each in known)
    download = sum(FIGURES[each].download_mb for each in known)
    disk = sum(FIGURES[each].disk_mb for each in known)
    fetched = f", {download} MB to download" if download else ""
    return f"about {spoken(seconds)} on two cores{fetched}, {disk} MB of disk"
