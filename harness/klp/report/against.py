# SPDX-License-Identifier: Apache-2.0
"""What the report page shows of a comparison with an earlier run or check."""

from __future__ import annotations

from dataclasses import dataclass

from klp.analysis.compare.values import Comparison


@dataclass(frozen=True, slots=True)
class SinceBase:
    """What became worse in a run or check since a base; both by name.

    Attributes:
        comparison: what `klp.analysis.compare` says; it may say that nothing is in both.
    """

    name: str
    base: str
    comparison: Comparison

    @property
    def why_not(self) -> str:
        """Why nothing can be said; empty where something can."""
        shared = self.comparison.compared
        return "" if shared else f"Nothing is in both: {'; '.join(self.comparison.notes)}."
