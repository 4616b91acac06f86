# SPDX-License-Identifier: Apache-2.0
"""What the upstream selftests found out: the values in selftests.json, schema version 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from klp.analysis.evidence import Verdict
from klp.analysis.result import Check, EpochSeconds

SELFTESTS_SCHEMA = 1


class Status(StrEnum):
    """How a case, or a script, ended.

    `died`: a case that began and has no result; a script whose guest was lost, or that outlasted its
    deadline. `not run`: the script never came to it.
    """

    OK = "ok"
    FAILED = "not ok"
    SKIPPED = "skipped"
    DIED = "died"
    NOT_RUN = "not run"


_BAD = (Status.FAILED, Status.DIED)


class CaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """One ``start_test`` … ``check_result`` of a script.

    Attributes:
        name: as the script calls it.
        status: its outcome.
        seconds: from its start to its result on the host's clock; null if it did not run.
        detail: what was written between the two, or why it did not run.
    """

    name: str
    status: Status
    seconds: float | None
    detail: str


class ScriptResult(msgspec.Struct, frozen=True, kw_only=True):
    """One script, run in a guest of its own.

    Attributes:
        exit_status: the script's own; null if it did not come to its end.
        seconds: it took, without its guest's start.
        message: why it is not ok, in a line; empty if it is.
        report: the kernel's own report, if its guest was lost.
        checks: verdicts on its trace and kernel log.
        folder: where its output, trace and logs are, below the run folder.
    """

    name: str
    status: Status
    exit_status: int | None
    seconds: float
    message: str
    report: tuple[str, ...]
    cases: tuple[CaseResult, ...]
    checks: tuple[Check, ...]
    folder: str

    @property
    def good(self) -> bool:
        """Whether nothing speaks against it: neither its own outcome nor a check."""
        return self.status not in _BAD and all(each.verdict is not Verdict.VIOLATED for each in self.checks)


class KernelResult(msgspec.Struct, frozen=True, kw_only=True):
    """The scripts of one kernel, in the order of its own Makefile.

    Attributes:
        name: what the kernel was asked for by.
        release: ``uname -r``.
        accelerator: kvm or tcg.
        modules: the test modules, name to SHA-256 of the file.
        planned: names of the scripts that were to run; fewer results mean that the run ended early.
    """

    name: str
    release: str
    kernel_digest: str
    image_digest: str
    accelerator: str
    modules: dict[str, str]
    planned: tuple[str, ...]
    scripts: tuple[ScriptResult, ...]

    @property
    def good(self) -> bool:
        """Whether all of its scripts ran, and nothing speaks against any."""
        return len(self.scripts) == len(self.planned) and all(each.good for each in self.scripts)


class SelftestsResult(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run: selftests.json.

    Attributes:
        begun_at, ended_at: seconds since the epoch, on the host.
        error: why the run ended early, in words; null if it did not.
    """

    schema: int
    klp: str
    qemu: str
    begun_at: EpochSeconds
    ended_at: EpochSeconds
    kernels: tuple[KernelResult, ...]
    error: str | None

    @property
    def good(self) -> bool:
        """Whether every script of every kernel ran, and nothing speaks against any."""
        return self.error is None and all(each.good for each in self.kernels)


def tally(cases: Iterable[CaseResult]) -> str:
    """Return how many cases ended how, such as ``3 ok, 1 not ok``."""
    counts = Counter(each.status for each in cases)
    return ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status]) or "no case"
