# SPDX-License-Identifier: Apache-2.0
"""A comparison as the report page takes it."""

from __future__ import annotations

from dataclasses import dataclass

from klp.analysis.compare.values import Comparison


@dataclass(frozen=True, slots=True)
class Beside:
    """A run or check beside the base: what `klp.analysis.compare` says, or why nothing can be said."""

    name: str
    base: str
    found: Comparison | None
    why_not: str = ""
