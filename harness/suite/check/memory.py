# SPDX-License-Identifier: Apache-2.0
"""What the guest's kernel has allocated, counted exactly enough to see one object more a cycle."""

from __future__ import annotations

from harness.analysis.growth import Meter
from harness.suite.case import TestedGuest

# Shrinking a cache gives its CPUs' slabs back, after which its count is exact (mm/slub.c: calculate_sizes
# aside, `objects` counts a slab that a CPU holds as full).
_COUNTS = (
    "cd /sys/kernel/slab && echo 1 | tee kmalloc-*/shrink >/dev/null; grep -H . kmalloc-*/objects "
    "kmalloc-*/object_size; grep -E '^(VmallocUsed|KernelStack|Percpu):' /proc/meminfo"
)
# A module's own text and data are in pages; memory of this kind is counted in them.
_PAGE_KIB = 4


def sample(guest: TestedGuest) -> dict[str, Meter]:
    """Return the kmalloc caches' objects, and pages of stacks, vmalloc and per-CPU memory."""
    return parse(guest.run(_COUNTS).must("counting memory").stdout)


def parse(text: str) -> dict[str, Meter]:
    """Read ``kmalloc-64/objects:123 N0=123``, ``kmalloc-64/object_size:64`` and ``Percpu:  1024 kB``."""
    counts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    pages: dict[str, Meter] = {}
    for line in text.splitlines():
        place, _, value = line.partition(":")
        name, _, attribute = place.partition("/")
        number = int(value.split()[0])
        if attribute == "objects":
            counts[name] = number
        elif attribute == "object_size":
            sizes[name] = number
        else:
            pages[name] = Meter(number // _PAGE_KIB, _PAGE_KIB * 1024)
    return {name: Meter(count, sizes[name]) for name, count in counts.items() if name in sizes} | pages
