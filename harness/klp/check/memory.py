# SPDX-License-Identifier: Apache-2.0
"""What the guest's kernel has allocated, counted so exactly that one object more in each cycle is seen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from klp.analysis.growth import Meter
from klp.drive.case import TestedGuest

# Beside kmalloc's: what a livepatch may take a reference of and forget to put it. Others come and go by the
# dozen (files, sockets' buffers), or are reclaimed (inodes), and say nothing.
_CACHES = "kmalloc-* task_struct cred cred_jar pid mm_struct files_cache signal_cache"
# Shrinking a cache gives its CPUs' slabs back, for `objects` counts a slab that a CPU holds as full
# (mm/slub.c: count_partial, slab_objects). What is allocated meanwhile has it hold one again, and what is
# freed after a grace period is still there: a reading may be too high, so the least of some is taken. What
# kfree_rcu() holds back for up to 5 s goes when caches are to be reclaimed (kfree_rcu_shrink_scan).
_COUNTS = (
    "cd /sys/kernel/slab && echo 2 >/proc/sys/vm/drop_caches && "
    "shopt -s nullglob && declare -A least && for round in 1 2; do "
    f"for each in {_CACHES}; do [[ -f $each/objects ]] || continue; "
    "echo 1 >$each/shrink; read -r count _ <$each/objects; "
    "(( count < ${least[$each]:=$count} )) && least[$each]=$count; done; "
    "read -rt 0.1 <>/run/klp/silence; done; "
    "for each in ${!least[@]}; do read -r size <$each/object_size; echo $each ${least[$each]} $size; done; "
    "grep -E '^(VmallocUsed|KernelStack|Percpu):' /proc/meminfo"
)
# What kmalloc() gives from the page allocator, above 8 KiB, is of no cache; but its pages are counted with
# those of the caches (mm/slub.c: ___kmalloc_large_node, NR_SLAB_UNRECLAIMABLE_B), and what theirs do not
# account for is it. A cache's aliases are links. Read again if the pages changed meanwhile, which a program
# that is started sees to: hence by bash alone.
_PAGES = "nr_slab_unreclaimable"
_LARGE = (
    "pages() { echo 1 >/proc/sys/vm/stat_refresh; local name; while read -r name pages; do "
    f"[[ $name != {_PAGES} ]] || return 0; done </proc/vmstat; }}; "
    "cd /sys/kernel/slab && [[ -e kmalloc-64/slabs ]] || exit 0; "
    "for each in *; do [[ -L $each ]] || own+=($each); done && "
    'grep -H . "${own[@]/%//order}" "${own[@]/%//reclaim_account}" && '
    "for round in {1..5}; do pages; before=$pages; found=(); "
    "for each in ${own[@]}; do read -r slabs _ <$each/slabs; found+=($each/slabs:$slabs); done; "
    "pages; (( before != pages )) || break; done; "
    f"printf '%s\\n' ${{found[@]}} {_PAGES}:$pages"
)
_LARGE_NAME = "large kmalloc"
# The least that it gives, in pages. Counted in units of that size a leak shows, and a slab that comes and
# goes meanwhile does not: read by bash alone it is 5 pages on 6.12, 1 on 6.1, none on 7.2.
_LARGE_PAGES = 4
_SETTLES = 5
# A module's own text and data are in pages; memory of this kind is counted in them.
_PAGE_KIB = 4
# CONFIG_RANDOM_KMALLOC_CACHES: which of 16 caches one gets depends on where the caller is, and a module is
# elsewhere each time it is loaded.
_COPY = re.compile(r"\Akmalloc-rnd-\d+-")


def sample(guest: TestedGuest) -> dict[str, Meter]:
    """Return the objects of slab caches, what kmalloc() gave beside them, and pages of other kinds."""
    objects = parse(guest.run(_COUNTS).must("counting memory").stdout)
    return objects | parse_large(guest.run(_LARGE).must("counting large memory").stdout)


def uncounted(meters: Mapping[str, Meter]) -> str:
    """Return, in words, what a sample has no count of; empty where it has all."""
    if _LARGE_NAME in meters:
        return ""
    return "the guest's kernel counts no objects (CONFIG_SLUB_DEBUG): only leaks of whole pages show"


def settled(guest: TestedGuest) -> dict[str, Meter]:
    """Return a sample after which another would not show more on its own account.

    On 7.x a cache keeps empty sheaves, which are objects of kmalloc-256 and kmalloc-512: each shrink leaves
    some more, up to a limit that takes three or four of them (mm/slub.c: struct node_barn).
    """
    before = sample(guest)
    for _ in range(_SETTLES):
        after = sample(guest)
        if all(meter.count <= before[name].count for name, meter in after.items() if name in before):
            return after
        before = after
    return before


def parse(text: str) -> dict[str, Meter]:
    """Read ``kmalloc-64 123 64`` (objects, bytes of each) and ``Percpu:  1024 kB``."""
    counts: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    pages: dict[str, Meter] = {}
    for name, first, second in map(str.split, text.splitlines()):
        if name.endswith(":"):
            pages[name.rstrip(":")] = Meter(int(first) // _PAGE_KIB, _PAGE_KIB * 1024)
        else:
            cache = _COPY.sub("kmalloc-", name)
            counts[cache] += int(first)
            sizes[cache] = int(second)
    return {name: Meter(count, sizes[name]) for name, count in counts.items()} | pages


def parse_large(text: str) -> dict[str, Meter]:
    """Read ``CACHE/slabs:7``, ``CACHE/order:2``, ``CACHE/reclaim_account:0``, and the pages of all.

    Nothing comes of a kernel that does not count slabs (CONFIG_SLUB_DEBUG).
    """
    lines = (each.rpartition(":") for each in text.splitlines())
    values = {path: int(value) for path, _, value in lines}
    if not values:
        return {}
    large = values.pop(_PAGES)
    for path, slabs in values.items():
        cache, _, attribute = path.rpartition("/")
        if attribute == "slabs" and not values[f"{cache}/reclaim_account"]:
            large -= slabs << values[f"{cache}/order"]
    return {_LARGE_NAME: Meter(large // _LARGE_PAGES, _LARGE_PAGES * _PAGE_KIB * 1024)}
