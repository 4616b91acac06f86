# SPDX-License-Identifier: Apache-2.0
"""For `klp compare`: the two sets of runs and checks, read from their folders and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from klp.analysis.compare.sets import RunSet, compare_sets
from klp.analysis.compare.values import CompareLimits, Comparison
from klp.analysis.recording import Recorded, RecordedCheck
from klp.errors import UsageError
from klp.records.finding import find_sets
from klp.records.reading import read, with_runs, with_traces
from klp.settings import Settings


def compare_words(base: Sequence[str], new: Sequence[str], root: Path, settings: Settings) -> Comparison:
    """Return what differs between the runs that two lists of words name.

    Raises:
        UsageError: a word names no run, a run cannot be read, or nothing is in both sets.
    """
    found = compare_sets(read_set(base, root), read_set(new, root), limits(settings))
    if not found.compared:
        raise UsageError(
            f"nothing to compare: {'; '.join(found.notes[:4])}",
            hint="compare runs of the same plans, or one plan with one other",
        )
    return found


def compare_records(base: Recorded, new: Recorded, settings: Settings) -> Comparison:
    """Return what differs between two that were read, each a run or a check; perhaps they share nothing."""
    return compare_sets(RunSet.of([base]), RunSet.of([new]), limits(settings))


def limits(settings: Settings) -> CompareLimits:
    """Return the limits that the settings ``compare_…`` name."""
    names = CompareLimits.__struct_fields__
    return msgspec.convert({name: getattr(settings, f"compare_{name}") for name in names}, CompareLimits)


def read_set(words: Sequence[str], root: Path) -> RunSet:
    """Return the runs and checks that words name, each once; see `find_sets`.

    Raises:
        UsageError: a word names nothing of the kind, or a run in it cannot be read.
    """
    return RunSet.of([read_to_compare(each) for each in find_sets(words, root)])


def read_to_compare(folder: Path) -> Recorded:
    """Read what is compared of a run or check.

    Of plans, the summaries have all of it. A run without plans, such as a test's, has it in its traces.

    Raises:
        UsageError: it cannot be read.
    """
    recorded = read(folder)
    if isinstance(recorded, RecordedCheck):
        check = with_runs(recorded)
        for run in check.runs.values():
            run.whole()
        return check
    return recorded if recorded.whole().plans else with_traces(recorded)
