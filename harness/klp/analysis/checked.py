# SPDX-License-Identifier: Apache-2.0
"""What `klp check` found out: the values in check.json, schema version 2.

Version 1 had no verdict of its own, and no calls; `klp.records.encoding` reads it as well.

Times are seconds since the epoch on the host where they say `_at`.
"""

from __future__ import annotations

import msgspec

from klp.analysis.calls import FunctionCalls
from klp.analysis.evidence import Verdict
from klp.analysis.exercised import Exercised
from klp.analysis.result import EpochSeconds

CHECK_SCHEMA = 2
GUEST_LOST = "guest lost"
# How the reason of a scenario begins that was to be tried, and was not: what kept it from that is no
# property of the livepatch, or is a fault that another scenario tells of.
NOT_TRIED = "not tried, for "
COULD_NOT_BE_TRIED = "could not be tried: "


def verdict_words(verdict: Verdict, *, lost: bool) -> str:
    """Return a check's verdict in a word or two, a lost guest first: ``guest lost, violated``."""
    if not lost:
        return verdict.value
    return f"{GUEST_LOST}, {verdict.value}" if verdict is Verdict.VIOLATED else GUEST_LOST


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
        callbacks_only: sysfs showed, once it was loaded, that the livepatch changes no function.
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
    callbacks_only: bool = False

    @property
    def inapplicable(self) -> bool:
        """Whether there is nothing of the kind to be tried on this livepatch or this kernel."""
        # An outcome that gives no reason is not excused.
        unseen = self.verdict is Verdict.NOT_OBSERVED and not self.lost and bool(self.reasons)
        return unseen and not self.reasons[0].startswith((NOT_TRIED, COULD_NOT_BE_TRIED))

    @property
    def untried(self) -> bool:
        """Whether what befell another scenario kept it from being tried: its reason says nothing new."""
        return bool(self.reasons) and self.reasons[0].startswith(NOT_TRIED) and not self.lost

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Return what tells it apart in one check."""
        return (self.kernel, self.livepatch, self.scenario, self.repetition)


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """A whole check: check.json, written anew after every scenario.

    Attributes:
        schema: version of this structure.
        verdict: violated if any outcome is; held only if all that applies was tried and held, no guest was
            lost, and each new function ran on each kernel. See `klp.analysis.acquittal`.
        headlines: why, a line each, what tells most first: lost guests, faults, functions that never ran.
        klp, qemu: versions.
        livepatches, kernels, scenarios: what was asked for, in order; `scenarios` are names.
        quick: whether only a first look was asked for.
        repeat: how often each scenario is to be run.
        outcomes: those there are so far, in the order of livepatch, kernel, scenario, repetition.
        error: why it ended early, in words; null if it did not, or if it still goes on.
        complete: whether every outcome is there.
        exercised: what ran of each livepatch on each kernel.
    """

    schema: int
    # Whoever makes one has it judged; what was not is not held.
    verdict: Verdict = Verdict.NOT_OBSERVED
    headlines: tuple[str, ...] = ()
    klp: str
    qemu: str
    begun_at: EpochSeconds
    ended_at: EpochSeconds
    livepatches: tuple[CheckedLivepatch, ...]
    kernels: tuple[CheckedKernel, ...]
    scenarios: tuple[str, ...]
    quick: bool
    repeat: int
    outcomes: tuple[ScenarioOutcome, ...]
    error: str | None
    complete: bool
    exercised: tuple[Exercised, ...] = ()

    def of(self, kernel: str, livepatch: str, scenario: str) -> tuple[ScenarioOutcome, ...]:
        """Return the outcomes of one cell of the matrix: one for each repetition that there is."""
        wanted = (kernel, livepatch, scenario)
        return tuple(each for each in self.outcomes if each.key[:3] == wanted)

    @property
    def words(self) -> str:
        """The verdict in a word or two, a lost guest first: ``guest lost, violated``."""
        return verdict_words(self.verdict, lost=bool(self.lost))

    @property
    def lost(self) -> tuple[ScenarioOutcome, ...]:
        """Return the outcomes under which a guest was lost."""
        return tuple(each for each in self.outcomes if each.lost)

    @property
    def debug(self) -> bool:
        """Whether its kernels looked for faults in memory (``--debug``)."""
        return any(each.debug for each in self.kernels)

    @property
    def violated(self) -> tuple[ScenarioOutcome, ...]:
        """Return the outcomes that name a fault."""
        return tuple(each for each in self.outcomes if each.verdict is Verdict.VIOLATED)
