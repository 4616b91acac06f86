# SPDX-License-Identifier: Apache-2.0
"""The words of every architecture's kernel at once: a log that is read does not say where it is from."""

from __future__ import annotations

from collections.abc import Callable

from klp import arch


def any_of(words: Callable[[arch.CrashDialect], str]) -> str:
    """Return a regular expression, without groups, for what `words` picks from any dialect."""
    return f"(?:{'|'.join(words(each.crash) for each in arch.ALL)})"
