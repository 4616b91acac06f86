# SPDX-License-Identifier: Apache-2.0
"""Every failure this package reports, and the exit code each one ends in.

::

    KlpError                    exit 1   a check failed
     +-- CheckFailed            exit 1   a livepatch did not do what it must
     |    +-- TransitionStuck            a transition outlasted its deadline
     +-- UsageError             exit 2   asked for something impossible
     |    +-- SettingsError              a TOML file or a KLP_* variable is wrong
     |    +-- NotALivepatch              a file that cannot be loaded as one
     |    +-- BuildFailed                Kbuild or the compiler refused the sources
     +-- VmLost                 exit 3   the machine went away, whatever the livepatch did
     |    +-- BootFailed                 it never came up
     |    +-- GuestPanicked              the kernel said so on its console
     |    +-- QemuGone                   the QEMU process ended or does not answer
     |    +-- GuestSilent                SSH, or a command over it, missed its deadline
     +-- HostLacks              exit 4   a tool, a permission or disk space is missing here
          +-- Busy                       another process holds what we need
    Interrupted                 exit 130 Ctrl-C or SIGTERM
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process tells its caller. README's table is checked against this enum."""

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    VM_LOST = 3
    HOST_LACKS = 4
    INTERRUPTED = 130


class KlpError(Exception):
    """A failure that is told in one line, with a hint that names the way out."""

    exit_code = ExitCode.CHECK_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckFailed(KlpError):
    """A livepatch, or the kernel, did not do what was asked of it."""


class TransitionStuck(CheckFailed):
    """A transition did not complete within its deadline.

    Attributes:
        livepatch: the module's name as sysfs shows it.
        waited_s: how long it was watched, in seconds.
        pending: one line for each task that had not reached the target state.
    """

    def __init__(self, livepatch: str, waited_s: float, pending: tuple[str, ...]) -> None:
        who = "; ".join(pending[:3]) or "no pending task was found"
        more = f" and {len(pending) - 3} more" if len(pending) > 3 else ""
        super().__init__(
            f"{livepatch}: still in transition after {waited_s:.1f} s, held by {who}{more}",
            hint="the whole list, with kernel stacks, is in the run folder's pending.txt; "
            "--deadline S waits longer",
        )
        self.livepatch = livepatch
        self.waited_s = waited_s
        self.pending = pending


class UsageError(KlpError):
    """The caller named something that does not exist or cannot be done."""

    exit_code = ExitCode.USAGE


class SettingsError(UsageError):
    """A settings or definition file is broken; the message starts with file and line."""


class NotALivepatch(UsageError):
    """A file that the kernel could not load as a livepatch: not ELF, truncated, wrong vermagic, …"""


class BuildFailed(UsageError):
    """Kbuild failed.

    Attributes:
        output: the compiler's own lines, with the user's paths put back.
    """

    def __init__(self, message: str, *, output: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.output = output


class VmLost(KlpError):
    """The machine under the livepatch was lost; says nothing about the livepatch itself.

    Attributes:
        console_tail: the last lines of the guest's serial console, oldest first.
    """

    exit_code = ExitCode.VM_LOST

    def __init__(
        self, message: str, *, hint: str | None = None, console_tail: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.console_tail = console_tail


class BootFailed(VmLost):
    """The guest never said that it was ready."""


class GuestPanicked(VmLost):
    """The kernel's own panic or oops was seen on the console."""


class QemuGone(VmLost):
    """QEMU ended, or its monitor stopped answering."""


class GuestSilent(VmLost):
    """The guest is up as far as QEMU knows, and does not answer."""


class HostLacks(KlpError):
    """This host has not got what the task needs; the hint is the command that mends it."""

    exit_code = ExitCode.HOST_LACKS


class Busy(HostLacks):
    """A lock, a name or a port is held by another process."""


class Interrupted(KlpError):
    """The user, or a signal, asked to stop."""

    exit_code = ExitCode.INTERRUPTED
