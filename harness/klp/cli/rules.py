# SPDX-License-Identifier: Apache-2.0
"""`klp rules`: the rules that traces are judged by."""

from __future__ import annotations

import click

from klp.analysis.rules.registry import RULES
from klp.cli.common import example, plain_option, print_json, stdout
from klp.report.rules import rules_table


@click.command(epilog=example("klp rules"))
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print them as JSON.")
def rules(as_json: bool) -> None:
    """List the rules that traces are judged by, with the kernel function and document each is from."""
    if as_json:
        print_json(tuple(RULES.values()))
    else:
        stdout.print(rules_table(RULES.values()))
