# SPDX-License-Identifier: Apache-2.0
"""Entry probes in tracefs, and how often they were hit."""

from __future__ import annotations

import os
import re
from pathlib import Path

TRACING = Path("/sys/kernel/tracing")
GROUP = "klp_exercise"
# The file does not say of which group an event is: hence a name that no other group has.
_HIT = re.compile(r"^\s*(exercised\d+)\s+(\d+)\s+\d+\s*$", re.MULTILINE)


def profile_of(text: str) -> dict[str, int]:
    """Return the hits of each of our probes from a file ``kprobe_profile``."""
    return {name: int(hits) for name, hits in _HIT.findall(text)}


def profile() -> dict[str, int]:
    """Return the hits of each of our probes."""
    try:
        return profile_of((TRACING / "kprobe_profile").read_text())
    except OSError:  # where nothing is probed, workloads can be run all the same
        return {}


def add_probe(event: str, symbol: str) -> None:
    """Put a probe on a symbol.

    Raises:
        OSError: the kernel refuses it.
    """
    # Not by open(), which goes to the end of what it appends to: this file refuses that with EINVAL.
    descriptor = os.open(TRACING / "kprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"p:{GROUP}/{event} {symbol}\n".encode())
    finally:
        os.close(descriptor)
