# SPDX-License-Identifier: Apache-2.0
"""`klp up|exec|ssh|cp|down|ps`: one guest kept alive for work by hand."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

import click

from klp.cli.common import (
    bootable,
    example,
    kernel_option,
    plain_option,
    print_json,
    progress,
    settings,
    stdout,
)
from klp.cli.completing import guest_names
from klp.cli.saying import say
from klp.errors import HostLacks, UnknownName, UsageError
from klp.guest.channels import Streams
from klp.guest.folders import get_folder, put_folder
from klp.guest.ssh import Guest
from klp.lab import keeper
from klp.lab.warm import ensure_warm
from klp.process import replace
from klp.report.columns import Columns
from klp.trace.catalogue import probe_tools

_NOBODY = "no guest is up (klp up starts one)"
_name_option = click.option(
    "-n", "--name", metavar="NAME", show_default="the one that is up", shell_complete=guest_names,
    help="Which guest; needed if several are up.",
)  # fmt: skip


@click.command(epilog=example("klp up -k 6.12"))
@kernel_option
@click.option("-n", "--name", metavar="NAME", default="lab", help="What to call the guest.")
@click.option("--cold", is_flag=True, help="Boot it, without armed probes, in place of restoring one.")
def up(kernel: str | None, name: str, cold: bool) -> None:
    """Start a guest that stays up until `klp down`, with the probes as its commands.

    It starts from the saved guest that runs start from, whose probes are armed: klp exec klptransition
    shows at once what happens, and nothing is compiled.
    """
    keeper.check_free(name)
    wanted = bootable(settings(kernel=kernel))
    steps = progress()
    request = wanted.request if cold else ensure_warm(wanted.cache, wanted.request, progress=steps).request
    with steps.step(f"{'booting' if cold else 'restoring'} {wanted.image.kernel.release}"):
        guest = keeper.up(name, request)
    say(f"{guest.name}: {guest.release} is up; klp exec, klp ssh, klp cp, klp down")
    probes = ", ".join(each.name for each in probe_tools())
    say(f"  its commands: {probes}; to begin with: klp exec klptransition")


@click.command(
    "exec", context_settings={"ignore_unknown_options": True}, epilog=example("klp exec uname -r")
)
@_name_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str | None, command: tuple[str, ...]) -> int:
    """Run COMMAND in a guest; its streams and exit status become ours."""
    with keeper.connect(keeper.find(name)) as guest:
        # One word is a line for the guest's shell; several are a command and its arguments, as they stand.
        line = command[0] if len(command) == 1 else command
        # Bytes, and as they come: a probe goes on until it is told to end.
        shown = Streams(partial(_pass_on, err=False), partial(_pass_on, err=True))
        return guest.run(line, stdin=_own_input(), timeout_s=24 * 3600, streams=shown, bound=True).status


def _own_input() -> bytes | IO[bytes]:
    """Return our standard input for a command to read; none of a terminal, which nothing would end."""
    return b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer


def _pass_on(chunk: bytes, *, err: bool) -> None:
    try:
        click.echo(chunk, nl=False, err=err)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HostLacks(f"standard {'error' if err else 'output'}: {error.strerror}") from error


@click.command(context_settings={"ignore_unknown_options": True}, epilog=example("klp ssh dmesg"))
@_name_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str | None, command: tuple[str, ...]) -> None:
    """Open a terminal in a guest, or run COMMAND on one, with OpenSSH."""
    # OpenSSH takes this process's place: terminal, signals and exit status are then its own business.
    replace(keeper.ssh_command(keeper.find(name), command))


@click.command(epilog=example("klp cp fix.ko guest:/root/fix.ko"))
@_name_option
@click.argument("source")
@click.argument("destination")
def cp(name: str | None, source: str, destination: str) -> None:
    """Copy a file or a folder: `klp cp PATH guest:PATH` or `klp cp guest:PATH PATH`.

    As cp(1) does: into a folder that is there, else under the name that is given.
    """
    inward, outward = destination.startswith("guest:"), source.startswith("guest:")
    if inward == outward:
        raise UsageError(
            "one of the two must be in the guest", hint="klp cp PATH guest:PATH, or klp cp guest:PATH PATH"
        )
    if inward and not Path(source).exists():
        beside = [str(each) for each in Path(source).parent.glob("*")]
        raise UnknownName(
            f"{source}: no such file or folder",
            source,
            beside,
            hint=f"looked for {Path(source).absolute()}",
        )
    with keeper.connect(keeper.find(name)) as guest:
        if inward:
            _copy_in(guest, Path(source), destination.removeprefix("guest:") or "/root")
        else:
            _copy_out(guest, source.removeprefix("guest:"), Path(destination))


def _copy_in(guest: Guest, source: Path, path: str) -> None:
    if path.endswith("/") or _is_folder(guest, path):
        path = f"{path.rstrip('/')}/{source.absolute().name}"
    if source.is_dir():
        put_folder(guest, source, path)
    else:
        guest.put(source, path)


def _copy_out(guest: Guest, path: str, destination: Path) -> None:
    there = destination / PurePosixPath(path).name if destination.is_dir() else destination
    if _is_folder(guest, path):
        get_folder(guest, path, there)
    else:
        guest.get(path, there)


def _is_folder(guest: Guest, path: str) -> bool:
    return guest.run(["test", "-d", path]).status == 0


@click.command(epilog=example("klp down"))
@_name_option
@click.option("--all", "everyone", is_flag=True, help="End every guest.")
def down(name: str | None, everyone: bool) -> None:
    """End a guest."""
    found = keeper.guests() if everyone else [keeper.find(name)]
    if not found:
        say(_NOBODY)
    for guest in found:
        keeper.down(guest)
        say(f"{guest.name}: down")


@click.command(epilog=example("klp ps"))
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def ps(as_json: bool) -> None:
    """List the guests that are up, each with the process that keeps it."""
    found = keeper.guests()
    if as_json:
        print_json(found)
        return
    if not found:
        stdout.print(_NOBODY)
        return
    rows = [
        (each.name, each.release, each.accelerator.value, each.port, each.keeper,
         round(time.time() - each.begun_at))
        for each in found
    ]  # fmt: skip
    stdout.print(Columns(("name", "kernel", "accelerator", "SSH port", "keeper's pid", "seconds up"), rows))
