# SPDX-License-Identifier: Apache-2.0
"""What a report is made from, besides run.json: each guest's trace, with what the analysis says of it."""

from __future__ import annotations

from dataclasses import dataclass

from klp.analysis.history import History
from klp.analysis.lifetimes import ShadowLifetime
from klp.trace import events as ev


@dataclass(frozen=True, slots=True)
class GuestTrace:
    """One guest's trace as a whole.

    Attributes:
        title: what its group of tracks is called, such as the run's name.
        numbered: its events, in the order of time.
    """

    title: str
    numbered: tuple[tuple[int, ev.AnyEvent], ...]
    history: History
    lives: tuple[ShadowLifetime, ...]
