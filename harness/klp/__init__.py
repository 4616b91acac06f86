# SPDX-License-Identifier: Apache-2.0
"""klp: a laboratory for Linux kernel livepatches.

What a test or a script may import stands here, most important first, and in the modules `klp.events` and
`klp.settings`; docs/api.md tells what each is for. These names keep their meaning; everything else may
change with any version. No room of docs/architecture.md but the command line imports from here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the table below once more, for type checkers and editors
    from klp.analysis.evidence import Verdict as Verdict
    from klp.analysis.history import History as History
    from klp.analysis.history import history as history
    from klp.analysis.recording import RecordedRun as RecordedRun
    from klp.analysis.result import RunResult as RunResult
    from klp.analysis.rules.registry import RULES as RULES
    from klp.analysis.rules.registry import judge_all as judge_all
    from klp.analysis.rules.rule import RuleVerdict as RuleVerdict
    from klp.analysis.transitions import Transition as Transition
    from klp.analysis.transitions import transitions as transitions
    from klp.analysis.words import stories as stories
    from klp.consoles import for_console as for_console
    from klp.drive.case import TestedGuest as TestedGuest
    from klp.drive.kernel_log import KernelLog as KernelLog
    from klp.drive.subject import LivepatchSubject as LivepatchSubject
    from klp.drive.subject import Misbehaved as Misbehaved
    from klp.drive.subject import ModuleSubject as ModuleSubject
    from klp.drive.subject import Refused as Refused
    from klp.drive.trace import Trace as Trace
    from klp.errors import BootFailed as BootFailed
    from klp.errors import BuildFailed as BuildFailed
    from klp.errors import Busy as Busy
    from klp.errors import CheckFailed as CheckFailed
    from klp.errors import DiskFull as DiskFull
    from klp.errors import GuestOutOfMemory as GuestOutOfMemory
    from klp.errors import GuestPanicked as GuestPanicked
    from klp.errors import GuestSilent as GuestSilent
    from klp.errors import GuestStalled as GuestStalled
    from klp.errors import HostLacks as HostLacks
    from klp.errors import HostStalled as HostStalled
    from klp.errors import Interrupted as Interrupted
    from klp.errors import KlpError as KlpError
    from klp.errors import NotALivepatch as NotALivepatch
    from klp.errors import OwnFault as OwnFault
    from klp.errors import PatchRefused as PatchRefused
    from klp.errors import QemuGone as QemuGone
    from klp.errors import SettingsError as SettingsError
    from klp.errors import TraceLost as TraceLost
    from klp.errors import TransitionStuck as TransitionStuck
    from klp.errors import UnknownName as UnknownName
    from klp.errors import UsageError as UsageError
    from klp.errors import VmLost as VmLost
    from klp.guest.errnos import errno_of as errno_of
    from klp.guest.ssh import CommandResult as CommandResult
    from klp.kernels import EARLIEST_INIT_EBUSY as EARLIEST_INIT_EBUSY
    from klp.kernels import EARLIEST_SCHEDULER_SWITCH as EARLIEST_SCHEDULER_SWITCH
    from klp.model import Image as Image
    from klp.model import Kernel as Kernel
    from klp.model import Module as Module
    from klp.progress import Progress as Progress
    from klp.records.verdicts import judge_run as judge_run
    from klp.scripting import build as build
    from klp.scripting import ensure_image as ensure_image
    from klp.scripting import recorded_run as recorded_run
    from klp.scripting import run as run
    from klp.trace.reading import BadTrace as BadTrace
    from klp.trace.reading import read_events as read_events
    from klp.waiting import DeadlineMissed as DeadlineMissed
    from klp.waiting import wait_until as wait_until

# Public name to the module that defines it. It is imported when the name is first asked for: collecting
# tests, or reading a trace, must load neither SSH nor QMP.
_HOME = {
    # What the pytest plugin's fixtures are.
    "TestedGuest": "klp.drive.case",
    "LivepatchSubject": "klp.drive.subject",
    "ModuleSubject": "klp.drive.subject",
    "Trace": "klp.drive.trace",
    "KernelLog": "klp.drive.kernel_log",
    # What a test needs besides.
    "CommandResult": "klp.guest.ssh",
    "wait_until": "klp.waiting",
    "DeadlineMissed": "klp.waiting",
    "errno_of": "klp.guest.errnos",
    "EARLIEST_SCHEDULER_SWITCH": "klp.kernels",
    "EARLIEST_INIT_EBUSY": "klp.kernels",
    # What a script does, and the values it gets.
    "run": "klp.scripting",
    "build": "klp.scripting",
    "ensure_image": "klp.scripting",
    "recorded_run": "klp.scripting",
    "for_console": "klp.consoles",
    "RecordedRun": "klp.analysis.recording",
    "RunResult": "klp.analysis.result",
    "Image": "klp.model",
    "Kernel": "klp.model",
    "Module": "klp.model",
    "Progress": "klp.progress",
    # What a trace tells.
    "judge_run": "klp.records.verdicts",
    "read_events": "klp.trace.reading",
    "history": "klp.analysis.history",
    "judge_all": "klp.analysis.rules.registry",
    "transitions": "klp.analysis.transitions",
    "stories": "klp.analysis.words",
    "RULES": "klp.analysis.rules.registry",
    "RuleVerdict": "klp.analysis.rules.rule",
    "Verdict": "klp.analysis.evidence",
    "History": "klp.analysis.history",
    "Transition": "klp.analysis.transitions",
    # What goes wrong: all are a KlpError.
    "KlpError": "klp.errors",
    "CheckFailed": "klp.errors",
    "Refused": "klp.drive.subject",
    "Misbehaved": "klp.drive.subject",
    "TransitionStuck": "klp.errors",
    "UsageError": "klp.errors",
    "SettingsError": "klp.errors",
    "UnknownName": "klp.errors",
    "NotALivepatch": "klp.errors",
    "BuildFailed": "klp.errors",
    "PatchRefused": "klp.errors",
    "BadTrace": "klp.trace.reading",
    "VmLost": "klp.errors",
    "BootFailed": "klp.errors",
    "GuestPanicked": "klp.errors",
    "GuestStalled": "klp.errors",
    "GuestOutOfMemory": "klp.errors",
    "QemuGone": "klp.errors",
    "GuestSilent": "klp.errors",
    "TraceLost": "klp.errors",
    "HostStalled": "klp.errors",
    "HostLacks": "klp.errors",
    "DiskFull": "klp.errors",
    "Busy": "klp.errors",
    "OwnFault": "klp.errors",
    "Interrupted": "klp.errors",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    """Import a public name (PEP 562); from then on it is an attribute like any other."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *_HOME})
