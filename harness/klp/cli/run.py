# SPDX-License-Identifier: Apache-2.0
"""`klp run`: the main job."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from klp.analysis.evidence import Verdict
from klp.analysis.result import RunResult
from klp.cli.common import (
    bootable,
    deadline_option,
    example,
    folder_option,
    kernel_option,
    plain_option,
    progress,
    setting_default,
    settings,
    stderr,
    stdout,
    tell_folder,
)
from klp.cli.completing import livepatch_names
from klp.cli.saying import say, say_json
from klp.drive.job import wishes
from klp.drive.prepare import prepare_run
from klp.drive.preview import RunChoices, preview
from klp.drive.run import Run
from klp.errors import ExitCode
from klp.modules.sources import SAMPLES_WORD
from klp.paths import RunLayout
from klp.progress import under_way
from klp.records.encoding import encode
from klp.report.table import failed_checks, rules_line, run_table


@click.command(epilog=example("klp run version-banner -k 6.12"))
@click.argument("patches", nargs=-1, metavar="[PATCH]...", shell_complete=livepatch_names)
@kernel_option
@folder_option
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print run.json instead of the table.")
@deadline_option
@click.option(
    "--memory",
    "memory_mib",
    type=int,
    metavar="MIB",
    show_default=setting_default("memory_mib", " MiB"),
    help="Memory of the guest.",
)
@click.option(
    "--cpus", type=int, metavar="N", show_default=setting_default("cpus"), help="Virtual CPUs of the guest."
)
@click.option("--cold", is_flag=True, help="Boot a guest and arm its probes; use no saved one.")
@click.option(
    "--repeat",
    type=click.IntRange(1, 1000),
    default=1,
    metavar="N",
    help="Do it N times, each in a fresh guest: for `klp compare`.",
)
@click.option("--retry-lost", is_flag=True, help="Run a plan once more if its guest is lost under it.")
@click.option("--force", is_flag=True, help="Force a transition that outlasts its deadline.")
@click.option("--debug", is_flag=True, help="On a kernel that looks for faults in memory; slower.")
@click.option("--control", is_flag=True, help="Do the same without probes, too: see whether they disturb.")
@click.option("--consistency", is_flag=True, help="See which version of each function tasks run (T12).")
@click.option("--dry-run", is_flag=True, help="Print every step and the QEMU command; run nothing.")
def run(
    patches: tuple[str, ...],
    *,
    kernel: str | None,
    out: Path | None,
    as_json: bool,
    cold: bool,
    repeat: int,
    retry_lost: bool,
    force: bool,
    debug: bool,
    control: bool,
    consistency: bool,
    dry_run: bool,
    **limits: float | None,
) -> int:
    """Load, observe, disable and unload livepatches in a guest, under probes.

    PATCH is a source patch, a folder of patches/, a folder with a Kbuild, a .c file, a .ko, or `samples`,
    the default: the kernel's own samples/livepatch, four livepatches and three modules that they change.
    """
    wanted = settings(kernel=kernel, debug=debug or None, **limits)
    wished = wishes(patches or (SAMPLES_WORD,))
    if dry_run:
        choices = RunChoices(cold, repeat, retry_lost, force, control, consistency)
        with under_way(progress(), "looking what is there"):
            lines = tuple(preview(wished, wanted, choices, RunLayout(out or Path("RUN"))))
        say("\n".join(lines))
        return ExitCode.OK
    steps = progress()
    prepared = prepare_run(wished, bootable(wanted), out, steps, cold=cold, control=control)
    job_run = Run(
        prepared, progress=steps, repeat=repeat, retry_lost=retry_lost, force=force, consistency=consistency
    )
    result, failure = job_run.execute()
    _show(result, prepared.layout, as_json)
    if failure:
        raise failure
    return ExitCode.CHECK_FAILED if result.verdict is Verdict.VIOLATED else ExitCode.OK


def _show(result: RunResult, layout: RunLayout, as_json: bool) -> None:
    if as_json:
        say_json(encode(result).decode(), nl=False)
    elif result.plans:
        stdout.print(run_table(result))
        for line in failed_checks(result):
            stdout.print(f"violated: {line}", style="red")
    console = stderr if as_json else stdout
    if result.rules:
        console.print(f"{rules_line(result)} ({shlex.join(['klp', 'analyze', str(layout.root)])})")
    tell_folder(layout.root, console)
