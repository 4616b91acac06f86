# SPDX-License-Identifier: Apache-2.0
"""`klp analyze`: the rules' verdicts on a run that was recorded."""

from __future__ import annotations

from pathlib import Path

import click

from klp.analysis.evidence import Verdict
from klp.analysis.words import stories
from klp.cli.common import example, plain_option, print_json, progress, rule_option, settings, stdout
from klp.cli.completing import run_names
from klp.errors import ExitCode
from klp.paths import runs_root
from klp.progress import under_way
from klp.records.finding import LATEST, find_run_folder
from klp.records.reading import read_histories, read_run
from klp.records.verdicts import judge
from klp.report.rules import verdicts_table


@click.command(epilog=example("klp analyze latest --rule T1"))
@click.argument("run", default=LATEST, shell_complete=run_names)
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the verdicts as JSON.")
@rule_option
def analyze(run: str, as_json: bool, only: tuple[str, ...]) -> int:
    """Judge a recorded run by the rules of `klp rules`.

    RUN is a run folder, a name of `klp runs`, `latest`, or an events.jsonl; of a check it is the run of one
    of its scenarios. Numbers with a # are lines of that file.
    """
    file = Path(run)
    recording = file if file.is_file() else find_run_folder(run, runs_root(settings().runs))
    with under_way(progress(), "judging what was recorded"):
        guests = read_histories(recording)
        verdicts = judge(guests, only)
    if as_json:
        print_json(verdicts)
    else:
        ended = read_run(recording).result if recording.is_dir() else None
        if ended and ended.error:
            # First: what a guest that was lost did not come to is in no rule's words.
            stdout.print(f"{ended.verdict.value}, ended early: {ended.error}")
        for leg in (leg for guest in guests for leg in guest.history.legs):
            for line in stories(leg):
                stdout.print(line)
        stdout.print(verdicts_table(verdicts))
    broken = any(each.verdict is Verdict.VIOLATED for each in verdicts)
    return ExitCode.CHECK_FAILED if broken else ExitCode.OK
