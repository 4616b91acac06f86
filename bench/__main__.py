# SPDX-License-Identifier: Apache-2.0
"""`make bench`: measure, print tables, and write the figures as JSON."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console

from bench.boots import VNG, Boots
from bench.measure import Series, table
from bench.peer import peer
from harness import progress, settings
from harness.errors import KlpError
from harness.images.library import Library
from harness.suite.warm import ensure_warm
from harness.vm.accel import choose
from harness.vm.spec import qemu_version


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Figures of each boot.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--alone", is_flag=True, help="Without vng.")
def main(rounds: int, out: Path | None, alone: bool) -> None:
    """Measure cold boots, warm starts and commands, in turn with vng."""
    told = progress.for_console(Console(stderr=True))
    wanted = settings.load()
    library = Library(wanted, told)
    image = library.ensure(wanted.kernel)
    accel = choose(wanted, library.layout, image).accelerator
    warm = ensure_warm(library.cache, image, wanted, accel, progress=told)
    boots = Boots(image, warm, wanted, accel)
    shown = Console(width=None if sys.stdout.isatty() else 120)
    machine = f"{os.cpu_count()} cores of {platform.machine()}"
    shown.print(f"{image.kernel.release}, {accel.value}, QEMU {qemu_version()}, {machine}")
    boot_series: list[Series] = []
    if not alone:
        with told.step("cold boots and warm starts beside vng"), peer(wanted, image.kernel.release) as vng:
            boot_series = boots.against(vng, rounds)
        shown.print(table("boots", boot_series, base=VNG))
    rest = [*boots.commands(), *boots.further_guests()]
    shown.print(table("guests", rest))
    if out:
        out.write_bytes(msgspec.json.format(msgspec.json.encode([*boot_series, *rest]), indent=1))


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except KlpError as error:
        click.echo(f"error: {error.message}\n  ({error.hint})", err=True)
        sys.exit(error.exit_code)
