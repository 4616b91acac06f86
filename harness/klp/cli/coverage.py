# SPDX-License-Identifier: Apache-2.0
"""`klp coverage`: which tests observe which rule."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from klp.analysis.coverage import coverage_of
from klp.analysis.rules.registry import RULES
from klp.cli.common import example, plain_option, print_json, rule_option, stdout
from klp.cli.completing import kernel_names
from klp.errors import ExitCode, UnknownName, UsageError
from klp.images.names import known_kernels
from klp.paths import VERDICTS
from klp.records.coverage import read_tests, unobservable
from klp.report.coverage import coverage_table, tests_table


@click.command(epilog=example("klp coverage --rule T1"))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option("-k", "--kernel", "kernels", multiple=True, metavar="K",
              show_default="all known and all recorded", shell_complete=kernel_names,
              help="This kernel; may be repeated.")  # fmt: skip
@rule_option
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print it as JSON, with the tests' names.")
def coverage(
    files: tuple[Path, ...], *, kernels: tuple[str, ...], only: tuple[str, ...], as_json: bool
) -> int:
    """Say which tests observe which rule on which kernel, from recorded verdicts.

    FILE is what `pytest --klp-verdicts FILE` wrote; default: build/verdicts.jsonl. A cell counts the tests
    that passed and whose traces hold the rule, and those that broke it on purpose. Exit code 1: a cell is
    empty and nobody says why, or a rule was violated. With --rule, the tests that observe it are named, and
    those that do not.
    """
    records = read_tests(files or (VERDICTS,))
    if not records:
        raise UsageError(f"{(files or (VERDICTS,))[0]}: no test of a kernel is recorded in it")
    known = tuple(dict.fromkeys((*known_kernels(), *(each.kernel for each in records))))
    for each in kernels:
        if each not in known and not Path(each).is_dir():
            raise UnknownName(f"--kernel {each}: neither known nor recorded", each, known)
    columns = kernels or known
    rules = [each for name, each in RULES.items() if not only or name in only]
    found = coverage_of(records, rules, columns, unobservable())
    if as_json:
        print_json({"good": found.good, **msgspec.to_builtins(found)})
    else:
        stdout.print(coverage_table(found))
        for row in found.rows if only else ():
            stdout.print(tests_table(found, row))
    return ExitCode.OK if found.good else ExitCode.CHECK_FAILED
