# SPDX-License-Identifier: Apache-2.0
"""The facts of one repetition: what was there, how many of it, and how long it took."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import fmean

from klp.analysis.compare.normal import function, message, task_name
from klp.analysis.compare.values import Kind, Place
from klp.analysis.evidence import Verdict
from klp.analysis.history import History
from klp.analysis.legs import LegOutcome
from klp.analysis.plan_checks import SURVIVES
from klp.analysis.recording import RecordedCheck, RecordedRun
from klp.analysis.result import PlanResult, RunResult
from klp.analysis.rule_checks import RULE, rule_name
from klp.analysis.shadow import ShadowVariable
from klp.analysis.transitions import Straggler, Transition, TransitionPhase
from klp.klog.lines import alarms, without_stamp
from klp.klog.reports import reports

_CUT = "------------[ cut here"
# What the verdict of a plan or scenario itself is called.
WHOLE = "as a whole"
# What the time of a transition from init to its end is called.
WHOLE_TRANSITION = "the whole"
# As many scenarios are named one by one.
_NAMED = 4
# What is said of a check itself.
THE_CHECK = Place(kernel="", plan="the check as a whole")


class Weight(StrEnum):
    """When something that the base never had counts as a regression of the new set."""

    FAULT = "fault"  # once is enough: it is wrong whatever it is compared with
    RATE = "rate"  # only if significantly oftener: once may be chance, whatever it is


@dataclass(frozen=True, slots=True)
class There:
    """Something that was there: what it is (equal in both sets), and an example of it in words."""

    kind: Kind
    what: str
    weight: Weight
    words: str


@dataclass(frozen=True, slots=True)
class Repetition:
    """One repetition of a plan, or of a scenario, with its facts.

    Attributes:
        run: its run's name.
        release: of its kernel.
        there: by what they are.
        verdicts: of the whole, each check and each rule, by name, with words.
        counts: transitions, passes, shadow variables left, and calls of new functions, by kind and what is
            counted.
        times_ns: of each phase, by direction and phase; the mean of its transitions.
        callbacks: in order.
        holes: whether events were lost: what is missing then may only not have been seen.
        cut: whether it ended before its end, which is a finding of its own: what is missing then is none.
    """

    run: str
    place: Place
    release: str
    accelerator: str
    verdicts: dict[str, tuple[Verdict, str]] = field(default_factory=dict)
    there: dict[tuple[Kind, str], There] = field(default_factory=dict)
    counts: dict[tuple[Kind, str], int] = field(default_factory=dict)
    times_ns: dict[str, float] = field(default_factory=dict)
    callbacks: tuple[str, ...] = ()
    holes: bool = False
    cut: bool = False


@dataclass(frozen=True, slots=True)
class _Seen:
    """What happened in one repetition, from run.json or from its trace."""

    livepatch: str
    transitions: Sequence[Transition]
    callbacks: Sequence[str]
    left: Sequence[ShadowVariable]
    log: Sequence[str]
    holes: bool
    cut: bool


def repetitions(run: RecordedRun) -> Iterator[Repetition]:
    """Yield each repetition of each plan, and the trace as a whole as one.

    A run without plans, as a test leaves one, is one repetition of what its trace says has begun.
    """
    result = run.whole()
    histories = () if result.plans else tuple(each.history for each in run.guests)
    begun = [each.name for history in histories for _, each in history.seen.plans]
    whole = _whole(run.name, result, begun[0] if begun else "")
    yield _with_facts(whole, _of_trace(histories, result)) if histories else whole
    for plan in result.plans:
        lost = any(each.name == SURVIVES for each in plan.checks)
        yield _with_facts(_of_plan(run.name, result, plan), _of_result(result, plan, lost=lost))


def scenarios(check: RecordedCheck) -> Iterator[Repetition]:
    """Yield each repetition of each scenario, and the check as a whole as one.

    The calls of each livepatch on each kernel are another: which scenario a function ran in may be chance.
    """
    result = check.whole()
    yield Repetition(check.name, THE_CHECK, "", "", there=_ended_early(result.error))
    kernels = {each.name: each for each in result.kernels}
    for ran in result.exercised:
        if ran.functions:
            where = kernels[ran.kernel]
            together = _together(result.scenarios)
            place = Place(kernel=ran.kernel, livepatch=ran.livepatch, scenario=together)
            counts = {(Kind.CALLS, f"{each.name} of {each.object}"): each.calls for each in ran.functions}
            yield Repetition(check.name, place, where.release, where.accelerator, counts=counts)
    for each in result.outcomes:
        where = kernels[each.kernel]
        place = Place(kernel=each.kernel, livepatch=each.livepatch, scenario=each.scenario)
        verdicts = {rule_name(name): (verdict, "") for name, verdict in each.rules.items()}
        verdicts[WHOLE] = (each.verdict, "; ".join(each.reasons))
        name = f"{check.name}/{each.folder}" if each.folder else check.name
        repetition = Repetition(name, place, where.release, where.accelerator, verdicts)
        run = check.runs.get(each.folder)
        plans = run.whole().plans if run else ()
        if run and plans:
            repetition = _with_facts(repetition, _of_result(run.whole(), plans[0], lost=each.lost))
        yield repetition


def _together(scenarios: Sequence[str]) -> str:
    """Return what a check's scenarios are called together: other ones may call other functions."""
    listed = f"all {len(scenarios)} scenarios" if len(scenarios) > _NAMED else " and ".join(scenarios)
    return f"{listed} together"


def _ended_early(error: str | None) -> dict[tuple[Kind, str], There]:
    if error is None:
        return {}
    ended = There(Kind.ENDED_EARLY, "it ended early", Weight.FAULT, error)
    return {(ended.kind, ended.what): ended}


def _place(result: RunResult, plan: str) -> Place:
    return Place(kernel=result.provenance.kernel_name, plan=plan)


def _whole(name: str, result: RunResult, plan: str) -> Repetition:
    where = result.provenance
    verdicts = {rule_name(each.rule.id): (each.verdict, each.why) for each in result.rules}
    if plan:
        verdicts[WHOLE] = (result.verdict, result.error or "")
    there = _ended_early(result.error)
    cut = result.error is not None
    return Repetition(name, _place(result, plan), where.kernel, where.accelerator, verdicts, there, cut=cut)


def _of_plan(name: str, result: RunResult, plan: PlanResult) -> Repetition:
    where = result.provenance
    verdicts = {_verdict_name(each.name): (each.verdict, each.evidence) for each in plan.checks}
    verdicts[WHOLE] = (plan.verdict, plan.error or "")
    return Repetition(name, _place(result, plan.name), where.kernel, where.accelerator, verdicts)


def _verdict_name(check: str) -> str:
    """Return what the verdict of a plan's check is called: a rule's as the same rule's of a whole run."""
    return check if check.startswith(RULE) else f"check {check!r}"


def _of_result(result: RunResult, plan: PlanResult, *, lost: bool) -> _Seen:
    """Return what happened in a plan; of a lost guest there is no log, but its console's last lines."""
    calls = [
        f"{each.kind.replace('_', '-')} of {each.object}{_returned(each.result)}" for each in plan.callbacks
    ]
    return _Seen(
        livepatch=plan.livepatch,
        transitions=plan.transitions,
        callbacks=calls,
        left=plan.shadow.left,
        log=() if lost else plan.log,
        holes=result.lost_events > 0,
        cut=lost or result.error is not None or plan.error is not None,
    )


def _of_trace(histories: Sequence[History], result: RunResult) -> _Seen:
    plans = [each.livepatch for history in histories for _, each in history.seen.plans if each.livepatch]
    return _Seen(
        livepatch=plans[0] if plans else "",
        transitions=[each for history in histories for each in history.transitions],
        callbacks=[
            f"{each.kind.replace('_', '-')} of {each.object}, {each.patch}{_returned(each.result)}"
            for history in histories
            for _, each in history.callbacks.calls
        ],
        left=[each for history in histories for each in history.ledger.left],
        log=[each.text for history in histories for _, each in history.seen.log if each.expected is None],
        holes=result.lost_events > 0 or any(history.holes for history in histories),
        cut=result.error is not None,
    )


def _returned(result: int | None) -> str:
    return f" returned {result}" if result else ""


def _with_facts(repetition: Repetition, seen: _Seen) -> Repetition:
    there = [*_of_transitions(seen), *_messages(seen)]
    repetition.there.update({(each.kind, each.what): each for each in there})
    repetition.counts.update(_transitions(seen))
    repetition.counts.update(_passes(seen))
    repetition.counts.update(_leaks(seen))
    repetition.times_ns.update(_times(seen))
    own = [function(each, seen.livepatch) for each in seen.callbacks]
    return replace(repetition, callbacks=tuple(own), holes=seen.holes, cut=seen.cut)


def _who(transition: Transition, livepatch: str) -> str:
    other = "" if transition.patch == livepatch else f"{transition.patch} "
    return f"{other}{transition.direction}"


def _of_transitions(seen: _Seen) -> Iterator[There]:
    for each in seen.transitions:
        who = _who(each, seen.livepatch)
        if each.outcome is not LegOutcome.COMPLETE:
            what = f"{who} {each.outcome.value}"
            yield There(Kind.OUTCOME, what, Weight.FAULT, what)
        if each.forced:
            yield There(Kind.OUTCOME, f"{who} forced", Weight.FAULT, "forced")
        if each.signals:
            words = f"{each.signals} times" if each.signals > 1 else "once"
            yield There(Kind.OUTCOME, f"{who} took signals", Weight.RATE, words)
        for one in each.stragglers:
            yield from _of_straggler(who, one, seen.livepatch)


def _of_straggler(who: str, one: Straggler, livepatch: str) -> Iterator[There]:
    end = f"switched by {one.switched_by}" if one.switched_by else "left pending"
    held = f"{one.comm}[{one.pid}] for {one.held_ns / 1e9:.2f} s, {end}"
    for reason in one.reasons:
        # Where a task sleeps or runs in that moment, and whether its stack can be read there, is chance.
        what = f"{who} held up by {task_name(one.comm)} {function(reason, livepatch)}"
        yield There(Kind.STRAGGLER, what, Weight.RATE, held)


def _messages(seen: _Seen) -> Iterator[There]:
    blocks = reports(seen.log)
    inside = {line for block in blocks for line in block}
    for block in blocks:
        alarming = alarms(block) or tuple(line for line in block if _CUT not in line)[:1]
        words = without_stamp((alarming or block)[0]).strip()
        yield There(Kind.MESSAGE, message(words, seen.livepatch), Weight.FAULT, words)
    for line in seen.log:
        if line not in inside and (words := without_stamp(line).strip()):
            yield There(Kind.MESSAGE, message(words, seen.livepatch), Weight.RATE, words)


def _transitions(seen: _Seen) -> dict[tuple[Kind, str], int]:
    """Return how many transitions there were in each direction."""
    return dict(Counter((Kind.TRANSITIONS, _who(each, seen.livepatch)) for each in seen.transitions))


def _passes(seen: _Seen) -> dict[tuple[Kind, str], int]:
    """Return the most passes that a transition took in each direction."""
    most: Counter[tuple[Kind, str]] = Counter()
    for each in seen.transitions:
        key = Kind.PASSES, _who(each, seen.livepatch)
        most[key] = max(most[key], each.passes)
    return dict(most)


def _leaks(seen: _Seen) -> dict[tuple[Kind, str], int]:
    left = (f"id {each.id} made by {function(each.caller, seen.livepatch)}" for each in seen.left)
    return {(Kind.LEAK, what): count for what, count in Counter(left).items()}


def _times(seen: _Seen) -> dict[str, float]:
    """Return the mean time of each phase, and of all of them, over the transitions of a direction.

    Between two passes, and after tasks were signalled, the core waits for its timer: that is no time to
    compare, and passes are counted. So a first pass that another one follows has none, nor has the whole.
    """
    times: dict[str, list[float]] = defaultdict(list)
    for each in seen.transitions:
        who = _who(each, seen.livepatch)
        own = {one.name: float(one.duration_ns) for one in each.phases if not _waits(one, each)}
        if not any(_waits(one, each) for one in each.phases):
            own[WHOLE_TRANSITION] = sum(own.values())
        for phase, lasted in own.items():
            times[f"{who}, {phase}"].append(lasted)
    return {what: fmean(each) for what, each in times.items()}


def _waits(phase: TransitionPhase, transition: Transition) -> bool:
    """Whether a phase ends when the core's timer goes off."""
    return phase.name.startswith(("retry", "signal")) or (
        phase.name == "first pass" and transition.passes > 1
    )
