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
from klp.trace.export import export_folder, export_zipapp


@click.command()
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the list as JSON.")
@click.option("--export", "folder", type=click.Path(path_type=Path), metavar="DIR",
              help="Copy them, with their manual pages, into a new folder.")  # fmt: skip
@click.option("--zipapp", "file", type=click.Path(path_type=Path), metavar="FILE",
              help="Write them into one new file that Python runs, such as klp-probes.pyz.")  # fmt: skip
def probes(as_json: bool, folder: Path | None, file: Path | None) -> int:
    """List the probes: BCC tools that a run arms, and that work on any machine with BCC.

    For a machine without klp: klp probes --export DIR, copy DIR there, and run one as root:
    DIR/klptransition.py --help.
    """
    if folder or file:
        _export(folder, file)
        return ExitCode.OK
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


def _export(folder: Path | None, file: Path | None) -> None:
    first = "klptransition"
    if folder:
        export_folder(folder)
        click.echo(f"{folder}: on a machine with BCC, as root: {folder}/{first}.py")
        click.echo(f"  manual pages: man -l {folder}/man/{first}.8")
    if file:
        export_zipapp(file)
        click.echo(f"{file}: on a machine with BCC, as root: python3 {file} {first}")
        click.echo(f"  manual pages: python3 {file} man {first} | man -l -")


def _cells(tool: ProbeTool) -> tuple[str, ...]:
    files = (tool.manual, tool.example)
    here = tool.program.parent
    shown = (str(each.relative_to(here)) if each else "-" for each in files)
    return (tool.name, tool.summary, "always" if tool.armed else "on request", *shown)


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
