# SPDX-License-Identifier: Apache-2.0
"""`klp build`: livepatch sources to .ko files."""

from __future__ import annotations

from pathlib import Path

import click

from klp.cli.common import example, kernel_option, nothing_to, progress, settings
from klp.cli.completing import livepatch_names
from klp.cli.saying import say
from klp.images.library import Library
from klp.modules.build import build as build_modules
from klp.modules.sources import find_source


@click.command(epilog=example("klp build version-banner -k 6.12 -o modules"))
@click.argument("paths", nargs=-1, metavar="PATCH...", shell_complete=livepatch_names)
@kernel_option
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="DIR",
    show_default="the current folder",
    help="Folder for the .ko files.",
)
def build(paths: tuple[str, ...], kernel: str | None, out: Path) -> None:
    """Build livepatch sources for a kernel with the compiler that built it.

    PATCH is a source patch, a folder of patches/, a folder with a Kbuild, a .c file, or the word `samples`.
    """
    if not paths:
        raise nothing_to("build")
    wanted = settings(kernel=kernel)
    # Before an image, which may take minutes to make, is asked for.
    sources = [find_source(each) for each in paths]
    steps = progress()
    image = Library(wanted, steps).ensure(wanted.kernel)
    for each in sources:
        for module in build_modules(each, image.kernel, out, steps):
            kind = "livepatch" if module.livepatch else "module"
            say(f"{module.file}: {kind} {module.name} for {module.vermagic.split()[0]}")
