# SPDX-License-Identifier: Apache-2.0
"""`klp doctor`: what this host lacks."""

from __future__ import annotations

import click
from rich.text import Text

from klp.cli.common import example, plain_option, print_json, progress, settings, stderr, stdout
from klp.doctor import examine
from klp.doctor import retry_kvm as retry
from klp.errors import ExitCode
from klp.progress import under_way
from klp.report.columns import Columns


@click.command(epilog=example("klp doctor"))
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--retry-kvm", is_flag=True, help="Forget that no guest booted with KVM: the next one tries.")
def doctor(as_json: bool, retry_kvm: bool) -> int:
    """Say what this host has and lacks, which accelerator is used and why, and what mends each lack."""
    if retry_kvm:
        stderr.print(retry(settings()))
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
