# SPDX-License-Identifier: Apache-2.0
"""What `klp check` found out: the values in check.json, schema version 1.

Times are seconds since the epoch on the host where they say `_at`.
"""

from __future__ import annotations

import msgspec

from klp.analysis.calls import FunctionCalls
from klp.analysis.evidence import Verdict

CHECK_SCHEMA = 1


class CheckedLivepatch(msgspec.Struct, frozen=True, kw_only=True):
    """A livepatch that was checked.

    Attributes:
        name: what outcomes call it.
        word: what the user called it, such that it means the same from any folder.
        digest: SHA-256 over its sources' names and contents.
    """

    name: str
    word: str
    digest: str


class CheckedKernel(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel it was checked on.

    Attributes:
        name: what it was asked for by; outcomes call it so.
        release: ``uname -r``.
        kernel_digest, image_digest: of what was booted.
        accelerator: kvm or tcg.
        debug: by what it looked for faults in memory (``--debug``), as words of a command line.
    """

    name: str
    release: str
    kernel_digest: str
    image_digest: str
    accelerator: str
    debug: str = ""

    @property
    def title(self) -> str:
        """Its release, and that it looked for faults in memory if it did."""
        return f"{self.release} (debug)" if self.debug else self.release


class ScenarioOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one scenario.

    Attributes:
        kernel, livepatch, scenario: which one; names.
        repetition: from 1, see ``--repeat``.
        verdict: held; violated; or not observed: it does not apply, or could not be tried.
        reasons: why it is not held, what tells most first; empty where it is held.
        notes: what was seen that is no fault, in words.
        rules: verdicts of its trace on every rule that it shows, by the rule's id.
        lost: whether the guest was lost under it.
        seconds: it took in its guest.
        command: repeats it alone.
        folder: its run folder, relative to the check's; empty where it took no guest.
        calls: of each new function, in this scenario; empty where it took no guest, or was lost with it.
    """

    kernel: str
    livepatch: str
    scenario: str
    repetition: int
    verdict: Verdict
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    rules: dict[str, Verdict]
    lost: bool
    seconds: float
    command: str
    folder: str
    calls: tuple[FunctionCalls, ...] = ()

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Return what tells it apart in one check."""
        return (self.kernel, self.livepatch, self.scenario, self.repetition)


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """A whole check: check.json, written anew after every scenario.

    Attributes:
        schema: version of this structure.
        klp, qemu: versions.
        livepatches, kernels, scenarios: what was asked for, in order; `scenarios` are names.
        quick: whether only a first look was asked for.
        repeat: how often each scenario is to be run.
        outcomes: those there are so far, in the order of livepatch, kernel, scenario, repetition.
        error: why it ended early, in words; null if it did not, or if it still goes on.
        complete: whether every outcome is there.
    """

    schema: int
    klp: str
    qemu: str
    begun_at: float
    ended_at: float
    livepatches: tuple[CheckedLivepatch, ...]
    kernels: tuple[CheckedKernel, ...]
    scenarios: tuple[str, ...]
    quick: bool
    repeat: int
    outcomes: tuple[ScenarioOutcome, ...]
    error: str | None
    complete: bool

    def of(self, kernel: str, livepatch: str, scenario: str) -> tuple[ScenarioOutcome, ...]:
        """Return the outcomes of one cell of the matrix: one for each repetition that there is."""
        wanted = (kernel, livepatch, scenario)
        return tuple(each for each in self.outcomes if each.key[:3] == wanted)

    @property
    def debug(self) -> bool:
        """Whether its kernels looked for faults in memory (``--debug``)."""
        return any(each.debug for each in self.kernels)

    @property
    def violated(self) -> tuple[ScenarioOutcome, ...]:
        """Return the outcomes that name a fault."""
        return tuple(each for each in self.outcomes if each.verdict is Verdict.VIOLATED)
