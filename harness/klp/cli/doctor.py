# SPDX-License-Identifier: Apache-2.0
"""`klp doctor`: what this host lacks."""

from __future__ import annotations

import click
from rich.text import Text

from klp.cli.common import example, plain_option, print_json, progress, settings, stdout
from klp.doctor import examine
from klp.errors import ExitCode
from klp.progress import under_way
from klp.report.columns import Columns


@click.command(epilog=example("klp doctor"))
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> int:
    """Say what this host has and lacks, which accelerator is used and why, and what mends each lack."""
    with under_way(progress(), "looking at this host"):
        report = examine(settings())
    if as_json:
        print_json(report)
    else:
        rows = [
            (Text("ok", style="green") if each.ok else Text("lacks", style="red"), each.name, each.detail,
             each.mend)
            for each in report.checks
        ]  # fmt: skip
        stdout.print(Columns(("", "what", "found", "what mends it"), rows))
    return ExitCode.OK if report.ok else ExitCode.HOST_LACKS
