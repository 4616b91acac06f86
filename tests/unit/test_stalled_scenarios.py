# SPDX-License-Identifier: Apache-2.0
"""What failed while the host stood still may have failed for that: not observed, and not violated."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from klp.analysis.evidence import Verdict
from klp.analysis.history import history
from klp.analysis.result import PlanResult
from klp.check import perform as performing
from klp.check.candidate import Candidate
from klp.check.perform import Performed, perform
from klp.check.scenario import Scenario
from klp.drive.case import Case
from klp.drive.lifecycle import Lifecycle, lost_result
from klp.errors import (
    CheckFailed,
    DiskFull,
    GuestPanicked,
    GuestSilent,
    GuestStalled,
    HostLacks,
    HostStalled,
    KlpError,
    TraceLost,
    TransitionStuck,
    VmLost,
)
from klp.modules.plan import PatchPlan

HELD, VIOLATED, UNSEEN = Verdict.HELD, Verdict.VIOLATED, Verdict.NOT_OBSERVED
STALLED = HostStalled("this host stood still: QEMU could not run for 70 s")
STUCK = TransitionStuck("p", 60.0, ())


@dataclass
class Machinelike:
    """A machine whose host stood still meanwhile, or not."""

    lost: HostStalled | None

    def stalled(self, since: float) -> HostStalled | None:
        assert since > 0
        return self.lost


# --- scenarios of a check --------------------------------------------------------------------------------


@dataclass
class Caselike:
    """The guest's end of a scenario, in which nothing was seen but what the scenario itself raises."""

    machine: Machinelike
    debug: bool = False
    pending: tuple[object, ...] = ()
    verdicts: dict[str, object] = field(default_factory=dict)
    modules: dict[str, object] = field(default_factory=dict)
    settings: Any = field(default_factory=lambda: SimpleNamespace(callback_limit_s=10.0))

    @property
    def guest(self) -> Any:
        return SimpleNamespace(lab=SimpleNamespace(machine=self.machine, diagnosis=self))

    @property
    def trace(self) -> Any:
        return SimpleNamespace(remains=lambda: history(()))

    def run(self, _: str) -> Any:
        return SimpleNamespace(stdout="")  # it answers on the second connection

    def close(self, _: object) -> tuple[str, ...]:
        return ()

    def last_look(self) -> None:
        return None

    def observed(self) -> dict[str, Verdict]:
        return {}

    def console(self) -> tuple[str, ...]:
        return ()


class Stagelike:
    """A stage on which nothing was noted."""

    expects = faults = misbehaved = notes = inside = known_objects = ()
    counter = SimpleNamespace(arm=lambda: None)

    def __init__(self, *_: object, **__: object) -> None:
        self.livepatch = SimpleNamespace(name="p")

    def counted(self) -> tuple[()]:
        return ()


def performed(
    error: KlpError | None, stalled: HostStalled | None, monkeypatch: pytest.MonkeyPatch
) -> Performed:
    """Perform a scenario that ends in an error."""
    monkeypatch.setattr(performing, "Stage", Stagelike)

    def drive(_: object) -> None:
        if error:
            raise error

    candidate = cast("Candidate", SimpleNamespace(livepatch=SimpleNamespace(name="p"), modules={}))
    scenario = cast("Scenario", SimpleNamespace(name="life", summary="a life", drive=drive))
    case = cast("Case", Caselike(Machinelike(stalled)))
    return perform(case, candidate, scenario, (), lambda _: None, quick=False)


BY_CLOCKS = [STUCK, CheckFailed("slow"), GuestSilent("no end of `insmod`"), GuestStalled("soft lockup")]


@pytest.mark.parametrize("error", BY_CLOCKS, ids=lambda error: type(error).__name__)
def test_what_is_told_by_clocks_counts_only_if_the_host_went_on(
    error: KlpError, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert performed(error, None, monkeypatch).verdict is VIOLATED
    done = performed(error, STALLED, monkeypatch)
    assert (done.verdict, done.lost) == (UNSEEN, True)
    [reason] = done.reasons
    assert reason == f"the guest was lost, which tells nothing of the livepatch: {STALLED.message}"


def test_an_oops_counts_whatever_the_host_did(monkeypatch: pytest.MonkeyPatch) -> None:
    oops = GuestPanicked("the guest is lost: oops in p")
    assert performed(oops, STALLED, monkeypatch).verdict is VIOLATED


def test_what_held_has_held(monkeypatch: pytest.MonkeyPatch) -> None:
    assert performed(None, STALLED, monkeypatch).verdict is HELD


@pytest.mark.parametrize("error", [TraceLost("the probe x gave no mark within 180 s"), STALLED])
def test_a_loss_by_nobody_is_not_observed(error: VmLost, monkeypatch: pytest.MonkeyPatch) -> None:
    done = performed(error, None, monkeypatch)
    assert (done.verdict, done.lost) == (UNSEEN, True)
    assert error.message in done.reasons[0]


@pytest.mark.parametrize("error", [DiskFull("no space left"), HostLacks("x")])
def test_what_the_host_lacks_is_no_outcome(error: HostLacks, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(type(error)):
        performed(error, None, monkeypatch)


# --- plans of a run --------------------------------------------------------------------------------------

PLAN = PatchPlan(name="p", summary="", livepatch="p")


class Lives(Lifecycle):
    """A plan's life that ends as it is told to."""

    def __init__(self, end: Verdict | VmLost, stalled: HostStalled | None) -> None:
        self._guest = cast("Any", SimpleNamespace(lab=SimpleNamespace(machine=Machinelike(stalled))))
        self._end = end

    def _run(self, plan: PatchPlan) -> PlanResult:
        if isinstance(self._end, VmLost):
            raise self._end
        return msgspec.structs.replace(lost_result(plan, GuestPanicked("x")), verdict=self._end)


def test_a_plan_that_failed_while_the_host_stood_still_is_lost_to_it() -> None:
    for end in (VIOLATED, GuestSilent("no end of `insmod`")):
        with pytest.raises(HostStalled):
            Lives(end, STALLED).run(PLAN)
    assert Lives(HELD, STALLED).run(PLAN).verdict is HELD
    assert Lives(VIOLATED, None).run(PLAN).verdict is VIOLATED
    with pytest.raises(GuestSilent):
        Lives(GuestSilent("x"), None).run(PLAN)
