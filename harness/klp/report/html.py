# SPDX-License-Identifier: Apache-2.0
"""The report page: one HTML file that asks nothing of the network, with plotly.js packed into it."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import jinja2
import msgspec
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from klp.analysis.evidence import overall
from klp.analysis.recording import Recorded, RecordedCheck, RecordedRun
from klp.report.against import SinceBase
from klp.report.comparison import closing, difference_cells
from klp.report.html_check import CheckView, check_view
from klp.report.html_data import RunView, counted_reasons, run_view, seconds
from klp.version import __version__

_T = TypeVar("_T")


def report_page(shown: Sequence[Recorded], since: Sequence[SinceBase] = ()) -> str:
    """Return the page of runs and checks, with comparisons that were made before."""
    runs = [run_view(f"run{number}", run) for number, run in enumerate(_of(RecordedRun, shown), 1)]
    checks = [
        check_view(f"check{number}", check) for number, check in enumerate(_of(RecordedCheck, shown), 1)
    ]
    views = [*runs, *(run for check in checks for run in check.runs)]
    return _environment().get_template("report.html").render(
        runs=runs,
        checks=checks,
        plans=list(dict.fromkeys(each.plan.name for run in runs for each in run.plans)),
        names=list(dict.fromkeys(_names(runs, checks))),
        rules=list(dict.fromkeys(each.rule.id for run in runs for each in run.run.whole().rules)),
        paths=_paths(views),
        since=since,
        figures=_embedded(_figures(views)),
        plotly=_packed(get_plotlyjs()),
        version=__version__,
    )  # fmt: skip


def _of(kind: type[_T], shown: Sequence[object]) -> list[_T]:
    return [each for each in shown if isinstance(each, kind)]


def _names(runs: Sequence[RunView], checks: Sequence[CheckView]) -> Iterator[str]:
    """Yield what the filter can choose: plans, and scenarios."""
    for run in runs:
        yield from (each.plan.name for each in run.plans)
    for check in checks:
        yield from check.check.whole().scenarios


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("klp.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["seconds"] = seconds
    made.filters["reasons"] = counted_reasons
    made.filters["moment"] = _moment
    made.filters["cells"] = difference_cells
    made.globals["closing"] = closing
    made.globals["overall"] = overall
    return made


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _paths(views: Sequence[RunView]) -> list[str]:
    """Return every way a task switched, for the filter."""
    figures = [each.figure for run in views for each in run.transitions]
    return sorted({bar.kind for figure in figures if figure for bar in figure.tasks})


def _figures(views: Sequence[RunView]) -> dict[str, object]:
    transitions = {each.key: each.figure for run in views for each in run.transitions if each.figure}
    return {**transitions, **{key: figure for run in views for key, figure in run.lifetimes}}


def _embedded(value: object) -> Markup:
    """Return JSON that cannot end the script element it stands in: a task's name may be ``</script>``."""
    return Markup(msgspec.json.encode(value).decode().replace("<", "\\u003c"))


def _packed(text: str) -> str:
    """Return a script packed to 40 % of its size; the page unpacks it as it is opened."""
    # Without a time, so that equal runs make equal pages.
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
