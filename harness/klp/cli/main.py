# SPDX-License-Identifier: Apache-2.0
"""`klp`: the group of all commands, and the one place that turns a failure into an exit code."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from klp import paths
from klp.cli.saying import PrintableFormatter, say
from klp.diskspace import disk_full, free_mib, is_full
from klp.errors import BuildFailed, ExitCode, KlpError, VmLost
from klp.version import __version__

# By what people do, each command to where it lives; imported when it is asked for, so that `klp --help`
# stays quick.
_SECTIONS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Check": {
        "check": (
            "klp.cli.check:check",
            "Drive a livepatch through its life on each kernel named: a verdict.",
        ),
        "make": ("klp.cli.make:make", "Make a livepatch of a source patch, for each kernel named."),
        "new": ("klp.cli.new:new", "Write a livepatch of a function to start from."),
        "build": ("klp.cli.build:build", "Build livepatch sources for a kernel."),
        "selftests": ("klp.cli.selftests:selftests", "Run the kernel's own livepatch selftests."),
    },
    "Run": {
        "run": ("klp.cli.run:run", "Load and unload livepatches in a guest under probes."),
        "trace": ("klp.cli.trace:trace", "Watch a livepatch's transitions as they go."),
    },
    "Look": {
        "runs": ("klp.cli.runs:runs", "List and remove runs."),
        "report": ("klp.cli.report:report", "Tell runs to others: a page, or a trace for Perfetto."),
        "analyze": ("klp.cli.analyze:analyze", "Judge a recorded run by every rule, again."),
        "query": ("klp.cli.query:query", "Run SQL over the traces and verdicts of runs."),
        "compare": ("klp.cli.compare:compare", "Say what became worse between two sets of runs."),
        "rules": ("klp.cli.rules:rules", "List the rules that traces are judged by."),
        "coverage": ("klp.cli.coverage:coverage", "Say which tests observe which rule on which kernel."),
    },
    "Guests and probes by hand": {
        "up": ("klp.cli.guests:up", "Start a guest that stays up, for work by hand."),
        "exec": ("klp.cli.guests:exec_", "Run a command in a guest that is up."),
        "ssh": ("klp.cli.guests:ssh", "Open a terminal in a guest that is up."),
        "cp": ("klp.cli.guests:cp", "Copy files to and from a guest that is up."),
        "down": ("klp.cli.guests:down", "End a guest."),
        "ps": ("klp.cli.guests:ps", "List the guests that are up."),
        "probes": ("klp.cli.probes:probes", "List the probes, which also work on their own."),
    },
    "Images and this machine": {
        "kernels": ("klp.cli.images:kernels", "List the kernels that can be booted."),
        "image": ("klp.cli.images:image", "Build, list, verify and remove images."),
        "doctor": ("klp.cli.doctor:doctor", "Say what this host has and lacks, and what mends it."),
        "completion": ("klp.cli.completion:completion", "Make a shell complete klp's words."),
    },
}
_COMMANDS = {name: where for section in _SECTIONS.values() for name, where in section.items()}

# A shell sets one of these to ask for completions; click makes the name from that of the command, which is
# installed as klp and as klp-lab.
_COMPLETING = ("_KLP_COMPLETE", "_KLP_LAB_COMPLETE")


class _Lazy(click.Group):
    """A group whose commands are imported when they are run; their help lines stand in the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # click looks for the like in the commands that it has imported, of which there are none.
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as unknown:
            raise click.exceptions.NoSuchCommand(
                unknown.command_name, possibilities=_COMMANDS, ctx=ctx
            ) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # From the table: click would import every command for its help.
        found = [
            CompletionItem(name, help=text)
            for name, (_, text) in _COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        widest = max(map(len, _COMMANDS))
        for title, section in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), text) for name, (_, text) in section.items()])


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="\b\nExamples:\n"
    "  klp run version-banner              see one livepatch through a whole transition\n"
    "  klp check fix.patch -k 6.1 -k 6.12  is this fix good as a livepatch, on both kernels?\n"
    "  klp report                          the latest run or check as a page",
)
@click.version_option(__version__, prog_name="klp")
@click.option("--debug", is_flag=True, help="Show every command that is run, and tracebacks.")
def klp(debug: bool) -> None:
    """A laboratory for Linux kernel livepatches.

    Exit codes: 0 all held, 1 a check failed, 2 usage or settings, 3 the guest was lost, 4 the host lacks
    something, 130 interrupted.
    """
    # Without a handler of ours, Python prints what paramiko and qemu.qmp log of a lost guest to stderr.
    logging.getLogger().addHandler(logging.NullHandler())
    if debug:
        shown = logging.StreamHandler()
        shown.setFormatter(PrintableFormatter("%(message)s"))
        logging.basicConfig(level=logging.DEBUG, handlers=[shown], force=True)
        logging.getLogger("paramiko").setLevel(logging.WARNING)


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    """Treat SIGTERM and SIGHUP as Ctrl-C: by the exception, every context manager ends what it began."""
    del signum, frame
    raise KeyboardInterrupt


def _take_signals() -> None:
    # One that is ignored stays so, here and in all that is started: `nohup klp check` is to outlive its
    # terminal.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminate)


def _tell(error: KlpError) -> None:
    # Last what is at fault, and once; before it whatever else was said.
    shown, others = error.parts() if isinstance(error, BuildFailed) else ((), ())
    for line in others:
        say(line, err=True)
    if isinstance(error, VmLost):
        for line in error.console_tail:
            say(f"  console: {line}", err=True)
    say("\n".join([f"error: {error.message}", *shown]), err=True)
    if error.hint:
        say(f"  ({error.hint})", err=True)


def _tell_misuse(error: click.UsageError) -> None:
    where = error.ctx.command_path if error.ctx else "klp"
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        say(error.format_message(), err=True)
    else:
        say(f"error: {error.format_message()}\n  ({where} --help)", err=True)


def _invoke() -> int | None:
    """Run the command and return its exit code.

    Not by click's own `main`, which handles some errors itself, such as a closed pipe.
    """
    if any(variable in os.environ for variable in _COMPLETING):
        klp.main()
    with klp.make_context("klp", sys.argv[1:]) as context:
        status: int | None = klp.invoke(context)
        return status


@contextmanager
def _disks_told() -> Iterator[None]:
    """Tell a disk that is full as such, whoever met it."""
    try:
        yield
    except (OSError, KlpError) as error:
        if not is_full(error):
            raise
        # A write names no file, nor does a command: then it was rather the disk that has the least left.
        places = (Path(os.environ.get("TMPDIR") or "/tmp"), paths.runs_root(), paths.cache_root())
        named = error.filename if isinstance(error, OSError) else None
        raise disk_full(Path(named) if named else min(places, key=free_mib)) from error


def main() -> NoReturn:
    """Run `klp`; the entry point."""
    _take_signals()
    try:
        with _disks_told():
            sys.exit(_invoke() or ExitCode.OK)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.UsageError as error:
        _tell_misuse(error)
        sys.exit(ExitCode.USAGE)
    except KlpError as error:
        if "--debug" in sys.argv:
            raise
        _tell(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is ended; a second Ctrl-C has nothing to stop
        say("error: interrupted", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output went away (klp … | head); that is no failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)
    except SystemExit as ended:
        # rich met the closed pipe first and made it exit code 1, which would say that a check failed.
        if isinstance(ended.__context__, BrokenPipeError):
            sys.exit(ExitCode.OK)
        raise
