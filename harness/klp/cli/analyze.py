# SPDX-License-Identifier: Apache-2.0
"""`klp analyze`."""

from __future__ import annotations

from pathlib import Path

import click

from klp.analysis.evidence import Verdict
from klp.analysis.rules.registry import RULES
from klp.analysis.words import stories
from klp.cli.common import print_json, stdout
from klp.errors import ExitCode, UsageError
from klp.records.verdicts import histories, judge
from klp.report.rules import verdicts_table


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the verdicts as JSON.")
@click.option("--rule", "only", multiple=True, metavar="ID", help="Judge this rule; may be given often.")
def analyze(run: Path, as_json: bool, only: tuple[str, ...]) -> int:
    """Judge a recorded run by the rules of `klp rules`.

    RUN is a run folder, or an events.jsonl. Numbers with a # are lines of that file.
    """
    unknown = [each for each in only if each not in RULES]
    if unknown:
        raise UsageError(f"{unknown[0]}: no such rule", hint="`klp rules` lists them")
    told = histories(run)
    verdicts = judge(told, only)
    if as_json:
        print_json(verdicts)
    else:
        for line in (line for _, each in told for leg in each.legs for line in stories(leg)):
            stdout.print(line, soft_wrap=True)
        stdout.print(verdicts_table(verdicts))
    broken = any(each.verdict is Verdict.VIOLATED for each in verdicts)
    return ExitCode.CHECK_FAILED if broken else ExitCode.OK
