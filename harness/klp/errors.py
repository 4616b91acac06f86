# SPDX-License-Identifier: Apache-2.0
"""Every kind of failure that klp tells its user of, and the exit code each one ends in.

::

    KlpError                    exit 1   a check failed
     +-- CheckFailed            exit 1   a livepatch did not do what it must
     |    +-- TransitionStuck            a transition outlasted its deadline
     +-- UsageError             exit 2   asked for something impossible
     |    +-- SettingsError              a TOML file or a KLP_* variable is wrong
     |    +-- UnknownName                of a kernel, a rule, a scenario, …: none of those there are
     |    +-- NotALivepatch              a file that cannot be loaded as one
     |    +-- BuildFailed                Kbuild or the compiler refused the sources
     |         +-- PatchRefused          a source patch changes what a livepatch cannot
     +-- VmLost                 exit 3   the machine went away, whatever the livepatch did
     |    +-- BootFailed                 it never came up
     |    +-- GuestPanicked              an oops or a panic is on its console
     |    +-- GuestStalled               a lockup, an RCU stall, or a hung task is
     |    +-- GuestOutOfMemory           it panicked for want of memory
     |    +-- QemuGone                   the QEMU process ended or does not answer
     |    +-- GuestSilent                SSH, or a command over it, missed its deadline
     |    +-- TraceLost                  a probe in it ended, or fell silent
     |    +-- HostStalled                this host gave the guest no time to run
     +-- HostLacks              exit 4   a tool, a permission or something else is missing here
     |    +-- DiskFull                   a disk has no room
     |    +-- Busy                       another process holds what we need
     +-- OwnFault                        klp itself failed in a part of its work
     +-- Interrupted            exit 130 Ctrl-C or SIGTERM
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import ClassVar

from klp.printable import printable

# Rooms add errors of their own below these (process.CommandFailed, images.cache.NotBuilt, …), which inherit
# the exit code.


class ExitCode(IntEnum):
    """The exit status of `klp`; a test compares the table of docs/commands.md with it."""

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    VM_LOST = 3
    HOST_LACKS = 4
    INTERRUPTED = 130


class KlpError(Exception):
    """A failure that the user is shown as one line, and a hint: the one action that helps."""

    exit_code = ExitCode.CHECK_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message for a traceback, which is printed as it is: it may quote a guest."""
        return printable(super().__str__())


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
        # A host with many threads may have thousands pending; three name the culprit as well.
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


# The share of letters in common from which on a name is near: of four, one may be another.
_NEAR = 0.75


def errno_name(number: int) -> str:
    """Return the name of an error number, such as ``EINVAL``; the kernel returns them negative."""
    return errno.errorcode.get(abs(number), str(number)) if number else "success"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return which of some names may have been meant, as a question; empty where none is like it."""
    names = {each.casefold(): each for each in known}
    wanted = word.casefold()
    like = [wanted] if wanted in names else difflib.get_close_matches(wanted, names, 2, _NEAR)
    return f"did you mean {' or '.join(names[each] for each in like)}?" if like else ""


class UnknownName(UsageError):
    """A name that is none of those there are; the hint is the one that may have been meant.

    Args:
        hint: said in its place where none is near: what there is, or where that is listed.

    Attributes:
        meant: whether the hint is a name that may have been meant.
    """

    def __init__(self, message: str, word: str, known: Iterable[str], *, hint: str = "") -> None:
        near = did_you_mean(word, known)
        super().__init__(message, hint=near or hint or None)
        self.meant = bool(near)


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

    def parts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the lines of `output` that show where the message's error is, and all others.

        The line that says the same as the message is in neither.
        """
        where, _, what = self.message.partition(": ")
        lines = self.output.rstrip().splitlines()
        own = [at for at, line in enumerate(lines) if line.startswith(f"{where}:") and line.endswith(what)]
        if not own or not what:
            return (), tuple(lines)
        start = end = own[0] + 1
        while end < len(lines) and lines[end].startswith(" "):
            end += 1
        return tuple(lines[start:end]), (*lines[: own[0]], *lines[end:])


class PatchRefused(BuildFailed):
    """A source patch cannot become a livepatch: of several reasons the first is the message."""


class Category(StrEnum):
    """What befell a guest."""

    PANIC = "panic"
    OOPS = "oops"
    SOFT_LOCKUP = "soft lockup"
    HARD_LOCKUP = "hard lockup"
    RCU_STALL = "RCU stall"
    HUNG_TASK = "hung task"
    OUT_OF_MEMORY = "out of memory"
    OOM_KILL = "task killed for memory"
    SILENT = "silent"
    QEMU_GONE = "QEMU gone"


@dataclass(frozen=True, slots=True)
class CrashReport:
    """How a guest ended, in the kernel's own words where it had any; different ends can be told apart.

    Attributes:
        title: the kernel's one line about it.
        function: where it happened, without offset; empty where nothing tells.
        modules: those with a function in the call trace, topmost first.
        trace: the call trace as printed, without the frames the kernel marks as unreliable.
        fingerprint: the same for the same kind of end in any guest: no address, offset or time is in it.
        lines: the whole report, as it stands on the console.
        emulator_suspect: QEMU may be at fault, and no livepatch is in the trace: emulation with a thread
            for each vCPU may execute an instruction that another vCPU has half rewritten (docs/facts.md).
    """

    category: Category
    title: str
    function: str
    modules: tuple[str, ...]
    trace: tuple[str, ...]
    fingerprint: str
    lines: tuple[str, ...]
    emulator_suspect: bool = False

    def summary(self) -> str:
        """Return it in one line."""
        where = f" in {self.function}" if self.function else ""
        whose = f" [{', '.join(self.modules)}]" if self.modules else ""
        line = f"{self.category.value}{where}{whose}, fingerprint {self.fingerprint}: {self.title}"
        if self.emulator_suspect:
            line += " (no livepatch in the trace: rather a race of the emulator, try again)"
        return line


class VmLost(KlpError):
    """The machine under the livepatch was lost; says nothing about the livepatch itself.

    Attributes:
        console_tail: the last lines of the guest's serial console, oldest first.
        report: what befell it, where that is known.
    """

    exit_code = ExitCode.VM_LOST
    _by_nobody: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        console_tail: tuple[str, ...] = (),
        report: CrashReport | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.console_tail = console_tail
        self.report = report

    @property
    def by_nobody(self) -> bool:
        """Whether it is no livepatch's fault: QEMU's end, a host that stood still, mere silence.

        A kernel that hangs says so after a while (soft lockup, RCU stall, hung task); one that says
        nothing, and answers nobody, may as well be starved by its host. Under emulation one vCPU may
        execute what another has half patched ("Oops: int3"; docs/facts.md).
        """
        return self._by_nobody or (self.report is not None and self.report.emulator_suspect)


class BootFailed(VmLost):
    """The guest never said that it was ready."""

    _by_nobody = True


class GuestPanicked(VmLost):
    """The kernel's own panic or oops was seen on the console."""


class GuestStalled(VmLost):
    """The guest's kernel reported a lockup, an RCU stall or a hung task."""


class GuestOutOfMemory(VmLost):
    """The guest's kernel panicked because there was no memory left, and nobody to kill for it."""


class QemuGone(VmLost):
    """QEMU ended, or its monitor stopped answering."""

    _by_nobody = True


class GuestSilent(VmLost):
    """QEMU says that the guest runs, but nothing in it answers in time."""

    _by_nobody = True


class TraceLost(VmLost):
    """A probe in the guest ended or fell silent: what happens in the guest is no longer known."""

    _by_nobody = True


class HostStalled(VmLost):
    """This host gave the guest no time to run, for which the guest's kernel took it to be locked up."""

    _by_nobody = True


class OwnFault(KlpError):
    """klp itself failed in a part of its work, of which nothing is known for that."""


class HostLacks(KlpError):
    """This host has not got what the task needs; the hint is the command that mends it."""

    exit_code = ExitCode.HOST_LACKS


class DiskFull(HostLacks):
    """A disk has no room for what is to be written."""


class Busy(HostLacks):
    """A lock, a name or a port is held by another process."""


class Interrupted(KlpError):
    """The user, or a signal, asked to stop."""

    exit_code = ExitCode.INTERRUPTED
