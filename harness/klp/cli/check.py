# SPDX-License-Identifier: Apache-2.0
"""`klp check`: livepatches through their whole life, on each kernel named."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from klp import paths
from klp.analysis.checked import CheckResult
from klp.analysis.evidence import Verdict
from klp.analysis.recording import RecordedCheck
from klp.check.candidate import Wanted, livepatches_of
from klp.check.engine import CheckRun
from klp.check.plan import CheckOrder, TargetKernel, targets
from klp.check.registry import chosen, listed
from klp.cli.common import (
    bootable,
    check_writable,
    deadline_option,
    example,
    folder_option,
    kernels_option,
    nothing_to,
    plain_option,
    print_json,
    progress,
    settings,
    stderr,
    stdout,
    tell_folder,
    write_output,
)
from klp.cli.completing import livepatch_names, run_names, scenario_names
from klp.cli.saying import say_json
from klp.errors import ExitCode, UnknownName, UsageError
from klp.paths import CheckLayout
from klp.records.encoding import encode
from klp.records.finding import find_check_folder
from klp.records.reading import read_check
from klp.records.sets import compare_records, read_to_compare
from klp.records.writing import new_folder
from klp.report.check_junit import check_junit
from klp.report.check_table import check_closing, check_problems, check_table
from klp.report.columns import Columns
from klp.report.comparison import closing, comparison_table
from klp.report.table import STYLES
from klp.settings import Settings


@click.command(epilog=example("klp check fix.patch -k 6.1 -k 6.12 --quick"))
@click.argument("patches", nargs=-1, metavar="[PATCH]...", shell_complete=livepatch_names)
@kernels_option
@click.option("-s", "--scenario", "scenarios", multiple=True, metavar="S",
              shell_complete=scenario_names, help="One of --list; may be repeated.")  # fmt: skip
@click.option("-l", "--livepatch", "only", multiple=True, metavar="L",
              help="One of the livepatches that PATCH holds; may be repeated.")  # fmt: skip
@click.option("--quick", is_flag=True, help=f"Only {', '.join(chosen((), quick=True))}.")
@click.option("--debug", is_flag=True, help="On kernels that look for faults in memory; slower.")
@click.option(
    "--repeat", type=click.IntRange(min=1), default=1, metavar="N", help="Run each scenario N times."
)
@folder_option
@click.option(
    "--resume",
    metavar="RUN",
    shell_complete=run_names,
    help="Go on with a check that was interrupted; without PATCH.",
)
@click.option(
    "--against",
    metavar="RUN",
    shell_complete=run_names,
    help="Say what became worse since an earlier check.",
)
@click.option("--strict", is_flag=True, help="For CI: exit code 1 unless the check's own verdict is held.")
@click.option("--junit", "junit_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write JUnit XML, too.")  # fmt: skip
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print check.json instead of the matrix.")
@click.option(
    "--jobs", type=click.IntRange(min=1), metavar="N", show_default="2 if they fit", help="Guests at once."
)
@deadline_option
@click.option("--list", "only_list", is_flag=True, help="List the scenarios; run nothing.")
def check(
    patches: tuple[str, ...],
    *,
    kernels: tuple[str, ...],
    scenarios: tuple[str, ...],
    only: tuple[str, ...],
    quick: bool,
    debug: bool,
    repeat: int,
    out: Path | None,
    resume: str | None,
    against: str | None,
    strict: bool,
    junit_file: Path | None,
    as_json: bool,
    jobs: int | None,
    deadline_s: float | None,
    only_list: bool,
) -> int:
    """Drive livepatches through their life, each scenario in a fresh guest, on each kernel named.

    PATCH is a source patch, a folder of patches/, a folder with a Kbuild, a .c file, a .ko, or `samples`.
    RUN is the folder of an earlier check, its name in the folder of runs, or `latest`. Exit code 0: no
    scenario found a fault, no guest was lost, and with --against nothing became worse; with --strict, each
    new function was seen to run as well, and all that applies was tried.
    """
    names = chosen(scenarios, quick=quick)
    if only_list:
        _list(as_json=as_json)
        return ExitCode.OK
    check_writable(junit_file)
    # Found before the check begins: `latest` is to be the newest check but this one.
    base = _found(against) if against else None
    if resume is not None:
        run, layout = _resumed(resume, patches, jobs, deadline_s, debug=debug)
    else:
        livepatches = _wanted(patches, only)
        each_settings = _settings_of(kernels, deadline_s, debug=debug)
        order = CheckOrder(livepatches, _targets(each_settings), names, quick=quick, repeat=repeat)
        check_alike(base, order)
        run, layout = _fresh(order, each_settings[0], out, jobs)
    try:
        failure = run.execute()
    finally:  # an interrupted check shows what it has
        _show(run.result, layout, junit_file, as_json=as_json, strict=strict)
    console = stderr if as_json else stdout
    worse = not failure and base is not None and _became_worse(base, layout, console)
    # Last, where a terminal or a CI's log is looked at first.
    console.print(check_closing(run.result), style=f"bold {STYLES[run.result.verdict]}")
    if failure:
        raise failure
    return exit_of(run.result, worse=worse, strict=strict)


def _found(word: str) -> RecordedCheck:
    """Return the earlier check that a word names.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    check = read_check(find_check_folder(word, paths.runs_root(settings().runs)))
    check.whole()
    return check


def _became_worse(base: RecordedCheck, new: CheckLayout, console: Console) -> bool:
    """Show what differs from an earlier check, and return whether anything is worse."""
    old, now = (read_to_compare(each) for each in (Path(base.folder), new.root))
    found = compare_records(old, now, settings())
    console.print(comparison_table(found))
    console.print(closing(found))
    return bool(found.regressions)


def exit_of(result: CheckResult, *, worse: bool = False, strict: bool = False) -> int:
    """Return the exit code of a check.

    Args:
        worse: anything became worse since the check that it is held against.
        strict: only a check whose own verdict is held is a success.
    """
    if worse or result.violated:
        return ExitCode.CHECK_FAILED
    # Also with --strict: a CI that reads 3 knows that another try may tell more.
    if result.lost:
        return ExitCode.VM_LOST
    return ExitCode.CHECK_FAILED if strict and result.verdict is not Verdict.HELD else ExitCode.OK


def _wanted(patches: Sequence[str], only: Sequence[str]) -> tuple[Wanted, ...]:
    if not patches:
        raise nothing_to("check")
    found = livepatches_of(patches)
    names = [each.name for each in found]
    for name in only:
        if name not in names:
            raise UnknownName(
                f"--livepatch {name}: PATCH holds none of that name", name, names,
                hint=f"it holds {', '.join(names)}",
            )  # fmt: skip
    return tuple(each for each in found if not only or each.name in only)


def _settings_of(kernels: Sequence[str], deadline_s: float | None, *, debug: bool) -> list[Settings]:
    shared = {"deadline_s": deadline_s, "debug": debug or None}
    named = [settings(kernel=each, **shared) for each in dict.fromkeys(kernels)]
    return named or [settings(**shared)]


def _targets(each_settings: Sequence[Settings]) -> tuple[TargetKernel, ...]:
    """Return the kernels, their images built: one that cannot be had stops the check before it begins."""
    found = [bootable(each) for each in each_settings]
    known = targets([(each.image, each.accelerator.accelerator.value) for each in found])
    looking = [each.request.looking for each in found]
    return tuple(
        replace(kernel, debug=each.summary if each else "")
        for kernel, each in zip(known, looking, strict=True)
    )


def _fresh(
    order: CheckOrder, wanted: Settings, out: Path | None, jobs: int | None
) -> tuple[CheckRun, CheckLayout]:
    with new_folder(wanted, out, "check") as folder:
        layout = CheckLayout(folder.root)
    return CheckRun(order, layout, wanted, progress=progress(), jobs=jobs), layout


def _resumed(
    word: str, patches: Sequence[str], jobs: int | None, deadline_s: float | None, *, debug: bool
) -> tuple[CheckRun, CheckLayout]:
    if patches:
        raise UsageError(
            "--resume goes on with what the check has; name no PATCH",
            hint=shlex.join(["klp", "check", "--resume", word]),
        )
    found = _found(word)
    before, layout = found.whole(), CheckLayout(Path(found.folder))
    if debug and not before.debug:
        raise UsageError(f"{found.folder}: begun without --debug", hint="begin a new check")
    each_settings = [
        settings(kernel=each.name, deadline_s=deadline_s, debug=before.debug) for each in before.kernels
    ]
    again = livepatches_of(list(dict.fromkeys(each.word for each in before.livepatches)))
    names = {each.name for each in before.livepatches}
    chosen_again = tuple(each for each in again if each.name in names)
    kernels = _targets(each_settings)
    _check_same(found, chosen_again, kernels)
    order = CheckOrder(
        chosen_again, kernels, before.scenarios, quick=before.quick, repeat=before.repeat
    )  # fmt: skip
    run = CheckRun(
        order, layout, each_settings[0], progress=progress(), jobs=jobs, before=before
    )  # fmt: skip
    return run, layout


def _check_same(found: RecordedCheck, again: Sequence[Wanted], kernels: Sequence[TargetKernel]) -> None:
    """Refuse to go on with a check if a livepatch or a kernel has changed: its results would be of both."""
    hint = "begin a new check"
    before = found.whole()
    for was, now in zip(before.livepatches, again, strict=False):
        if was.name != now.name or was.digest != now.source.digest:
            raise UsageError(f"{was.word}: its sources have changed since {found.folder}", hint=hint)
    if len(again) != len(before.livepatches):
        raise UsageError(f"{found.folder}: its livepatches are not all there any more", hint=hint)
    for earlier, kernel in zip(before.kernels, kernels, strict=True):
        if earlier.image_digest != kernel.image.digest:
            raise UsageError(f"kernel {earlier.name} has changed since {found.folder}", hint=hint)


def check_alike(base: RecordedCheck | None, order: CheckOrder) -> None:
    """Refuse to compare with a check whose kernels look for faults in memory where these do not.

    Scenarios take longer in such a kernel, and it finds what others do not.
    """
    debug = any(each.debug for each in order.kernels)
    if base is not None and base.whole().debug != debug:
        how = "without --debug" if debug else "with --debug"
        raise UsageError(f"{base.folder}: was checked {how}", hint="compare with a check of the same kind")


def _list(*, as_json: bool) -> None:
    rows = [
        (each.name, "yes" if each.quick else "", str(each.cpus or ""), each.summary) for each in listed()
    ]
    if as_json:
        print_json([{"name": name, "quick": bool(fast), "summary": text} for name, fast, _, text in rows])
    else:
        stdout.print(Columns(("scenario", "--quick", "CPUs", "what it does"), rows, right=("CPUs",)))


def _show(
    result: CheckResult, layout: CheckLayout, junit_file: Path | None, *, as_json: bool, strict: bool
) -> None:
    if junit_file is not None:
        write_output(junit_file, check_junit(result, strict=strict))
    if as_json:
        say_json(encode(result).decode(), nl=False)
    else:
        stdout.print(check_table(result))
    console = stderr if as_json else stdout
    tell_folder(layout.root, console)
    for outcome, text in check_problems(result, str(layout.root)):
        console.print(text, style=STYLES[outcome.verdict])
