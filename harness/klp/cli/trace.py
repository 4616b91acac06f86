# SPDX-License-Identifier: Apache-2.0
"""`klp trace`: a transition as it goes."""

from __future__ import annotations

from pathlib import Path

import click

from klp.analysis.evidence import Verdict
from klp.cli.common import (
    bootable,
    deadline_option,
    durations,
    example,
    folder_option,
    kernel_option,
    progress,
    settings,
    stdout,
    tell_folder,
)
from klp.cli.completing import livepatch_names
from klp.cli.watching import TransitionScreen
from klp.consoles import for_console
from klp.drive.job import wishes
from klp.drive.prepare import prepare_run
from klp.drive.run import Run
from klp.errors import ExitCode
from klp.report.table import failed_checks

_SAMPLE = "version-banner"


@click.command(epilog=example("klp trace version-banner"))
@click.argument("patch", default=_SAMPLE, shell_complete=livepatch_names)
@kernel_option
@folder_option
@deadline_option
def trace(patch: str, *, kernel: str | None, out: Path | None, deadline_s: float | None) -> int:
    """Watch a livepatch's transitions as they go: phase, tasks left, who is stuck on what.

    PATCH is what `klp run` takes; without one it is `version-banner`. A transition that lasts names
    the tasks that hold it, with patch_state, reason and kernel stack.
    """
    wanted = settings(kernel=kernel, deadline_s=deadline_s)
    wished = wishes((patch,))
    prepared = prepare_run(wished, bootable(wanted), out, progress())
    screen = TransitionScreen(stdout)
    # On a terminal the picture and the steps are one, which is redrawn as a whole.
    steps = for_console(stdout, durations(), screen.picture) if stdout.is_terminal else progress()
    result, failure = Run(prepared, progress=steps, watch=screen).execute()
    for line in failed_checks(result):
        stdout.print(f"violated: {line}", style="red", soft_wrap=True)
    tell_folder(prepared.layout.root)
    if failure:
        raise failure
    return ExitCode.CHECK_FAILED if result.verdict is Verdict.VIOLATED else ExitCode.OK
