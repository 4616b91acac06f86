# SPDX-License-Identifier: Apache-2.0
"""`klp probes`: the BCC tools, which also work on their own."""

from __future__ import annotations

import os
from pathlib import Path

import click
from rich.table import Table

from klp.cli.common import print_json, stdout
from klp.errors import ExitCode
from klp.trace.catalogue import ProbeTool, probe_tools


@click.command()
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the list as JSON.")
def probes(as_json: bool) -> int:
    """List the probes: BCC tools that a run arms, and that work on any machine with BCC.

    Copy the folder they are in, and run one as root: ./klptransition.py --help.
    """
    tools = probe_tools()
    if as_json:
        print_json(tools)
        return ExitCode.OK
    table = Table(box=None, pad_edge=False)
    for title in ("probe", "shows", "in runs", "manual", "example"):
        table.add_column(title, overflow="fold")
    for each in tools:
        table.add_row(*_cells(each))
    stdout.print(table)
    stdout.print(f"in {_shown(tools[0].program.parent)}", soft_wrap=True)
    return ExitCode.OK


def _cells(tool: ProbeTool) -> tuple[str, ...]:
    files = (tool.manual, tool.example)
    here = tool.program.parent
    shown = (str(each.relative_to(here)) if each else "-" for each in files)
    return (tool.name, tool.summary, "always" if tool.armed else "on request", *shown)


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
