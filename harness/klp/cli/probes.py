# SPDX-License-Identifier: Apache-2.0
"""`klp probes`: the BCC tools, which also work on their own."""

from __future__ import annotations

import click

from klp.cli.common import example, plain_option, print_json, stdout
from klp.errors import ExitCode
from klp.report.columns import Columns
from klp.trace.catalogue import ProbeTool, probe_tools


@click.command(epilog=example("klp probes"))
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the list as JSON.")
def probes(as_json: bool) -> int:
    """List the probes: BCC tools that a run arms, and that work on any machine with BCC.

    Copy the folder they are in, and run one as root: ./klptransition.py --help.
    """
    tools = probe_tools()
    if as_json:
        print_json(tools)
        return ExitCode.OK
    stdout.print(Columns(("probe", "shows", "in runs", "manual"), map(_cells, tools), whole=("manual",)))
    stdout.print(f"in {tools[0].program.parent}")
    return ExitCode.OK


def _cells(tool: ProbeTool) -> tuple[str | None, ...]:
    manual = f"man {tool.manual}" if tool.manual else None
    return (tool.name, tool.summary, "always" if tool.armed else "on request", manual)
