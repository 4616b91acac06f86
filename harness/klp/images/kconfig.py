# SPDX-License-Identifier: Apache-2.0
"""A kernel's .config as a value, and the options that a user's own kernel must have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

# What klp needs, and for what: a missing option is named with its reason.
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "livepatches": ("LIVEPATCH", "MODULES", "KALLSYMS", "SYSFS", "PROC_FS"),
    "probes": (
        "BPF_SYSCALL", "BPF_JIT", "BPF_EVENTS", "KPROBES", "KPROBE_EVENTS", "PERF_EVENTS",
        # BTF tells the probes at which offsets structures have their fields; in /proc/kcore they find the
        # instructions by which the core calls callbacks through pointers.
        "DEBUG_INFO_BTF", "PROC_KCORE",
    ),
    "the guest's disks and network": ("VIRTIO_PCI", "VIRTIO_BLK", "VIRTIO_NET", "EXT4_FS", "INET"),
    "booting": (
        "BLK_DEV_INITRD", "DEVTMPFS", "TMPFS", "SERIAL_8250_CONSOLE", "BINFMT_ELF",
        "BINFMT_SCRIPT", "UNIX", "UNIX98_PTYS", "DEBUG_FS", "PROC_SYSCTL", "SOFTLOCKUP_DETECTOR",
    ),
}  # fmt: skip

_OPTION = re.compile(r'^CONFIG_(\w+)=("?)(.*)\2$')


def read_config(file: Path) -> dict[str, str]:
    """Read a .config: option without ``CONFIG_`` to its value, quotes removed."""
    found = (_OPTION.match(line) for line in file.read_text(errors="replace").splitlines())
    return {match[1]: match[3] for match in found if match}


def missing_options(config: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the options that `config` has neither as y nor as m, by what they are needed for."""
    lacks = {
        reason: tuple(name for name in names if config.get(name) not in ("y", "m"))
        for reason, names in REQUIRED.items()
    }
    return {reason: names for reason, names in lacks.items() if names}


def compiler_of(config: Mapping[str, str]) -> str:
    """Return the compiler that built the kernel as a Debian package is called, such as ``gcc-14``."""
    text = config.get("CC_VERSION_TEXT", "")
    found = re.search(r"\b(gcc|clang)\b.*?(\d+)\.\d+", text)
    return f"{found[1]}-{found[2]}" if found else ""
