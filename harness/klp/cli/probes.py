# SPDX-License-Identifier: Apache-2.0
"""`klp probes`: the BCC tools, which also work on their own."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from klp.cli.common import example, plain_option, print_json, stdout
from klp.cli.saying import say
from klp.errors import ExitCode
from klp.report.columns import Columns
from klp.trace.catalogue import ProbeTool, probe_tools
from klp.trace.export import export_folder, export_zipapp


@click.command(epilog=example("klp probes"))
@plain_option
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
    stdout.print(Columns(("probe", "shows", "in runs", "manual"), map(_cells, tools), whole=("manual",)))
    folder_of_all = shlex.quote(str(tools[0].program.parent))
    stdout.note(f"in {folder_of_all}; manual pages: man {folder_of_all}/man/PROBE.8")
    return ExitCode.OK


def _export(folder: Path | None, file: Path | None) -> None:
    first = "klptransition"
    if folder:
        export_folder(folder)
        say(f"{folder}: on a machine with BCC, as root: {folder}/{first}.py")
        say(f"  manual pages: man -l {folder}/man/{first}.8")
    if file:
        export_zipapp(file)
        say(f"{file}: on a machine with BCC, as root: python3 {file} {first}")
        say(f"  manual pages: python3 {file} man {first} | man -l -")


def _cells(tool: ProbeTool) -> tuple[str | None, ...]:
    manual = tool.manual.name if tool.manual else None
    return (tool.name, tool.summary, "always" if tool.armed else "on request", manual)
