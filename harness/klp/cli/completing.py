# SPDX-License-Identifier: Apache-2.0
"""What a shell may complete a word of the command line to: names of kernels, livepatches, runs, …

Each function is what click calls `shell_complete`. What takes long to import is imported
when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem


def kernel_names(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the kernels of `klp kernels`; a shell adds folders, which may be build trees."""
    del context, parameter
    from klp.images.names import known_kernels

    return _beginning(known_kernels(), incomplete, beside="dir")


def livepatch_names(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return klp's own livepatches; a shell adds files."""
    del context, parameter
    from klp.modules.sources import own_livepatches

    return _beginning(own_livepatches(), incomplete, beside="file")


def run_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of runs and checks, the newest first; a shell adds folders."""
    del context, parameter
    from klp import paths
    from klp.records.finding import LATEST, all_folders
    from klp.settings import load

    names = [each.name for each in reversed(all_folders(paths.runs_root(load().runs)))]
    return _beginning([LATEST, *names], incomplete, beside="dir")


def rule_ids(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the rules' ids, each with what it says."""
    del context, parameter
    from klp.analysis.rules.registry import RULES

    found = (each for each in RULES.values() if each.id.startswith(incomplete))
    return [CompletionItem(each.id, help=each.text) for each in found]


def scenario_names(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the scenarios of `klp check`, each with what it does."""
    del context, parameter
    from klp.check.registry import listed

    return [
        CompletionItem(each.name, help=each.summary)
        for each in listed()
        if each.name.startswith(incomplete)
    ]


def guest_names(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the guests that are up."""
    del context, parameter
    from klp.lab.keeper import guests

    return _beginning([each.name for each in guests()], incomplete)


def _beginning(names: Iterable[str], incomplete: str, *, beside: str = "") -> list[CompletionItem]:
    found = [CompletionItem(each) for each in names if each.startswith(incomplete)]
    # First, for bash: what click gives it forgets all names before an item of this kind.
    return [*([CompletionItem(incomplete, type=beside)] if beside else []), *found]
