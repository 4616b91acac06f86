# SPDX-License-Identifier: Apache-2.0
"""What a guest whose kernel looks for faults in memory has to be asked for: see `klp.vm.debugging`."""

from __future__ import annotations

from klp.drive.case import TestedGuest
from klp.vm.debugging import STOP_KFENCE

# SLUB looks at an object when it is given and freed: of one that stays as it is nothing is told until its
# cache is looked through (mm/slub.c: validate_store). Refused by a cache that has no debugging. The first
# objects of SLUB's own two caches were made before it could make any, without a free pointer (mm/slub.c:
# early_kmem_cache_node_alloc): 7.2 calls them corrupt.
_LOOK_THROUGH = (
    "shopt -s nullglob; for each in /sys/kernel/slab/*/validate; do "
    "case $each in */kmem_cache/*|*/kmem_cache_node/*) ;; *) [[ -L ${each%/*} ]] || echo 1 >$each;; esac; "
    "done 2>/dev/null; true"
)


def find_damage(guest: TestedGuest) -> None:
    """Have the kernel look through all of its slabs; what it finds stands in the kernel log.

    Raises:
        VmLost: the guest was lost.
    """
    guest.run(_LOOK_THROUGH)


def count_all(guest: TestedGuest) -> str:
    """Have every object come from a cache, where it is counted; return, in words, what this costs.

    KFENCE gives out objects of its own, which are among no cache's. On a kernel without it nothing is
    done, and the words are empty.

    Raises:
        VmLost: the guest was lost.
    """
    stopped = guest.run(STOP_KFENCE)
    return "" if stopped.status else "KFENCE was stopped: what it gives out is counted in no cache"
