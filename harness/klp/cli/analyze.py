# SPDX-License-Identifier: Apache-2.0
"""`klp analyze`: the rules' verdicts on a run that was recorded."""

from __future__ import annotations

from pathlib import Path

import click

from klp.analysis.evidence import Verdict
from klp.analysis.rules.registry import RULES
from klp.analysis.words import stories
from klp.cli.common import print_json, progress, settings, stdout
from klp.errors import ExitCode, UsageError
from klp.paths import runs_root
from klp.progress import under_way
from klp.records.finding import find_folder
from klp.records.reading import read_recording, read_run
from klp.records.verdicts import judge
from klp.report.rules import verdicts_table


@click.command()
@click.argument("run")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the verdicts as JSON.")
@click.option("--rule", "only", multiple=True, metavar="ID", help="Judge this rule; may be given often.")
def analyze(run: str, as_json: bool, only: tuple[str, ...]) -> int:
    """Judge a recorded run by the rules of `klp rules`.

    RUN is a run folder, a name of `klp runs`, `latest`, or an events.jsonl. Numbers with a # are lines of
    that file.
    """
    unknown = [each for each in only if each not in RULES]
    if unknown:
        raise UsageError(f"{unknown[0]}: no such rule", hint="`klp rules` lists them")
    file = Path(run)
    recording = file if file.is_file() else find_folder(run, runs_root(settings().runs))
    with under_way(progress(), "judging what was recorded"):
        recorded = read_recording(recording)
        verdicts = judge(recorded, only)
    if as_json:
        print_json(verdicts)
    else:
        ended = read_run(recording).result if recording.is_dir() else None
        if ended and ended.error:
            # First: what a guest that was lost did not come to is in no rule's words.
            stdout.print(f"{ended.verdict.value}, ended early: {ended.error}", soft_wrap=True)
        for leg in (each.leg for guest in recorded.guests for each in guest.legs):
            for line in stories(leg):
                stdout.print(line, soft_wrap=True)
        stdout.print(verdicts_table(verdicts))
    broken = any(each.verdict is Verdict.VIOLATED for each in verdicts)
    return ExitCode.CHECK_FAILED if broken else ExitCode.OK
