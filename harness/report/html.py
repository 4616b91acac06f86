# SPDX-License-Identifier: Apache-2.0
"""The report page: one HTML file that asks nothing of the network, with plotly.js packed into it."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from datetime import UTC, datetime

import jinja2
import msgspec
from markupsafe import Markup
from plotly.offline import get_plotlyjs

import harness
from harness.report.html_data import RunToShow, RunView, beside, reasons, seconds, view


def page(runs: Sequence[RunToShow], base: RunToShow | None) -> str:
    """Return the page of runs; each is compared with `base` where that is given."""
    views = [view(number, run) for number, run in enumerate(runs, 1)]
    return _environment().get_template("report.html").render(
        runs=views,
        plans=list(dict.fromkeys(each.plan.name for run in views for each in run.plans)),
        rules=list(dict.fromkeys(each.rule.id for run in runs for each in run.result.rules)),
        paths=_paths(views),
        base=base,
        compared=[(run, beside(base.result, run.run.result)) for run in views if run.run.name != base.name]
        if base
        else [],
        figures=_embedded(_figures(views)),
        plotly=_packed(get_plotlyjs()),
        version=harness.__version__,
    )  # fmt: skip


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["seconds"] = seconds
    made.filters["reasons"] = reasons
    made.filters["moment"] = _moment
    return made


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _paths(views: Sequence[RunView]) -> list[str]:
    """Return every way a task switched, for the filter."""
    figures = [each.figure for run in views for each in run.transitions]
    return sorted({bar.kind for figure in figures if figure for bar in figure.tasks})


def _figures(views: Sequence[RunView]) -> dict[str, object]:
    transitions = {each.key: each.figure for run in views for each in run.transitions if each.figure}
    return {**transitions, **{key: lives for run in views for key, lives in run.lives}}


def _embedded(value: object) -> Markup:
    """Return JSON that cannot end the script element it stands in."""
    return Markup(msgspec.json.encode(value).decode().replace("<", "\\u003c"))


def _packed(text: str) -> str:
    """Return a script packed to 40 %, as the page's own script unpacks it."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
