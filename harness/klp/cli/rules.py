# SPDX-License-Identifier: Apache-2.0
"""`klp rules`: the rules that traces are judged by."""

from __future__ import annotations

import click

from klp.analysis.rules.registry import RULES
from klp.cli.common import example, known_rules, plain_option, print_json, stdout
from klp.cli.completing import rule_ids
from klp.report.rules import rules_in_full, rules_table


@click.command(epilog=example("klp rules T4"))
@click.argument("ids", nargs=-1, metavar="[ID]...", callback=known_rules, shell_complete=rule_ids)
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print them as JSON.")
def rules(ids: tuple[str, ...], *, as_json: bool) -> None:
    """List the rules that traces are judged by, with the kernel function and document each is from.

    With an ID or several, those are shown in full.
    """
    wanted = tuple(RULES[each] for each in dict.fromkeys(ids)) or tuple(RULES.values())
    if as_json:
        print_json(wanted)
    elif ids:
        stdout.print(rules_in_full(wanted))
    else:
        stdout.print(rules_table(RULES.values()))
