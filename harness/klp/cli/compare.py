# SPDX-License-Identifier: Apache-2.0
"""`klp compare`: what became worse between two sets of runs."""

from __future__ import annotations

import click

from klp import paths
from klp.cli.common import example, plain_option, print_json, progress, settings, stdout
from klp.cli.completing import run_names
from klp.errors import ExitCode, UsageError
from klp.progress import under_way
from klp.records.sets import compare_words
from klp.report.comparison import closing, comparison_table


@click.command(epilog=example("klp compare BASE latest"))
@click.argument("sets", nargs=-1, metavar="[BASE NEW]", shell_complete=run_names)
@click.option(
    "--base", multiple=True, metavar="RUN", shell_complete=run_names, help="A further run of the base."
)
@click.option(
    "--new", multiple=True, metavar="RUN", shell_complete=run_names, help="A further run of the new set."
)
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def compare(sets: tuple[str, ...], *, base: tuple[str, ...], new: tuple[str, ...], as_json: bool) -> int:
    """Say what became worse between two runs, or two sets of runs; exit 1 if anything did.

    Of one run against one only faults count, and what is not observed any more: repeat each (--repeat 5).

    BASE and NEW are each the folder of a run or a check, a folder of such, a name of `klp runs`, `latest`,
    or, in quotes, a pattern. The limits are the settings compare_…; docs/comparing.md explains them.
    """
    if len(sets) not in (0, 2):
        raise UsageError(
            f"{' '.join(sets)}: name two, BASE and NEW", hint="--base and --new name more of each"
        )
    olds, news = (*sets[:1], *base), (*sets[1:], *new)
    if not (olds and news):
        raise UsageError("nothing to compare", hint="klp compare BASE NEW")
    wanted = settings()
    with under_way(progress(), "comparing"):
        found = compare_words(olds, news, paths.runs_root(wanted.runs), wanted)
    if as_json:
        print_json(found)
    else:
        stdout.print(comparison_table(found))
        stdout.print(closing(found))
    return ExitCode.CHECK_FAILED if found.regressions else ExitCode.OK
