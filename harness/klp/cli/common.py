# SPDX-License-Identifier: Apache-2.0
"""What several commands need: the console, progress, settings with the command line over them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console

from klp import paths
from klp import settings as settings_room
from klp.consoles import for_console
from klp.durations import Durations
from klp.errors import HostLacks, UsageError
from klp.images.library import Library
from klp.lab.bootable import Bootable, make_bootable
from klp.paths import CacheLayout
from klp.progress import Progress
from klp.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

# Where nobody has said how wide the output is (a file, a pipe, a CI log), wide enough for the tables.
_UNKNOWN_WIDTH = 120


def _console(*, stderr: bool) -> Console:
    width = None if "COLUMNS" in os.environ or sys.stdout.isatty() else _UNKNOWN_WIDTH
    # Without markup: paths, names and kernel symbols may have [brackets].
    return Console(stderr=stderr, highlight=False, markup=False, width=width)


stdout = _console(stderr=False)
stderr = _console(stderr=True)


def kernel_option(function: F) -> F:
    """Add ``--kernel``."""
    return click.option(
        "-k", "--kernel", metavar="K", help="A name of `klp kernels`, or a kernel build tree's folder."
    )(function)


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
    stderr.print(f"{chosen.accelerator.value}: {chosen.reason}", soft_wrap=True)
    return found


def check_writable(file: Path | None) -> None:
    """Refuse a file whose folder is not there before an hour is spent on what goes into it."""
    if file is not None and not file.absolute().parent.is_dir():
        raise UsageError(f"{file}: no such folder", hint=f"mkdir -p {file.parent}")


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
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=1).decode())
