# SPDX-License-Identifier: Apache-2.0
"""What a run found out: the values in run.json, schema version 2.

Times are seconds since the epoch on the host where they say `_at`, else nanoseconds of the guest.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from klp.analysis.calls import FunctionCalls
from klp.analysis.evidence import Verdict
from klp.analysis.history import History
from klp.analysis.rules.rule import RuleVerdict
from klp.analysis.shadow import ShadowLedger
from klp.analysis.transitions import Transition

RUN_SCHEMA = 2
# Up to the year 5138: no clock is that wrong, and every calendar can tell them.
EpochSeconds = Annotated[float, msgspec.Meta(ge=0, le=100_000_000_000)]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that had to be so.

    Attributes:
        name: what was checked, in a few words.
        verdict: its outcome; never held on no observation.
        evidence: what was seen, in words, with counts.
    """

    name: str
    verdict: Verdict
    evidence: str


def check(name: str, held: bool, evidence: str) -> Check:
    """Return a check of something that was observed."""
    return Check(name=name, verdict=Verdict.HELD if held else Verdict.VIOLATED, evidence=evidence)


class PatchedFunctions(msgspec.Struct, frozen=True, kw_only=True):
    """An object of a livepatch and the functions it changes there, as sysfs shows them."""

    object: str
    functions: tuple[str, ...]


class CallbackCall(msgspec.Struct, frozen=True, kw_only=True):
    """One callback as it ran; `result` is null but for pre_patch."""

    kind: str
    object: str
    function: str
    result: int | None
    duration_ns: int


def callback_calls(history: History, patch: str) -> tuple[CallbackCall, ...]:
    """Return a livepatch's callbacks in the order they ran."""
    return tuple(
        CallbackCall(
            kind=each.kind, object=each.object, function=each.function, result=each.result,
            duration_ns=each.duration_ns,
        )
        for _, each in history.callbacks.of(patch)
    )  # fmt: skip


class PlanResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one plan (a module, what it needs, what must be seen) ended in.

    Attributes:
        name: of the plan.
        livepatch: module name of the livepatch under test; empty for a plain module.
        objects: what it changes.
        transitions: of `livepatch`, both directions, oldest first.
        shadow: the ledger of the plan's whole span.
        callbacks: of `livepatch`, in order.
        checks: every check, in the order they were made.
        log: the kernel's log lines of the plan's span.
        error: the first failure, in words; null if there was none.
        repetition: from 1; a run may repeat each of its plans.
        guest: which of the run's guests it ran in, from 1: its events are in that one's file.
        calls: of each of the livepatch's own functions, as far as the guest lived to tell them.
    """

    name: str
    livepatch: str
    objects: tuple[PatchedFunctions, ...]
    transitions: tuple[Transition, ...]
    shadow: ShadowLedger
    callbacks: tuple[CallbackCall, ...]
    checks: tuple[Check, ...]
    log: tuple[str, ...]
    error: str | None
    verdict: Verdict
    repetition: int = 1
    guest: int = 1
    calls: tuple[FunctionCalls, ...] = ()

    @property
    def title(self) -> str:
        """The plan's name, with the number of its repetition from the second on."""
        return self.name if self.repetition == 1 else f"{self.name}, repetition {self.repetition}"


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """What a run ran on.

    Attributes:
        klp, qemu, python: versions.
        kernel: its release; `kernel_name` is what it was asked for by.
        kernel_digest, image_digest: of what was booted.
        accelerator: kvm or tcg, and why.
        memory_mib, cpus: of the guest.
        debug: by what its kernel looked for faults in memory, as words of a command line; empty if it did
            not.
        modules: module name to SHA-256 of its file.
        probes: probe file name to SHA-256.
    """

    klp: str
    qemu: str
    python: str
    kernel: str
    kernel_name: str
    kernel_digest: str
    image_digest: str
    accelerator: str
    accelerator_reason: str
    memory_mib: int
    cpus: int
    modules: dict[str, str]
    probes: dict[str, str]
    debug: str = ""

    @property
    def title(self) -> str:
        """Its kernel's release, and that it looked for faults in memory if it did."""
        return f"{self.kernel} (debug)" if self.debug else self.kernel


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run: run.json.

    Attributes:
        schema: version of this structure.
        begun_at, ended_at: seconds since the epoch.
        events, lost_events: written by the probes; said by them to be lost.
        unseen: what the probes cannot see on this kernel.
        error: why the run ended early, in words; null if it did not.
        rules: what the whole trace says on every rule, as `klp analyze` judges it.
        verdict: violated if any plan or rule is; held only if all plans are.
    """

    schema: int
    begun_at: EpochSeconds
    ended_at: EpochSeconds
    provenance: Provenance
    plans: tuple[PlanResult, ...]
    events: int
    lost_events: int
    unseen: tuple[str, ...]
    error: str | None
    rules: tuple[RuleVerdict, ...]
    verdict: Verdict
