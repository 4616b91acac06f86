# SPDX-License-Identifier: Apache-2.0
"""The report page: one HTML file that asks nothing of the network, and needs no script to be read."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import jinja2
from markupsafe import Markup, escape

from klp.analysis.recording import Recorded, RecordedCheck, RecordedRun
from klp.report.against import SinceBase
from klp.report.comparison import closing, difference_cells
from klp.report.html_check import CheckView, check_view
from klp.report.html_data import RunView, run_view
from klp.report.html_story import Story, run_story
from klp.report.html_words import (
    ATTEMPTS,
    PENDING,
    SWITCHED,
    accelerator_words,
    counted_reasons,
    moment_words,
    path_words,
    phase_words,
    quantity,
    span,
)
from klp.report.table import failed_checks, rules_line
from klp.version import __version__

_T = TypeVar("_T")
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class _ToldRun:
    """A run with what is told of it first."""

    view: RunView
    story: Story
    faults: tuple[str, ...]
    rules: str


def report_page(shown: Sequence[Recorded], since: Sequence[SinceBase] = ()) -> str:
    """Return the page of runs and checks, with comparisons that were made before."""
    runs = [_told_run(f"run{number}", run) for number, run in enumerate(_of(RecordedRun, shown), 1)]
    checks = [
        check_view(f"check{number}", check) for number, check in enumerate(_of(RecordedCheck, shown), 1)
    ]
    views = [*(each.view for each in runs), *(run for check in checks for run in check.runs)]
    return _environment().get_template("report.html").render(
        runs=runs,
        checks=checks,
        plans=list(dict.fromkeys(each.plan.name for run in runs for each in run.view.plans)),
        repeated=any(each.plan.repetition > 1 for run in runs for each in run.view.plans),
        names=list(dict.fromkeys(_names(runs, checks))),
        paths=_paths(views),
        since=since,
        version=__version__,
    )  # fmt: skip


def _of(kind: type[_T], shown: Sequence[object]) -> list[_T]:
    return [each for each in shown if isinstance(each, kind)]


def _told_run(key: str, run: RecordedRun) -> _ToldRun:
    view = run_view(key, run)
    return _ToldRun(view, run_story(view), tuple(failed_checks(run.whole())), rules_line(run.whole()))


def _names(runs: Sequence[_ToldRun], checks: Sequence[CheckView]) -> Iterator[str]:
    """Yield what the filter can choose: plans, and scenarios."""
    for run in runs:
        yield from (each.plan.name for each in run.view.plans)
    for check in checks:
        yield from check.check.whole().scenarios


@functools.cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("klp.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "span": span,
        "reasons": counted_reasons,
        "moment": moment_words,
        "cells": difference_cells,
        "path": path_words,
        "phase": phase_words,
        "accelerator": accelerator_words,
        "counted": quantity,
        "breakable": _breakable,
        "prose": _prose,
    }
    made.globals |= {"closing": closing, "attempts": ATTEMPTS, "pending": PENDING}
    return made


def _breakable(name: str) -> Markup:
    """Return a name that may be broken after each underscore, where a column is narrow."""
    return Markup("_<wbr>").join(name.split("_"))


def _prose(text: str) -> Markup:
    """Return text in which names between grave accents are code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def _paths(views: Sequence[RunView]) -> list[str]:
    """Return every way a task switched, for the filter."""
    drawn = [each.timeline for run in views for each in run.transitions if each.timeline]
    met = {lane.kind for timeline in drawn for lane in timeline.lanes}
    return [each for each in SWITCHED if each in met]
