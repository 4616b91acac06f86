# SPDX-License-Identifier: Apache-2.0
"""The rules' verdicts on what a run recorded: read back from its files, now or years later."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from klp.analysis.history import History, history
from klp.analysis.rules.registry import RuleVerdict, judge_all, merged
from klp.errors import UsageError
from klp.paths import RunLayout
from klp.trace.reading import read_events


def recorded_traces(run: Path) -> list[Path]:
    """Return the events files of a run folder, one for each of its guests; a file stands for itself.

    Raises:
        UsageError: there is none.
    """
    if not run.is_dir():
        return [run]
    layout, found = RunLayout(run), []
    while layout.events.is_file():
        found.append(layout.events)
        layout = layout.of_guest(layout.guest + 1)
    if not found:
        raise UsageError(f"{run}: no events.jsonl in it", hint="name the folder that `klp run` printed")
    return found


def histories(run: Path) -> list[tuple[str, History]]:
    """Return what each events file of a run tells, with the file's name.

    Raises:
        UsageError: there is no trace, or it cannot be trusted (`klp.trace.reading.BadTrace`).
    """
    return [(file.name, history(read_events(file))) for file in recorded_traces(run)]


def judge(told: list[tuple[str, History]], only: Collection[str] = ()) -> tuple[RuleVerdict, ...]:
    """Return the verdicts of a run's histories on every rule, or on those in `only`."""
    return merged([(name, judge_all(each, only)) for name, each in told])


def judge_run(run: Path) -> tuple[RuleVerdict, ...]:
    """Return the verdicts of a recorded run on every rule.

    Raises:
        UsageError: as `histories`.
    """
    return judge(histories(run))
