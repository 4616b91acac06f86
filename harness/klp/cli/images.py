# SPDX-License-Identifier: Apache-2.0
"""`klp kernels` and `klp image`."""

from __future__ import annotations

import time

import click

from klp.cli.common import (
    example,
    plain_option,
    print_json,
    progress,
    setting_default,
    settings,
    stdout,
)
from klp.cli.completing import kernel_names
from klp.cli.saying import say
from klp.errors import CheckFailed, UsageError
from klp.images.cache import Manifest, damaged_files
from klp.images.definition import definitions
from klp.images.library import Library
from klp.images.newest import NewestReleases
from klp.images.tidying import DAY_S, GIB, tidy, to_go, tree_is_gone
from klp.progress import under_way
from klp.report.columns import Columns


def _library() -> Library:
    return Library(settings(), progress())


@click.command(epilog=example("klp kernels"))
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def kernels(as_json: bool) -> None:
    """List the kernels that can be booted."""
    wanted = settings()
    library = _library()
    built = {name: library.release_of(name) or None for name in definitions()}
    if as_json:
        print_json([
            {"name": each.name, "suite": each.suite, "release": built[each.name],
             "default": each.name == wanted.kernel, "summary": each.summary}
            for each in definitions().values()
        ])  # fmt: skip
        return
    rows = [
        (f"{each.name} (default)" if each.name == wanted.kernel else each.name,
         built[each.name] or "not built", each.summary)
        for each in definitions().values()
    ]  # fmt: skip
    stdout.print(Columns(("kernel", "release", "what it is"), rows))
    stdout.note("switching: where the scheduler moves a running task to a livepatch's functions")
    stdout.note(
        "stack_order: sysfs tells in which order livepatches were enabled (stack_order is 1 for the first)"
    )


@click.group(epilog=example("klp image list"))
def image() -> None:
    """Build, list, verify and remove images."""


@image.command(epilog=example("klp image build 6.12"))
@click.argument("kernel", required=False, shell_complete=kernel_names)
@click.option("--update", is_flag=True, help="Take the archive's newest release of its series.")
def build(kernel: str | None, *, update: bool) -> None:
    """Build what is missing to boot KERNEL; the default kernel where none is named."""
    wanted = kernel or settings().kernel
    made = _library().update(wanted) if update else _library().ensure(wanted)
    say(f"{made.name}: {made.kernel.release}, image {made.digest}")


@image.command("list", epilog=example("klp image list"))
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--newer", is_flag=True, help="Ask the archive for newer releases of what is built.")
def list_(as_json: bool, newer: bool) -> None:
    """List what the cache holds, and say where the archive was seen to have a newer release."""
    library = _library()
    entries = library.cache.entries()
    built = {name: release for name in definitions() if (release := library.release_of(name))}
    if newer:
        for name in built:
            library.newest_release(name)
    if as_json:
        print_json([{"folder": str(folder), "manifest": manifest} for folder, manifest in entries])
        return
    rows = [
        (each.kind, _purpose(each), each.digest, each.size // 2**20,
         time.strftime("%Y-%m-%d %H:%M", time.localtime(each.built)))
        for _, each in entries
    ]  # fmt: skip
    stdout.print(Columns(("kind", "for", "digest", "MiB", "built"), rows, whole=("digest",)))
    for name, release in built.items():
        seen = NewestReleases(library.layout).seen(name)
        if seen and seen != release:
            stdout.note(f"{name}: the archive has {seen}; klp image build --update {name} takes it")


def _purpose(manifest: Manifest) -> str:
    known = manifest.inputs
    if tree_is_gone(manifest):
        return f"{known['tree']} (gone)"
    purpose = manifest.facts.get("release") or known.get("suite") or known.get("tree")
    return purpose or known.get("kernel") or known.get("guest", "")


@image.command(epilog=example("klp image verify 6.12"))
@click.argument("kernel", required=False, shell_complete=kernel_names)
def verify(kernel: str | None) -> None:
    """Read again what was built, for KERNEL or for all, and compare its digests."""
    library = _library()
    entries = library.parts(kernel) if kernel else library.cache.entries()
    if kernel and not entries:
        raise UsageError(f"{kernel}: not built", hint=f"klp image build {kernel}")
    damaged = []
    for folder, manifest in entries:
        with under_way(progress(), f"reading {folder.name}"):
            bad = damaged_files(folder, manifest)
        say(f"{folder.name}: {'damaged: ' + ', '.join(bad) if bad else 'whole'}")
        damaged += [folder / name for name in bad]
    if damaged:
        raise CheckFailed(
            f"{len(damaged)} damaged: {damaged[0]}", hint="klp image rm KERNEL, then build it again"
        )


@image.command(epilog=example("klp image gc --age 30"))
@click.option(
    "--size",
    "size_gib",
    type=click.FloatRange(min=0),
    metavar="GIB",
    show_default=setting_default("cache_limit_gib"),
    help="Remove until no more is left.",
)
@click.option(
    "--age",
    "age_days",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    show_default="any age",
    help="Remove what was not used for so long.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
def gc(size_gib: float | None, age_days: float | None, *, dry_run: bool) -> None:
    """Remove what was not used for long, and what is of no use; never what is in use.

    First goes what was made of build trees that are gone, then what was unused the longest. This happens by
    itself, too, when the cache is above its limit; then what was used within a day stays.
    """
    library = _library()
    limit = (settings().cache_limit_gib if size_gib is None else size_gib) * GIB
    age = float("inf") if age_days is None else age_days * DAY_S
    freed = 0
    with under_way(progress(), "removing what is not used"):
        entries = library.cache.entries()
        going = ((each, True) for each in to_go(entries, limit_bytes=limit, unused_s=age))
        for each, gone in going if dry_run else tidy(library.cache, limit_bytes=limit, unused_s=age):
            freed += each.manifest.size if gone else 0
            what = ("would go" if dry_run else "removed") if gone else "in use, stays"
            say(f"{each.folder.name}: {what} ({each.why})")
    say(f"{freed // 2**20} MiB {'would be' if dry_run else 'were'} given back")


@image.command(epilog=example("klp image rm 6.12"))
@click.argument("kernel", shell_complete=kernel_names)
def rm(kernel: str) -> None:
    """Remove what was built for KERNEL; guest roots stay, for other kernels share them."""
    library = _library()
    entries = library.parts(kernel)
    if not entries:
        raise UsageError(f"{kernel}: not built", hint="klp image list shows what is")
    for folder, manifest in entries:
        with under_way(progress(), f"removing {folder.name}"):
            library.cache.remove(folder, manifest)
        say(f"removed {folder.name}")
