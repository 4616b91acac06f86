# SPDX-License-Identifier: Apache-2.0
"""Repeated measurements and how they are shown."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich import box
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Series:
    """What was measured, its unit, and every figure in the order they were taken."""

    name: str
    unit: str
    figures: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.figures)


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes, in seconds of wall-clock time."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def in_turn(candidates: Mapping[str, Callable[[], float]], rounds: int, unit: str) -> list[Series]:
    """Measure every candidate once a round, one after another, so that all meet the same machine.

    Args:
        candidates: name to a function that returns one figure.
        rounds: figures of each.
        unit: of the figures.
    """
    figures: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, measure in candidates.items():
            figures[name].append(measure())
    return [Series(name, unit, tuple(taken)) for name, taken in figures.items()]


def table(title: str, series: list[Series], base: str | None = None) -> Table:
    """Return a table of medians with their spread, and each one's ratio to the series named `base`."""
    shown = Table("what", box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for head in ("median", "min", "max", "runs", *([f"/ {base}"] if base else [])):
        shown.add_column(head, justify="right")
    reference = next((each.median for each in series if each.name == base), None)
    for each in series:
        cells = [
            f"{figure:.2f} {each.unit}" for figure in (each.median, min(each.figures), max(each.figures))
        ]
        ratio = [f"{each.median / reference:.3f}"] if reference else []
        shown.add_row(each.name, *cells, str(len(each.figures)), *ratio)
    return shown
