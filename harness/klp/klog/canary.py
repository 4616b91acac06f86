# SPDX-License-Identifier: Apache-2.0
"""Canaries: unique lines in a kernel log; what follows one belongs to whoever wrote it.

A canary that is no longer in the log means that its ring overflowed; that is said, not passed over.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from klp.errors import CheckFailed


@dataclass(frozen=True, slots=True)
class Canary:
    """A line in the kernel log that occurs once."""

    token: str


def new_canary(what: str) -> Canary:
    """Return a canary that nobody has written yet; `what` says what follows it."""
    return Canary(f"klp: {what} [{secrets.token_hex(6)}]")


def after(canary: Canary, lines: Sequence[str]) -> tuple[str, ...]:
    """Return the lines after a canary.

    Raises:
        CheckFailed: the canary is gone: the ring overflowed, and lines are lost.
    """
    for number, line in enumerate(lines):
        if canary.token in line:
            return tuple(lines[number + 1 :])
    raise CheckFailed(
        "the kernel log overflowed: lines of this run are lost",
        hint="log_buf_len= on the kernel's command line makes it larger",
    )
