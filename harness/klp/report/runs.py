# SPDX-License-Identifier: Apache-2.0
"""Run folders, those of `klp check` among them, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from rich.text import Text

from klp.analysis.checked import verdict_words
from klp.analysis.evidence import Verdict
from klp.analysis.recording import Recorded, RecordedCheck, RecordedRun
from klp.kernels import series
from klp.report.columns import Columns
from klp.report.table import STYLES

_RUNNING = "running"


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """What `klp runs` shows of a run folder.

    Attributes:
        run: the folder's name.
        path: the folder.
        kind: ``run``, or ``check`` for one of `klp check`.
        kernels: the releases it was made on.
        asked: the same kernels by the names that they were asked for by.
        begun_at: seconds since the epoch.
        duration_s: seconds.
        plans: how many plans were run, or scenarios.
        verdict: over all of it; None where nothing was run.
        lost: under how many scenarios of a check a guest was lost.
        error: what ended it early, or why it cannot be read.
        running: whether a klp is at work on it now.
    """

    run: str
    path: str
    kind: str
    kernels: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    begun_at: float | None = None
    duration_s: float | None = None
    plans: int | None = None
    verdict: Verdict | None = None
    lost: int = 0
    error: str | None = None
    running: bool = False

    @property
    def words(self) -> str:
        """The verdict in a word or two, a lost guest first; empty where nothing was run."""
        if self.running:
            return _RUNNING
        return verdict_words(self.verdict, lost=bool(self.lost)) if self.verdict else ""


def brief(recorded: Recorded) -> Brief:
    """Return the line of a run or a check; of one that cannot be read it says why."""
    return _of_check(recorded) if isinstance(recorded, RecordedCheck) else _of_run(recorded)


def _of_run(run: RecordedRun) -> Brief:
    result = run.result
    if result is None:
        return Brief(run=run.name, path=run.folder, kind="run", error=run.broken)
    return Brief(
        run=run.name,
        path=run.folder,
        kind="run",
        kernels=(result.provenance.kernel,),
        asked=(result.provenance.kernel_name,),
        begun_at=result.begun_at,
        duration_s=result.ended_at - result.begun_at,
        plans=len(result.plans),
        verdict=result.verdict,
        error=result.error,
    )


def _of_check(check: RecordedCheck) -> Brief:
    result = check.result
    if result is None:
        return Brief(run=check.name, path=check.folder, kind="check", error=check.broken)
    return Brief(
        run=check.name,
        path=check.folder,
        kind="check",
        kernels=tuple(each.release for each in result.kernels),
        asked=tuple(each.name for each in result.kernels),
        begun_at=result.begun_at,
        duration_s=result.ended_at - result.begun_at,
        plans=len(result.outcomes),
        verdict=result.verdict if result.outcomes else None,
        lost=len(result.lost),
        error=result.error,
    )


def running_brief(recorded: Recorded, begun_at: float | None, now: float) -> Brief:
    """Return the line of a run or a check that a klp is at work on: what is known of it so far.

    Args:
        begun_at: when its folder was made, in seconds since the epoch.
    """
    so_far = brief(recorded)
    begun = so_far.begun_at or begun_at
    return msgspec.structs.replace(
        so_far, running=True, error=None, begun_at=begun, duration_s=now - begun if begun else None
    )


def runs_table(runs: Sequence[Brief]) -> Columns:
    """Return a line for each run folder; one that cannot be read says why."""
    rows = [(each.run, *_cells(each)) for each in runs]
    return Columns(("run", "kernel", "begun", "s", "plans", "verdict"), rows, whole=("run", "begun"))


def _short(release: str) -> str:
    """Return a release's first two numbers; the whole of it is in the names of runs and in JSON."""
    return ".".join(map(str, series(release))) or release


def _cells(run: Brief) -> tuple[object, ...]:
    if run.begun_at is None or run.duration_s is None:
        return (None, None, None, None, Text(run.words or run.error or "", style="red"))
    begun = datetime.fromtimestamp(run.begun_at).strftime("%m-%d %H:%M")
    style = STYLES[run.verdict] if run.verdict and not run.running else ""
    return (
        " ".join(map(_short, run.kernels)) or None,
        begun,
        round(run.duration_s),
        run.plans,
        Text(run.words, style=style) if run.words else None,
    )
