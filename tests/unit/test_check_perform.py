# SPDX-License-Identifier: Apache-2.0
"""What a scenario comes to: who is blamed for which end of it, and who is not."""

from __future__ import annotations

import errno
import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from klp.analysis.diagnosis import Seen
from klp.analysis.evidence import Verdict
from klp.analysis.history import history
from klp.analysis.legs import LegOutcome
from klp.analysis.refusal_facts import RefusalFacts
from klp.check import perform as perform_module
from klp.check import refusal as refusal_module
from klp.check.perform import Performed, perform
from klp.check.scenario import Scenario
from klp.check.stage import NotApplicable
from klp.drive.steps import Moment
from klp.drive.subject import Refused
from klp.errors import (
    BootFailed,
    Category,
    CheckFailed,
    CrashReport,
    GuestPanicked,
    GuestSilent,
    HostLacks,
    HostStalled,
    KlpError,
    QemuGone,
    TransitionStuck,
    UsageError,
    VmLost,
)
from klp.klog.expected import Expected
from klp.trace import events as ev

RECORDED = Path(__file__).parents[1] / "data/events/real/transition-6.12.jsonl.gz"
SILENT = GuestSilent("no end of `insmod` within 60 s")
ALARM = "[    1.0] BUG: scheduling while atomic: insmod/1/0x2"


@dataclass
class Case:
    """A guest after a scenario: what it answers, and what is found out about it."""

    answers: str | None = "cat[12] in do_sys_open\n"
    closing: KlpError | None = None
    lines: tuple[str, ...] = ()
    looked: VmLost | None = None
    stood_still: HostStalled | None = None
    debug: bool = False
    asked: list[str] = field(default_factory=list)
    verdicts: dict[str, Any] = field(default_factory=dict)
    modules: dict[str, Any] = field(default_factory=dict)
    pending: tuple[Any, ...] = ()
    settings = SimpleNamespace(callback_limit_s=10.0)
    trace: Any = field(default_factory=lambda: SimpleNamespace(remains=lambda: history(())))

    @property
    def guest(self) -> Any:
        machine = SimpleNamespace(stalled=lambda since: self.stood_still)
        return SimpleNamespace(lab=SimpleNamespace(diagnosis=self, machine=machine), run=self.run)

    def run(self, command: str) -> Any:
        self.asked.append(command)
        if self.answers is None:
            raise SILENT
        return SimpleNamespace(stdout=self.answers)

    def close(self, expects: object) -> tuple[str, ...]:
        if self.closing:
            raise self.closing
        return self.lines

    def last_look(self) -> VmLost | None:
        return self.looked

    def observed(self) -> dict[str, Verdict]:
        return {}

    def console(self) -> tuple[str, ...]:
        return ()


@dataclass
class Stage:
    """Stands for a stage whose livepatch is never really loaded."""

    livepatch = SimpleNamespace(name="klp_x")
    counter = SimpleNamespace(arm=lambda: None)
    expects: tuple[Any, ...] = ()
    known_objects: tuple[Any, ...] = ()
    inside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ("a note",)
    faults: list[str] = field(default_factory=list)
    misbehaved: tuple[Any, ...] = ()
    observed: list[Moment] = field(default_factory=list)

    def observe(self, moment: Moment) -> None:
        self.observed.append(moment)

    def counted(self) -> tuple[Any, ...]:
        return ()


CANDIDATE = SimpleNamespace(livepatch=SimpleNamespace(name="klp_x"), modules={})


def performed(
    monkeypatch: pytest.MonkeyPatch, drive: Callable[[Any], None], case: Case, stage: Stage | None = None
) -> Performed:
    made = stage or Stage()
    monkeypatch.setattr(perform_module, "Stage", lambda *words, **more: made)
    scenario = Scenario("life", "its plain life", drive)
    return perform(cast("Any", case), cast("Any", CANDIDATE), scenario, (), lambda words: None, quick=True)


def ending(error: BaseException | None) -> Callable[[Any], None]:
    def drive(stage: Any) -> None:
        if error:
            raise error

    return drive


def crash(*, suspect: bool = False) -> CrashReport:
    return CrashReport(Category.OOPS, "BUG: NULL pointer", "f", ("klp_x",), (), "1", (), suspect)


LOST_ELSEWHERE = "the guest was lost, which tells nothing of the livepatch: "


@pytest.mark.parametrize(
    ("error", "verdict", "reason", "lost"),
    [
        (None, Verdict.HELD, None, False),
        (NotApplicable("no CPU to spare"), Verdict.NOT_OBSERVED, "no CPU to spare", False),
        (UsageError("no module x"), Verdict.NOT_OBSERVED, "could not be tried: no module x", False),
        (CheckFailed("it is wrong"), Verdict.VIOLATED, "it is wrong", False),
        (QemuGone("QEMU ended"), Verdict.NOT_OBSERVED, f"{LOST_ELSEWHERE}QEMU ended", True),
        (BootFailed("no boot"), Verdict.NOT_OBSERVED, f"{LOST_ELSEWHERE}no boot", True),
        (GuestPanicked("it panicked"), Verdict.VIOLATED, "it panicked", True),
        (GuestPanicked("int3", report=crash(suspect=True)), Verdict.NOT_OBSERVED,
         f"{LOST_ELSEWHERE}int3", True),
        (SILENT, Verdict.VIOLATED,
         f"{SILENT.message}, and the guest lives: cat[12] in do_sys_open", False),
    ],
)  # fmt: skip
def test_who_is_blamed(
    monkeypatch: pytest.MonkeyPatch,
    error: KlpError | None,
    verdict: Verdict,
    reason: str | None,
    lost: bool,
) -> None:
    found = performed(monkeypatch, ending(error), Case())
    assert (found.verdict, found.lost, found.plan.verdict) == (verdict, lost, verdict)
    assert found.reasons == ((reason,) if reason else ())
    assert found.notes == (("a note", "done until then: nothing") if lost else ("a note",))
    [check] = found.plan.checks
    assert (check.verdict, check.evidence) == (verdict, reason or "its plain life")
    expected = error.message if error and not isinstance(error, NotApplicable | UsageError) else None
    assert found.plan.error == (reason if error is SILENT else expected)


def test_a_crash_is_told_by_its_report(monkeypatch: pytest.MonkeyPatch) -> None:
    found = performed(monkeypatch, ending(GuestPanicked("lost", report=crash())), Case())
    assert found.verdict is Verdict.VIOLATED
    [reason] = found.reasons
    assert reason.startswith("the kernel died: oops in f, called by klp_x: BUG: NULL pointer")


def test_what_the_host_lacks_is_no_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostLacks, match="no room"):
        performed(monkeypatch, ending(HostLacks("no room")), Case())


def test_a_guest_that_answers_nobody_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    found = performed(monkeypatch, ending(SILENT), Case(answers=None))
    assert (found.verdict, found.lost) == (Verdict.NOT_OBSERVED, True)
    assert found.reasons == (f"{LOST_ELSEWHERE}{SILENT.message}",)


def test_where_a_command_hangs_nobody_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    found = performed(monkeypatch, ending(SILENT), Case(answers=""))
    assert found.reasons == (f"{SILENT.message}, and the guest lives: no task sleeps uninterruptibly",)


@pytest.mark.parametrize(
    ("looked", "lost"), [(GuestSilent("the same connection"), False), (GuestPanicked("in the end"), True)]
)
def test_the_connection_that_hangs_is_silent_and_that_is_no_loss(
    monkeypatch: pytest.MonkeyPatch, looked: VmLost, lost: bool
) -> None:
    found = performed(monkeypatch, ending(SILENT), Case(looked=looked))
    assert (found.verdict, found.lost) == (Verdict.VIOLATED, lost)


def test_a_kernel_that_dies_after_all_had_held(monkeypatch: pytest.MonkeyPatch) -> None:
    found = performed(monkeypatch, ending(None), Case(looked=GuestPanicked("a timer of its own")))
    assert (found.verdict, found.reasons) == (Verdict.VIOLATED, ("a timer of its own",))
    silent = performed(monkeypatch, ending(None), Case(looked=SILENT))
    assert (silent.verdict, silent.lost) == (Verdict.NOT_OBSERVED, True)


def test_what_is_wrong_in_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = Case(closing=CheckFailed("a probe is dead"))
    assert performed(monkeypatch, ending(None), dead).reasons == ("a probe is dead",)
    # What ended it comes first, and what follows from that is not told.
    assert performed(monkeypatch, ending(CheckFailed("first")), dead).reasons == ("first",)
    gone = performed(monkeypatch, ending(None), Case(closing=QemuGone("QEMU ended")))
    assert (gone.verdict, gone.lost) == (Verdict.NOT_OBSERVED, True)


def test_a_report_in_the_log_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    found = performed(monkeypatch, ending(None), Case(lines=(ALARM,)))
    assert found.verdict is Verdict.VIOLATED
    assert "scheduling while atomic" in found.reasons[0]
    assert found.plan.log == (ALARM,)


def test_faults_that_the_scenario_names(monkeypatch: pytest.MonkeyPatch) -> None:
    found = performed(monkeypatch, ending(None), Case(), Stage(faults=["one", "two"]))
    assert found.reasons == ("one", "two")
    lost = performed(monkeypatch, ending(QemuGone("QEMU ended")), Case(), Stage(faults=["one"]))
    assert (lost.verdict, lost.reasons, lost.lost) == (Verdict.VIOLATED, ("one",), True)


def refusal(action: str, subject: str) -> Refused:
    return Refused(
        "no", subject=subject, action=action, errno=errno.EBUSY, said="busy", hint="h", facts=RefusalFacts()
    )


@pytest.mark.parametrize(
    ("action", "subject", "looks"),
    [("load", "klp_x", True), ("unload", "klp_x", False), ("load", "klp_other", False)],
)
def test_a_refused_load_is_looked_after(
    monkeypatch: pytest.MonkeyPatch, action: str, subject: str, looks: bool
) -> None:
    stage = Stage()
    found = performed(monkeypatch, ending(refusal(action, subject)), Case(), stage)
    assert stage.observed == ([Moment.REFUSED] if looks else [])
    assert found.verdict is Verdict.VIOLATED
    assert f"{action} of {subject} was refused with EBUSY" in found.reasons[0]


def test_a_transition_that_does_not_end_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    found = performed(monkeypatch, ending(TransitionStuck("klp_x", 20, ("cat[1]",))), Case())
    assert found.reasons[0].startswith("the transition does not end")


@pytest.mark.parametrize(("debug", "looks"), [(True, 1), (False, 0)])
def test_damage_is_looked_for_where_the_kernel_can(
    monkeypatch: pytest.MonkeyPatch, debug: bool, looks: int
) -> None:
    case = Case(debug=debug)
    performed(monkeypatch, ending(None), case)
    assert len([each for each in case.asked if "validate" in each]) == looks


def leg(
    seconds: float, outcome: LegOutcome = LegOutcome.COMPLETE, patch: str = "klp_x", **more: Any
) -> Any:
    begun = 5_000_000_000
    fields = {"started": None, "begun_ns": begun, "last_ns": begun + int(seconds * 1e9), **more}
    return SimpleNamespace(patch=patch, outcome=outcome, **fields)


STARTED = (0, SimpleNamespace(ts_ns=6_000_000_000))


@pytest.mark.parametrize(
    ("lasted", "told"),
    [
        (leg(3), True),
        (leg(2.9), False),
        (leg(9, LegOutcome.REVERSED), True),
        # Of one that did not end the diagnosis tells.
        (leg(9, LegOutcome.UNFINISHED), False),
        (leg(9, patch="klp_other"), False),
        # From its start, where that was seen, and not from its preparation.
        (leg(3.9, started=STARTED), False),
        (leg(4, started=STARTED), True),
    ],
)
def test_who_holds_up_a_transition_that_ends_is_told(
    monkeypatch: pytest.MonkeyPatch, lasted: Any, told: bool
) -> None:
    monkeypatch.setattr(perform_module, "stories", lambda leg: ("the first", "the second"))
    found = perform_module._slow(cast("Any", SimpleNamespace(legs=(lasted,))), "klp_x")
    assert tuple(found) == (("the first",) if told else ())


def test_what_was_done_until_a_loss() -> None:
    step = SimpleNamespace(action="load", subject="klp_x")
    seen = SimpleNamespace(steps=[(0, step), (1, SimpleNamespace(action="disable", subject="klp_x"))])
    assert perform_module._steps(cast("Any", SimpleNamespace(seen=seen))) == "load klp_x, disable klp_x"


def test_who_holds_a_transition_up_in_its_own_code() -> None:
    stacks = {
        7: ("[<0>] schedule+0x1/0x2", "[<0>] livepatch_f+0x10/0x20 [klp_x]"),
        8: ("[<0>] f+0x1/0x2 [klp_xy]",),
        9: (),
    }
    pending = tuple(SimpleNamespace(pid=pid, stack=stack) for pid, stack in stacks.items())
    found = perform_module._in_own_code(cast("Any", Case(pending=pending)), "klp_x")
    assert found == ((7, "livepatch_f"),)


@pytest.mark.parametrize(("leaves", "has"), [(True, False), (False, True)])
def test_a_module_that_cannot_be_removed_by_its_own_making(
    monkeypatch: pytest.MonkeyPatch, leaves: bool, has: bool
) -> None:
    monkeypatch.setattr(refusal_module, "can_be_removed", lambda file: leaves)
    monkeypatch.setitem(CANDIDATE.modules, "klp_x", SimpleNamespace(file="klp_x.ko", livepatch=False))
    found = performed(monkeypatch, ending(refusal("unload", "klp_x")), Case())
    assert ("module_exit()" in found.reasons[0]) is has


def test_what_a_lost_guest_had_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said = (("[ 1.0] BUG: one",), ("[ 2.0] BUG: another",))
    asked: list[Any] = []

    def words(console: object, livepatch: str, foreign: object) -> tuple[tuple[str, ...], ...]:
        asked.extend((livepatch, set(cast("Any", foreign))))
        return said

    monkeypatch.setattr(perform_module, "dying_words", words)
    stage = Stage(expects=(Expected("BUG: one", "on purpose"),))
    case = Case(modules={"klp_x": 1, "ext4": 2})
    monkeypatch.setitem(CANDIDATE.modules, "klp_x", SimpleNamespace(file="klp_x.ko"))
    found = performed(monkeypatch, ending(QemuGone("QEMU ended")), case, stage)
    assert asked == ["klp_x", {"ext4"}]
    assert found.verdict is Verdict.VIOLATED
    [reason] = found.reasons
    assert "another" in reason


def test_all_that_the_stage_knows_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Seen] = []

    def diagnosed(one: Seen) -> tuple[str, ...]:
        seen.append(one)
        return ()

    monkeypatch.setattr(perform_module, "diagnose", diagnosed)
    monkeypatch.setattr(Stage, "counted", lambda stage: ("calls",))
    stage = Stage(
        expects=(Expected("scheduling while atomic", "on purpose"),), known_objects=("objects",),
        inside=("cat[7]",), misbehaved=("wrong",),
    )  # fmt: skip
    found = performed(monkeypatch, ending(None), Case(lines=(ALARM,)), stage)
    assert (found.verdict, found.calls, found.objects) == (Verdict.HELD, ("calls",), ("objects",))
    assert (found.plan.calls, found.plan.objects) == (("calls",), ("objects",))
    [one] = seen
    assert (one.inside, one.misbehaved, one.reports, one.said) == (("cat[7]",), ("wrong",), (), ())


def test_a_stage_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*words: object, **more: object) -> Stage:
        raise CheckFailed("it cannot be shipped")

    monkeypatch.setattr(perform_module, "Stage", refuses)
    found = perform(
        cast("Any", Case(lines=(ALARM,))), cast("Any", CANDIDATE), Scenario("life", "", ending(None)), (),
        lambda words: None, quick=True,
    )  # fmt: skip
    assert found.verdict is Verdict.VIOLATED
    assert found.reasons[0] == "it cannot be shipped"
    assert (found.calls, found.objects, found.notes) == ((), (), ())


def test_transitions_of_other_livepatches_are_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [ev.decode(line) for line in gzip.decompress(RECORDED.read_bytes()).splitlines()]
    whole = history(enumerate(sorted(events, key=lambda event: event.ts_ns)))
    [name, *_] = {each.patch for each in whole.transitions}
    for livepatch, count in (("klp_x", 0), (name, sum(each.patch == name for each in whole.transitions))):
        case = Case()
        case.trace = SimpleNamespace(remains=lambda: whole)
        monkeypatch.setattr(CANDIDATE.livepatch, "name", livepatch)
        assert len(performed(monkeypatch, ending(None), case).plan.transitions) == count
