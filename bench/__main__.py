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

from bench.analysis import analysis_table, analysis_taken
from bench.boots import VNG, Boots
from bench.first import checkouts, first_table, from_new_tree, from_nothing, ratios
from bench.makes import Makes
from bench.measure import Series, table
from bench.peer import peer
from bench.probes import WITHOUT, ProbeCosts
from klp import consoles, settings
from klp.errors import KlpError
from klp.images.library import Library
from klp.images.names import tree_of
from klp.lab.warm import ensure_warm
from klp.model import Image
from klp.progress import Progress
from klp.settings import Settings
from klp.vm.accel import choose_accelerator
from klp.vm.request import MachineRequest
from klp.vm.spec import qemu_version

# A check takes a minute.
_MAKES = 3
_GUESTS = ("boots", "guests", "probes", "makes")
_IF_NAMED = {"first", "analysis"}


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Figures of each boot.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--alone", is_flag=True, help="Without vng.")
@click.option(
    "--only",
    type=click.Choice([*_GUESTS, "first", "analysis"]),
    multiple=True,
    help="Measure just this; the first run, which downloads all that guests take, and the analysis of large"
    " traces only if they are named.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    help="An older checkout, whose first runs are measured as well.",
)
@click.option(
    "-k", "--kernel", help="A kernel of `klp kernels`, or a build tree; the settings' own without."
)
def main(
    *,
    rounds: int,
    out: Path | None,
    alone: bool,
    only: tuple[str, ...],
    against: Path | None,
    kernel: str | None,
) -> None:
    """Measure boots beside vng, what a guest costs, and what the probes cost beside bpftrace."""
    told = consoles.for_console(Console(stderr=True))
    wanted = settings.load()
    if kernel:
        wanted = msgspec.structs.replace(wanted, kernel=kernel)
    shown = Console(width=None if sys.stdout.isatty() else 120)
    if "first" in only:
        _first(tree_of(kernel) if kernel else None, against, told, shown)
    if "analysis" in only:
        shown.print(analysis_table(analysis_taken(told)))
    if parts := set(only or _GUESTS) - _IF_NAMED:
        _measure(parts, wanted, rounds, alone=alone, out=out, told=told, shown=shown)


def _measure(
    parts: set[str],
    wanted: Settings,
    rounds: int,
    *,
    alone: bool,
    out: Path | None,
    told: Progress,
    shown: Console,
) -> None:
    """Measure what needs an image of the kernel."""
    library = Library(wanted, told)
    image = library.ensure(wanted.kernel)
    accel = choose_accelerator(wanted, library.layout, image).accelerator
    request = MachineRequest.from_settings(image, wanted, accel)
    boots = Boots(request, ensure_warm(library.cache, request, progress=told))
    machine = f"{os.cpu_count()} cores of {platform.machine()}"
    shown.print(f"{image.kernel.release}, {accel.value}, QEMU {qemu_version()}, {machine}")
    measured: dict[str, list[Series]] = {}
    if "boots" in parts:
        with told.step("cold boots and warm starts"):
            measured["boots"] = _boots(boots, wanted, image, rounds, alone=alone)
        shown.print(table("boots", measured["boots"], base=None if alone else VNG))
    if "guests" in parts:
        measured["guests"] = [*boots.commands(), *boots.further_guests()]
        shown.print(table("guests", measured["guests"]))
    if "makes" in parts:
        makes = Makes(image, Path(sys.executable).with_name("klp"), told)
        measured["makes"] = makes.measure(min(rounds, _MAKES))
        shown.print(table("source patches", measured["makes"]))
    if "probes" in parts:
        costs = ProbeCosts(library, request, wanted, told).measure()
        for title, series in costs.items():
            shown.print(table(f"{title} of the same livepatch or module", series, base=WITHOUT))
        measured |= costs
    if out:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=1))


def _first(tree: Path | None, against: Path | None, told: Progress, shown: Console) -> None:
    """Measure first runs: with a build tree from that, else from nothing."""
    compared = checkouts(against)
    runs = from_new_tree(compared, tree, told) if tree else from_nothing(compared, told)
    for each in runs:
        shown.print(first_table(each))
    for line in ratios(runs):
        shown.print(line)


def _boots(boots: Boots, wanted: Settings, image: Image, rounds: int, *, alone: bool) -> list[Series]:
    if alone:
        return boots.alone(rounds)
    with peer(wanted, image.kernel.release) as vng:
        return boots.against(vng, rounds)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except KlpError as error:
        click.echo(f"error: {error.message}\n  ({error.hint})", err=True)
        sys.exit(error.exit_code)
