# SPDX-License-Identifier: Apache-2.0
"""A comparison with a base, as the report page takes it."""

from __future__ import annotations

from dataclasses import dataclass

from klp.analysis.compare.values import Comparison


@dataclass(frozen=True, slots=True)
class SinceBase:
    """What became worse in a run or check since a base; both by name.

    Attributes:
        comparison: what `klp.analysis.compare` says; perhaps that they share nothing.
    """

    name: str
    base: str
    comparison: Comparison

    @property
    def why_not(self) -> str:
        """Why nothing can be said; empty where something can."""
        shared = self.comparison.compared
        return "" if shared else f"Nothing is in both: {'; '.join(self.comparison.notes)}."
