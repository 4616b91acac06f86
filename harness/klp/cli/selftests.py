# SPDX-License-Identifier: Apache-2.0
"""`klp selftests`: the kernel's own livepatch selftests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from klp.analysis.selftests import SelftestsResult
from klp.analysis.words import how_many
from klp.cli.common import (
    bootable,
    check_writable,
    example,
    folder_option,
    kernels_option,
    library,
    plain_option,
    print_json,
    progress,
    settings,
    stderr,
    stdout,
    tell_folder,
    write_output,
)
from klp.cli.saying import say, say_json
from klp.errors import ExitCode, UsageError
from klp.paths import SelftestsLayout
from klp.records.encoding import encode
from klp.records.writing import new_folder
from klp.report.junit import selftests_junit
from klp.report.ktap import ktap
from klp.report.selftest_table import selftest_problems, selftests_table
from klp.selftests.build import find_selftests
from klp.selftests.plan import Choices
from klp.selftests.run import SelftestsRun, build_selftests
from klp.settings import Settings


@click.command(epilog=example("klp selftests -k 6.12 -s callbacks"))
@kernels_option
@click.option("-s", "--script", "scripts", multiple=True, metavar="S",
              help="One of its scripts, such as ftrace, or a file that sources functions.sh; "
              "may be repeated.")  # fmt: skip
@folder_option
@click.option("--junit", "junit_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write JUnit XML, too.")  # fmt: skip
@click.option("--ktap", "as_ktap", is_flag=True, help="Print KTAP instead of the table.")
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print selftests.json instead of the table.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N",
              show_default="as many as the host holds", help="Guests at once.")  # fmt: skip
@click.option("--deadline", type=click.FloatRange(min=0, min_open=True), metavar="S",
              show_default="by the accelerator",
              help="Seconds a script may take.")  # fmt: skip
@click.option("--no-trace", is_flag=True, help="Run without probes: as by hand.")
@click.option("--list", "only_list", is_flag=True, help="List scripts and their cases; run nothing.")
def selftests(
    *,
    kernels: tuple[str, ...],
    scripts: tuple[str, ...],
    out: Path | None,
    junit_file: Path | None,
    as_ktap: bool,
    as_json: bool,
    jobs: int | None,
    deadline: float | None,
    no_trace: bool,
    only_list: bool,
) -> int:
    """Run the livepatch selftests of each kernel's own source, every script in a fresh guest.

    Exit code 0: every case is ok or was skipped by its script, and no check of a trace or kernel log is
    violated.
    """
    if as_ktap and as_json:
        raise UsageError("--ktap and --json: only one of them can be printed")
    wanted = [settings(kernel=each) for each in dict.fromkeys(kernels)] or [settings()]
    if only_list:
        _list(wanted, scripts, as_json=as_json)
        return ExitCode.OK
    check_writable(junit_file)
    choices = Choices(jobs=jobs, traced=not no_trace, deadline_s=deadline)
    run, layout = _prepared(wanted, scripts, out, choices)
    try:
        failure = run.execute()
    finally:  # an interrupted run shows what it has
        _show(run.result, layout, junit_file, as_ktap=as_ktap, as_json=as_json)
    if failure:
        raise failure
    return ExitCode.OK if run.result.good else ExitCode.CHECK_FAILED


def _prepared(
    wanted: Sequence[Settings], scripts: Sequence[str], out: Path | None, choices: Choices
) -> tuple[SelftestsRun, SelftestsLayout]:
    """Build everything for every kernel first, so that a failure stops the run before it begins."""
    kernels = [bootable(each) for each in wanted]
    steps = progress()
    with new_folder(wanted[0], out, "selftests") as folder:
        layout = SelftestsLayout(folder.root)
        built = build_selftests([each.request for each in kernels], scripts, layout, steps)
    return SelftestsRun(built, layout, kernels[0].cache, choices=choices, progress=steps), layout


def _list(wanted: Sequence[Settings], scripts: Sequence[str], *, as_json: bool) -> None:
    listed: dict[str, dict[str, list[str]]] = {}
    for each in wanted:
        kernel = library(each).ensure(each.kernel).kernel
        found = find_selftests(kernel, scripts)
        listed[kernel.name] = {one.name: [case.name for case in one.cases] for one in found.scripts}
    if as_json:
        print_json(listed)
        return
    for kernel_name, by_script in listed.items():
        cases = sum(len(names) for names in by_script.values())
        say(f"{kernel_name}: {how_many(len(by_script), 'script')}, {how_many(cases, 'case')}")
        for script, names in by_script.items():
            say("\n".join([f"  {script}", *(f"    {name}" for name in names)]))


def _show(
    result: SelftestsResult,
    layout: SelftestsLayout,
    junit_file: Path | None,
    *,
    as_ktap: bool,
    as_json: bool,
) -> None:
    if junit_file is not None:
        write_output(junit_file, selftests_junit(result))
    data = as_ktap or as_json
    if as_json:
        say_json(encode(result).decode(), nl=False)
    elif as_ktap:
        say(ktap(result), nl=False)
    else:
        stdout.print(selftests_table(result))
    console = stderr if data else stdout
    for line in selftest_problems(result):
        console.print(line, style="red")
    tell_folder(layout.root, console)
