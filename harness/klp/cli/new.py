# SPDX-License-Identifier: Apache-2.0
"""`klp new`: a livepatch to start from."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from klp.cli.common import example, kernel_option, progress, settings
from klp.cli.saying import say
from klp.images.library import Library
from klp.modules.replaceable import replaceable
from klp.modules.starting import check_name, write_start


@click.command(epilog=example("klp new my-fix --function cmdline_proc_show -k 6.12"))
@click.argument("folder", metavar="NAME", type=click.Path(path_type=Path))
@click.option("--function", required=True, metavar="F",
              help="The function that it is to change; one of a module is MODULE:NAME.")  # fmt: skip
@kernel_option
def new(folder: Path, function: str, kernel: str | None) -> None:
    """Write a livepatch of a function to start from: C source, Kbuild, and patch.toml.

    It builds, and changes nothing yet: what is to be changed is written into it. A fix that is there
    already as a change of the kernel's source needs none of it: klp make FIX.patch, klp check FIX.patch.
    """
    check_name(folder)
    wanted = settings(kernel=kernel)
    steps = progress()
    image = Library(wanted, steps).ensure(wanted.kernel)
    with steps.step(f"looking {function} up in {image.kernel.release}"):
        found = replaceable(image.kernel, function)
    source = write_start(folder, found, image.kernel, steps)
    say(f"{source}: changes {found.name} of {found.object}, and does what that did; edit it")
    say(f"  to check it: klp check {shlex.quote(str(folder))} -k {shlex.quote(wanted.kernel)}")
