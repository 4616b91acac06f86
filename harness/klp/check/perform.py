# SPDX-License-Identifier: Apache-2.0
"""One scenario in one guest: driven, judged, its run folder kept, its outcome put into words."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import msgspec

from klp.analysis.callback_times import slow_callbacks
from klp.analysis.calls import FunctionCalls
from klp.analysis.checked import COULD_NOT_BE_TRIED
from klp.analysis.diagnosis import Seen, diagnose
from klp.analysis.dying import dying_words
from klp.analysis.evidence import Verdict
from klp.analysis.history import History
from klp.analysis.legs import LegOutcome
from klp.analysis.result import Check, PatchedFunctions, PlanResult, callback_calls, check
from klp.analysis.words import stories
from klp.check.candidate import Candidate
from klp.check.damage import find_damage
from klp.check.refusal import refusal_of
from klp.check.scenario import Scenario
from klp.check.stage import NotApplicable, Stage
from klp.drive.case import Case
from klp.drive.steps import Moment
from klp.drive.subject import Refused
from klp.errors import (
    CheckFailed,
    GuestOutOfMemory,
    GuestPanicked,
    GuestSilent,
    HostLacks,
    HostStalled,
    KlpError,
    TransitionStuck,
    UsageError,
    VmLost,
)
from klp.klog import expected

# The kernel tries again once a second (klp_try_complete_transition): more than a few tries are told.
_SLOW_NS = 3_000_000_000
# Who sleeps uninterruptibly, and where: the first lines of /proc/PID/stack.
_BLOCKED = (
    "for t in /proc/[0-9]*; do grep -q '^State:.*D (' $t/status || continue; "
    "echo $(cat $t/comm)[${t#/proc/}] in $(head -n 4 $t/stack | cut -d' ' -f2-); done 2>/dev/null"
)


@dataclass(frozen=True, slots=True)
class Performed:
    """What came of a scenario.

    Attributes:
        verdict, reasons, notes, rules, lost: as in `klp.analysis.checked.ScenarioOutcome`.
        calls: of each of the livepatch's own functions; empty where the guest was lost.
        objects: what the livepatch changes, if it was ever loaded.
        plan: the same for the scenario's own run.json.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    rules: dict[str, Verdict]
    lost: bool
    calls: tuple[FunctionCalls, ...]
    objects: tuple[PatchedFunctions, ...]
    plan: PlanResult


@dataclass(slots=True)
class _Ended:
    """How a scenario's drive ended, and what guest and kernel log said after it.

    Attributes:
        hangs: a command hangs, and the guest lives: that the connection it hangs on is silent is no loss.
        stalled: this host stood still meanwhile.
    """

    inapplicable: str = ""
    error: KlpError | None = None
    lost: VmLost | None = None
    stalled: HostStalled | None = None
    hangs: bool = False
    lines: tuple[str, ...] = ()
    reports: tuple[tuple[str, ...], ...] = field(default=())
    calls: tuple[FunctionCalls, ...] = ()


def perform(
    case: Case,
    candidate: Candidate,
    scenario: Scenario,
    objects: tuple[PatchedFunctions, ...],
    tell: Callable[[str], None],
    *,
    quick: bool,
) -> Performed:
    """Drive a scenario in a case's guest and judge it; whatever befalls it or the guest is in the result.

    Args:
        tell: gets how far it is.

    Raises:
        HostLacks: this host, not the livepatch, keeps it from being tried.
    """
    ended, begun = _Ended(), time.monotonic()
    stage = None
    try:
        stage = Stage(case, candidate, objects, tell, quick=quick)
        _drive(stage, scenario)
    except NotApplicable as why:
        ended.inapplicable = why.message
    except UsageError as error:  # a module of the scenario's own that cannot be had on this kernel
        ended.inapplicable = f"{COULD_NOT_BE_TRIED}{error.message}"
    # One command that hangs in the kernel, such as insmod in a callback, is the livepatch's fault; a guest
    # that answers on neither connection is lost. A GuestSilent is a VmLost as well: hence the order.
    except GuestSilent as silent:
        ended.error = _stuck(case, silent)
        ended.hangs = ended.error is not None
        ended.lost = None if ended.hangs else silent
    except VmLost as lost:
        ended.lost = lost
    except HostLacks:
        raise
    except KlpError as error:
        ended.error = error
    _close(case, stage, ended)
    ended.stalled = case.guest.lab.machine.stalled(begun)
    return _told(case, candidate, scenario, stage, ended)


def _drive(stage: Stage, scenario: Scenario) -> None:
    """Drive it; where the livepatch's load is refused, see that it left nothing behind."""
    stage.counter.arm()
    try:
        scenario.drive(stage)
    except Refused as refusal:
        if refusal.action == "load" and refusal.subject == stage.livepatch.name:
            stage.observe(Moment.REFUSED)
        raise


def _close(case: Case, stage: Stage | None, ended: _Ended) -> None:
    """See what guest, kernel log and trace say after it; a guest that is lost says nothing more."""
    if ended.lost:
        return
    expects = stage.expects if stage else ()
    try:
        ended.calls = stage.counted() if stage else ()
        if case.debug:
            find_damage(case.guest)
        lines = case.close(expects)
        ended.lines = lines
        ended.reports = expected.unexpected(lines, expects)
    except VmLost as lost:
        ended.lost = lost
    except CheckFailed as error:
        ended.error = ended.error or error
    # A kernel may die of what was left in it a moment after all had held.
    ended.lost = ended.lost or case.last_look()
    if ended.hangs and isinstance(ended.lost, GuestSilent):
        ended.lost = None


def _told(
    case: Case, candidate: Candidate, scenario: Scenario, stage: Stage | None, ended: _Ended
) -> Performed:
    # What has come by now: `_close` had the probes write out all they had, and a lost guest writes no more.
    history = case.trace.remains()
    slow = slow_callbacks(history, candidate.livepatch.name, case.settings.callback_limit_s)
    seen = _seen(case, candidate, stage, ended, history)
    reasons = diagnose(replace(seen, faults=(*seen.faults, *slow.faults)))
    # Deadlines, lockups and the time that callbacks take are told by clocks, which went on while the host
    # stood still; an oops is none of those.
    stalled = ended.lost if isinstance(ended.lost, HostStalled) else ended.stalled
    if stalled and reasons and not isinstance(ended.lost, GuestPanicked | GuestOutOfMemory):
        ended.lost, reasons = stalled, ()
    lost = ended.lost
    # A diagnosis outranks a loss: what was seen broken before the guest went is true whatever ended it.
    if reasons:
        verdict = Verdict.VIOLATED
    elif ended.inapplicable:
        verdict, reasons = Verdict.NOT_OBSERVED, (ended.inapplicable,)
    elif lost:
        verdict, reasons = Verdict.NOT_OBSERVED, (_no_fault_of_its_own(lost),)
    else:
        verdict = Verdict.HELD
    objects = stage.known_objects if stage else ()
    notes = (*(stage.notes if stage else ()), *_slow(history, candidate.livepatch.name), *slow.notes)
    if lost:
        notes = (*notes, f"done until then: {_steps(history)}")
    plan = _plan(candidate.livepatch.name, scenario, history, ended)
    checks = _checks(scenario, verdict, reasons)
    plan = msgspec.structs.replace(plan, objects=objects, checks=checks, verdict=verdict, calls=ended.calls)
    return Performed(verdict, reasons, notes, case.observed(), lost is not None, ended.calls, objects, plan)


def _slow(history: History, livepatch: str) -> Iterator[str]:
    """Yield who held a transition up that lasted; of one that did not end the diagnosis tells."""
    for leg in history.legs:
        begun = leg.started[1].ts_ns if leg.started else leg.begun_ns
        ended = leg.outcome is not LegOutcome.UNFINISHED
        if leg.patch == livepatch and ended and leg.last_ns - begun >= _SLOW_NS:
            yield from stories(leg)[:1]


def _steps(history: History) -> str:
    done = [f"{each.action} {each.subject}" for _, each in history.seen.steps]
    return ", ".join(done) or "nothing"


def _checks(scenario: Scenario, verdict: Verdict, reasons: tuple[str, ...]) -> tuple[Check, ...]:
    if verdict is Verdict.HELD:
        return (check(scenario.name, True, scenario.summary),)
    return tuple(Check(name=scenario.name, verdict=verdict, evidence=each) for each in reasons)


def _seen(case: Case, candidate: Candidate, stage: Stage | None, ended: _Ended, history: History) -> Seen:
    error, lost = ended.error, ended.lost
    blamed = lost is not None and not lost.by_nobody
    refusal = refusal_of(error, candidate) if isinstance(error, Refused) else None
    return Seen(
        livepatch=candidate.livepatch.name,
        history=history,
        verdicts=tuple(case.verdicts.values()),
        log=ended.lines,
        reports=ended.reports,
        faults=tuple(stage.faults) if stage else (),
        misbehaved=tuple(stage.misbehaved) if stage else (),
        refusal=refusal,
        stuck=isinstance(error, TransitionStuck),
        error=error.message if error else lost.message if blamed and lost else "",
        crash=lost.report if blamed and lost else None,
        holders=_in_own_code(case, candidate.livepatch.name),
        inside=stage.inside if stage else (),
        said=_dying_words(case, candidate, stage) if lost else (),
        end=lost.message if lost else "",
    )


def _dying_words(case: Case, candidate: Candidate, stage: Stage | None) -> tuple[tuple[str, ...], ...]:
    """Return what a lost guest's kernel had said of the livepatch, but for what patch.toml expects."""
    foreign = case.modules.keys() - candidate.modules.keys()
    said = dying_words(case.console(), candidate.livepatch.name, foreign)
    expects = stage.expects if stage else ()
    return tuple(each for each in said if not any(one.matches(each) for one in expects))


def _in_own_code(case: Case, livepatch: str) -> tuple[tuple[int, str], ...]:
    """Return the tasks that held a transition in the livepatch's code: pid, innermost function."""
    frame = re.compile(rf"([\w.]+)\+0x\S+ \[{re.escape(livepatch)}\b")
    found = ((task.pid, frame.search("\n".join(task.stack))) for task in case.pending)
    return tuple((pid, match[1]) for pid, match in found if match)


def _stuck(case: Case, silent: GuestSilent) -> CheckFailed | None:
    """Return what is wrong where only one command got stuck, while the guest answers others."""
    try:
        shown = case.guest.lab.diagnosis.run(_BLOCKED)
    except VmLost:
        return None
    blocked = "; ".join(line.strip() for line in shown.stdout.splitlines())
    what = silent.report.title if silent.report else silent.message
    return CheckFailed(f"{what}, and the guest lives: {blocked or 'no task sleeps uninterruptibly'}")


def _no_fault_of_its_own(lost: VmLost) -> str:
    return f"the guest was lost, which tells nothing of the livepatch: {lost.message}"


def _plan(name: str, scenario: Scenario, history: History, ended: _Ended) -> PlanResult:
    """Return the scenario as the plan of its own run folder, for whoever reads such folders."""
    failure = ended.lost or ended.error
    return PlanResult(
        name=scenario.name,
        livepatch=name,
        objects=(),
        transitions=tuple(each for each in history.transitions if each.patch == name),
        shadow=history.ledger,
        callbacks=callback_calls(history, name),
        checks=(),
        log=ended.lines or (ended.lost.console_tail if ended.lost else ()),
        error=failure.message if failure else None,
        verdict=Verdict.NOT_OBSERVED,
    )
