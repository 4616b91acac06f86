# SPDX-License-Identifier: Apache-2.0
"""`klp make`: livepatches of source patches."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from klp.cli.common import (
    below_here,
    example,
    kernels_option,
    library,
    nothing_to,
    progress,
    settings,
    stdout,
    write_output,
)
from klp.errors import BuildFailed, ExitCode
from klp.images.library import Library
from klp.modules.made import MadeModule, made_modules
from klp.modules.patchfile import SourcePatch, patch_series, write_inputs
from klp.records.remaking import earlier_aside
from klp.records.writing import new_folder
from klp.sourcepatch.report import REPORT, MadeFolder, encoded


@click.command(epilog=example("klp make fix.patch -k 6.12 -o fix"))
@click.argument("patches", nargs=-1, metavar="PATCH...", type=click.Path(path_type=Path))
@kernels_option
@click.option(
    "--cumulative", is_flag=True, help="Make one livepatch for each, which replaces those before."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR",
              show_default="the livepatch's name",
              help="Folder for all that is made; new, empty, or an earlier one of this patch.")  # fmt: skip
def make(patches: tuple[Path, ...], *, kernels: tuple[str, ...], cumulative: bool, out: Path | None) -> int:
    """Make a livepatch of source patches, for kernels as they are: no kernel is built.

    Several patches make one livepatch, applied in their order. A NAME.toml beside NAME.patch may say what
    to observe, and have callbacks, states and workloads: docs/source-patches.md.
    """
    if not patches:
        raise nothing_to("make", others=False)
    wanted = settings()
    source = patch_series(patches, cumulative=cumulative)
    folder = out or Path(source.layers[-1].file)
    with earlier_aside(folder, source) as earlier, new_folder(wanted, folder, "make") as layout:
        if earlier:
            stdout.print(f"{below_here(layout.root)}: made anew, in place of what was made earlier")
        job = _Job(source, kernels or (wanted.kernel,), layout.root, library(wanted))
        return job.execute()


class _Job:
    """What one command makes."""

    def __init__(self, source: SourcePatch, kernels: Sequence[str], folder: Path, images: Library) -> None:
        self._source = source
        self._kernels = kernels
        self._folder = folder
        self._images = images
        self._progress = progress()
        self._made: list[MadeModule] = []

    def execute(self) -> int:
        """Make it for each kernel; a refusal for one does not end it for the others."""
        refused: list[BuildFailed] = []
        for kernel in self._kernels:
            try:
                self._make(kernel)
            except BuildFailed as failure:
                refused.append(failure)
                if len(self._kernels) > 1:
                    _tell(kernel, failure)
        if not self._made:
            raise refused[-1]
        self._leave()
        return ExitCode.USAGE if refused else ExitCode.OK

    def _make(self, kernel: str) -> None:
        image = self._images.ensure(kernel)
        into = self._folder / image.kernel.release
        for each in made_modules(self._source, image.kernel, into, self._progress, keep=into):
            self._made.append(each)
            stdout.print(f"{kernel}: {below_here(into / each.made.file)}")
            for line in each.made.lines():
                stdout.print(f"  {line}")

    def _leave(self) -> None:
        """Write beside the modules what they were made of, what changed, and how to do it all again."""
        patch = write_inputs(self._source, self._folder)
        names = [word for each in self._kernels for word in ("-k", each)]
        again = [["klp", command, str(patch), *names] for command in ("make", "check")]
        report = MadeFolder(
            made=tuple(each.made for each in self._made), again=tuple(shlex.join(each) for each in again)
        )
        write_output(self._folder / REPORT, encoded(report))
        check = shlex.join(["klp", "check", str(below_here(patch)), *names])
        stdout.print(f"made: {below_here(self._folder)}; to check it: {check}")


def _tell(kernel: str, failure: BuildFailed) -> None:
    stdout.print(f"{kernel}: not made: {failure.message}")
    shown, others = failure.parts()
    for line in (*shown, *others):
        stdout.print(f"  {line}")
    if failure.hint and failure.hint not in failure.output:
        stdout.print(f"  {failure.hint}")
