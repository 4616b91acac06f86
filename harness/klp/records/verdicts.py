# SPDX-License-Identifier: Apache-2.0
"""The rules' verdicts on what a run recorded: read back from its files, now or years later."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from klp.analysis.recording import GuestHistory
from klp.analysis.rules.registry import RuleVerdict, judge_all, merged
from klp.records.reading import read_histories


def judge(guests: Sequence[GuestHistory], only: Collection[str] = ()) -> tuple[RuleVerdict, ...]:
    """Return the verdicts on a run's guests: of every rule, or of those in `only`."""
    # Judged guest by guest, for each has a clock and a numbering of its own: between two there is no
    # order.
    return merged([(each.file, judge_all(each.history, only)) for each in guests])


def judge_run(recording: Path) -> tuple[RuleVerdict, ...]:
    """Return the verdicts of a recorded run on every rule.

    Raises:
        UsageError: as `klp.records.reading.read_histories`.
    """
    return judge(read_histories(recording))
