# SPDX-License-Identifier: Apache-2.0
"""`klp up|exec|ssh|cp|down|ps`: one guest kept alive for work by hand."""

from __future__ import annotations

import sys
import time
from pathlib import Path

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
from klp.errors import UsageError
from klp.lab import keeper
from klp.process import replace
from klp.report.columns import Columns

_name_option = click.option(
    "-n", "--name", metavar="NAME", show_default="the one that is up", shell_complete=guest_names,
    help="Which guest; needed if several are up.",
)  # fmt: skip


@click.command(epilog=example("klp up -k 6.12"))
@kernel_option
@click.option("-n", "--name", metavar="NAME", default="lab", help="What to call the guest.")
def up(kernel: str | None, name: str) -> None:
    """Boot a guest that stays up until `klp down`."""
    wanted = bootable(settings(kernel=kernel))
    with progress().step(f"booting {wanted.image.kernel.release}"):
        guest = keeper.up(name, wanted.request)
    click.echo(f"{guest.name}: {guest.release} is up; klp exec, klp ssh, klp cp, klp down")


@click.command(
    "exec", context_settings={"ignore_unknown_options": True}, epilog=example("klp exec uname -r")
)
@_name_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str | None, command: tuple[str, ...]) -> int:
    """Run COMMAND in a guest; its streams and exit status become ours."""
    with keeper.connect(keeper.find(name)) as guest:
        stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
        # One word is a line for the guest's shell; several are a command and its arguments, as they stand.
        line = command[0] if len(command) == 1 else command
        result = guest.run(line, stdin=stdin, timeout_s=24 * 3600)
    click.echo(result.stdout, nl=False)
    click.echo(result.stderr, nl=False, err=True)
    return result.status


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
    """Copy a file: `klp cp FILE guest:PATH` or `klp cp guest:PATH FILE`."""
    inward, outward = destination.startswith("guest:"), source.startswith("guest:")
    if inward == outward:
        raise UsageError(
            "one of the two must be in the guest", hint="klp cp FILE guest:PATH, or klp cp guest:PATH FILE"
        )
    if inward and not Path(source).is_file():
        raise UsageError(f"{source}: no such file")
    with keeper.connect(keeper.find(name)) as guest:
        if inward:
            path = destination.removeprefix("guest:") or "/root"
            guest.put(Path(source), f"{path}/{Path(source).name}" if path.endswith("/") else path)
        else:
            path = source.removeprefix("guest:")
            there = Path(destination)
            guest.get(path, there / Path(path).name if there.is_dir() else there)


@click.command(epilog=example("klp down"))
@_name_option
@click.option("--all", "everyone", is_flag=True, help="End every guest.")
def down(name: str | None, everyone: bool) -> None:
    """End a guest."""
    for guest in keeper.guests() if everyone else [keeper.find(name)]:
        keeper.down(guest)
        click.echo(f"{guest.name}: down")


@click.command(epilog=example("klp ps"))
@plain_option
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def ps(as_json: bool) -> None:
    """List the guests that are up."""
    found = keeper.guests()
    if as_json:
        print_json(found)
        return
    rows = [
        (each.name, each.release, each.accelerator.value, each.port, each.keeper,
         round(time.time() - each.begun_at))
        for each in found
    ]  # fmt: skip
    stdout.print(Columns(("name", "kernel", "accelerator", "port", "keeper", "up s"), rows))
