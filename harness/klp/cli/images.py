# SPDX-License-Identifier: Apache-2.0
"""`klp kernels` and `klp image`."""

from __future__ import annotations

import time

import click
from rich import box
from rich.table import Table

from klp.cli.common import print_json, progress, settings, stdout
from klp.errors import CheckFailed, UsageError
from klp.images.cache import EntryKind, Manifest, damaged_files
from klp.images.definition import definitions
from klp.images.library import Library


def _library() -> Library:
    return Library(settings(), progress())


@click.command()
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def kernels(as_json: bool) -> None:
    """List the kernels that can be booted."""
    wanted = settings()
    library = _library()
    built = {
        name: next((m.facts["release"] for _, m in library.parts(name) if m.kind == EntryKind.KERNEL), None)
        for name in definitions()
    }
    if as_json:
        print_json([
            {"name": each.name, "suite": each.suite, "release": built[each.name],
             "default": each.name == wanted.kernel, "summary": each.summary}
            for each in definitions().values()
        ])  # fmt: skip
        return
    table = Table("kernel", "release", "what it is", box=box.SIMPLE_HEAD, pad_edge=False)
    for each in definitions().values():
        name = f"{each.name} (default)" if each.name == wanted.kernel else each.name
        table.add_row(name, built[each.name] or "not built", each.summary)
    stdout.print(table)


@click.group()
def image() -> None:
    """Build, list, verify and remove images."""


@image.command()
@click.argument("kernel", required=False)
def build(kernel: str | None) -> None:
    """Build what is missing to boot KERNEL; the default kernel where none is named."""
    wanted = kernel or settings().kernel
    made = _library().ensure(wanted)
    click.echo(f"{made.name}: {made.kernel.release}, image {made.digest}")


@image.command("list")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List what the cache holds."""
    entries = _library().cache.entries()
    if as_json:
        print_json([{"folder": str(folder), "manifest": manifest} for folder, manifest in entries])
        return
    table = Table("kind", "for", "digest", "MiB", "built", box=box.SIMPLE_HEAD, pad_edge=False)
    for _, manifest in entries:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest.built))
        table.add_row(manifest.kind, _purpose(manifest), manifest.digest, str(manifest.size // 2**20), when)
    stdout.print(table)


def _purpose(manifest: Manifest) -> str:
    known = manifest.inputs
    purpose = manifest.facts.get("release") or known.get("suite") or known.get("tree")
    return purpose or known.get("kernel") or known.get("guest", "")


@image.command()
@click.argument("kernel", required=False)
def verify(kernel: str | None) -> None:
    """Read again what was built, for KERNEL or for all, and compare its digests."""
    library = _library()
    entries = library.parts(kernel) if kernel else library.cache.entries()
    if kernel and not entries:
        raise UsageError(f"{kernel}: not built", hint=f"klp image build {kernel}")
    damaged = []
    for folder, manifest in entries:
        bad = damaged_files(folder, manifest)
        click.echo(f"{folder.name}: {'damaged: ' + ', '.join(bad) if bad else 'whole'}")
        damaged += [folder / name for name in bad]
    if damaged:
        raise CheckFailed(
            f"{len(damaged)} damaged: {damaged[0]}", hint="klp image rm KERNEL, then build it again"
        )


@image.command()
@click.argument("kernel")
def rm(kernel: str) -> None:
    """Remove what was built for KERNEL; guest roots stay, for other kernels share them."""
    library = _library()
    entries = library.parts(kernel)
    if not entries:
        raise UsageError(f"{kernel}: not built", hint="klp image list shows what is")
    for folder, manifest in entries:
        library.cache.remove(folder, manifest)
        click.echo(f"removed {folder.name}")
