# SPDX-License-Identifier: Apache-2.0
"""What several commands need: the console, progress, settings with the command line over them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from klp import paths
from klp import settings as settings_room
from klp.cli.completing import kernel_names, rule_ids
from klp.cli.saying import say_json
from klp.consoles import for_console
from klp.durations import Durations
from klp.errors import HostLacks, UnknownName, UsageError
from klp.images.library import Library
from klp.lab.bootable import Bootable, make_bootable
from klp.paths import CacheLayout
from klp.progress import Progress
from klp.report.columns import ResultConsole
from klp.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

stdout = ResultConsole()
stderr = ResultConsole(stderr=True)


def example(command: str) -> str:
    """Return the end of a command's help: a line that can be typed as it is."""
    return f"\b\nExample:\n  {command}"


def setting_default(name: str, unit: str = "") -> str:
    """Return the default of an option that a setting has, for its help."""
    value = getattr(Settings(), name)
    shown = f"{value:g}" if isinstance(value, float) else value
    return f"{shown}{unit}, or the setting {name}"


def kernels_option(function: F) -> F:
    """Add ``--kernel`` that may be given often."""
    return click.option(
        "-k", "--kernel", "kernels", multiple=True, metavar="K", show_default=setting_default("kernel"),
        shell_complete=kernel_names,
        help="A name of `klp kernels`, or a kernel build tree's folder; may be repeated.",
    )(function)  # fmt: skip


def folder_option(function: F) -> F:
    """Add ``--out``, of what leaves a run folder."""
    return click.option(
        "-o", "--out", type=click.Path(path_type=Path), metavar="DIR", help="Run folder; new or empty.",
        show_default="a new one that `klp runs` lists",
    )(function)  # fmt: skip


def deadline_option(function: F) -> F:
    """Add ``--deadline``."""
    return click.option(
        "--deadline", "deadline_s", type=float, metavar="S", show_default=setting_default("deadline_s"),
        help="Seconds a transition may take.",
    )(function)  # fmt: skip


def plain_option(function: F) -> F:
    """Add ``--plain``, of all commands that print a table."""
    return click.option(
        "--plain", is_flag=True, expose_value=False, callback=_choose_plain,
        help="Set the table's columns apart by tabs.",
    )(function)  # fmt: skip


def _choose_plain(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    del context, parameter
    stdout.plain = value


def kernel_option(function: F) -> F:
    """Add ``--kernel``."""
    return click.option(
        "-k", "--kernel", metavar="K", show_default=setting_default("kernel"), shell_complete=kernel_names,
        help="A name of `klp kernels`, or a kernel build tree's folder.",
    )(function)  # fmt: skip


def rule_option(function: F) -> F:
    """Add ``--rule``, which may be given often."""
    return click.option(
        "--rule", "only", multiple=True, metavar="ID", callback=known_rules, shell_complete=rule_ids,
        help="This rule alone; may be repeated.",
    )(function)  # fmt: skip


def known_rules(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    """Return ids of rules as they are given, for click.

    Raises:
        UnknownName: one is no rule's.
    """
    del context, parameter
    # Imported here: most commands know of no rule.
    from klp.analysis.rules.registry import RULES

    for each in value:
        if each not in RULES:
            raise UnknownName(f"{each}: no such rule", each, RULES, hint="klp rules lists them")
    return value


def durations() -> Durations:
    """Return how long work took before, by what the cache remembers.

    Raises:
        SettingsError: as `settings`.
    """
    return Durations(CacheLayout(paths.cache_root(settings().cache)).durations)


@cache
def progress() -> Progress:
    """Return what shows this process's progress, always on stderr: stdout is for results.

    One for the whole process, for steps are told as parts of those around them.

    Raises:
        SettingsError: as `settings`.
    """
    return for_console(stderr, durations())


def settings(**changes: object) -> Settings:
    """Return the settings, with those of `changes` that are not None over them.

    Raises:
        SettingsError: what a file or a variable says is wrong.
        UsageError: a change is out of its setting's range.
    """
    return settings_room.load(**changes)


def library(wanted: Settings) -> Library:
    """Return the images of the cache that the settings name."""
    return Library(wanted, progress())


def bootable(wanted: Settings) -> Bootable:
    """Make the settings' kernel bootable, and say what runs it; raises as `make_bootable`."""
    found = make_bootable(wanted, progress())
    chosen = found.accelerator
    stderr.print(f"{chosen.accelerator.value}: {chosen.reason}")
    return found


def tell_folder(folder: Path, console: ResultConsole = stdout) -> None:
    """Say where a run's folder is, so that a shell takes what is printed."""
    console.print(f"run folder: {shlex.quote(str(folder))}")


def nothing_to(verb: str, *, others: bool = True) -> UsageError:
    """Return what is said where a command is given no livepatch.

    Args:
        verb: the command.
        others: whether it takes livepatches other than source patches, too.
    """
    more = "; or a folder with a Kbuild, a .c file, a .ko, samples" if others else ""
    return UsageError(f"nothing to {verb}", hint=f"klp {verb} fix.patch{more}")


def below_here(path: Path) -> Path:
    """Return a path as it is shown: relative to the current folder where it is below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def check_writable(file: Path | None) -> None:
    """Refuse a file whose folder is not there before an hour is spent on what goes into it."""
    if file is not None and not file.absolute().parent.is_dir():
        raise UsageError(f"{file}: no such folder", hint=f"mkdir -p {shlex.quote(str(file.parent))}")


def write_output(file: Path, content: bytes) -> None:
    """Write what a user asked to have in a file.

    Raises:
        HostLacks: it cannot be written.
    """
    try:
        file.write_bytes(content)
    except OSError as error:
        raise HostLacks(f"{file}: {error.strerror}", hint="name a file that can be written") from error


def print_json(value: object) -> None:
    """Print a value as indented JSON on stdout."""
    say_json(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=1).decode())
