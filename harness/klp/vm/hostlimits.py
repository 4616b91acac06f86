# SPDX-License-Identifier: Apache-2.0
"""How much of its host this process may use: CPUs and memory, by affinity and control groups.

A container, a batch system or `taskset` gives less than the host has; guests beyond that only wait for each
other, or are killed for memory. Both versions of control groups are known; limits of each group count for
all below it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class HostFiles:
    """Where the kernel tells of limits."""

    meminfo: Path = Path("/proc/meminfo")
    own_groups: Path = Path("/proc/self/cgroup")
    groups: Path = Path("/sys/fs/cgroup")


def usable_cpus(files: HostFiles = HostFiles()) -> int:
    """Return how many CPUs this process can keep busy: at least one."""
    cpus = float(len(os.sched_getaffinity(0)))
    for group in _groups(files, "cpu"):
        quota = _words(group / "cpu.max") or [
            *_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us"),
        ]  # fmt: skip
        # No quota is "max" in version 2, and -1 in version 1.
        if len(quota) == 2 and quota[0].isdigit() and int(quota[1]) > 0:
            cpus = min(cpus, int(quota[0]) / int(quota[1]))
    return max(1, math.floor(cpus))


def usable_mib(files: HostFiles = HostFiles()) -> int:
    """Return the MiB of memory that this process can have more."""
    lines = dict(line.split(":") for line in files.meminfo.read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    for group in _groups(files, "memory"):
        limit = [*_words(group / "memory.max"), *_words(group / "memory.limit_in_bytes")]
        used = [*_words(group / "memory.current"), *_words(group / "memory.usage_in_bytes")]
        if limit and used and limit[0].isdigit():
            available = min(available, int(limit[0]) - int(used[0]) + _reclaimable(group / "memory.stat"))
    return max(0, available) // _MIB


def _reclaimable(stat: Path) -> int:
    """Return the bytes of a group's page cache that is given back for whoever wants memory."""
    words = _words(stat)
    names = dict(zip(words[::2], words[1::2], strict=False))
    return int(names.get("total_inactive_file", names.get("inactive_file", "0")))


def _groups(files: HostFiles, controller: str) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, and of those above, for a controller."""
    own = files.own_groups.read_text().splitlines() if files.own_groups.exists() else []
    for line in own:
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        # Version 2 has one hierarchy for all; of version 1, each controller has a folder of its own.
        if controllers and controller not in names:
            continue
        top = files.groups / controllers if controllers else files.groups
        # In a container without a namespace of its own for groups, the path is that of the host.
        inner = top / path.lstrip("/")
        yield from (each for each in (inner, *inner.parents) if each.is_relative_to(top) and each.is_dir())


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:  # the controller is not on for this group
        return []
