# SPDX-License-Identifier: Apache-2.0
"""What run.json and the analysis say of a run, as the rows of `klp query`'s tables."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import msgspec

from klp.analysis.calls import calls_of
from klp.analysis.evidence import evidence_line
from klp.analysis.lifetimes import ShadowLifetime
from klp.analysis.recording import GuestTables, RecordedRun
from klp.analysis.result import RunResult
from klp.analysis.transitions import transition_of
from klp.report.query_tables import CallsRow, RunRow, ShadowRow, TaskRow, TransitionRow, VerdictRow
from klp.trace import events as ev

TableRow = tuple[str, msgspec.Struct]


def run_row(run: RecordedRun) -> RunRow:
    """Return a run's row in `runs`."""
    result, where = run.whole(), run.whole().provenance
    return RunRow(
        run=run.name,
        path=run.folder,
        kernel=where.kernel,
        kernel_name=where.kernel_name,
        begun_at=datetime.fromtimestamp(result.begun_at, UTC),
        duration_s=result.ended_at - result.begun_at,
        verdict=result.verdict.value,
        plans=len(result.plans),
        events=result.events,
        lost_events=result.lost_events,
        error=result.error,
        accelerator=where.accelerator,
        cpus=where.cpus,
        memory_mib=where.memory_mib,
        klp=where.klp,
    )


def rows_of(run: RecordedRun, guests: Iterable[GuestTables]) -> Iterator[TableRow]:
    """Yield a run's rows in every table but `runs` and `events`, each with the name of its table.

    Args:
        guests: its traces; each is gone through once, and need not be kept.
    """
    name, result = run.name, run.whole()
    yield from (("verdicts", each) for each in _checks(name, result))
    yield from (("verdicts", each) for each in _rules(name, result))
    for guest in guests:
        plan_at = _Plans(guest.plans)
        yield from (("transitions", each) for each in _transitions(name, guest, plan_at))
        yield from (("tasks", each) for each in _tasks(name, guest, plan_at))
        yield from (("shadows", _shadow(name, guest.number, each)) for each in guest.lifetimes)
        yield from (("calls", each) for each in _calls(name, guest, plan_at))


def _checks(run: str, result: RunResult) -> Iterator[VerdictRow]:
    for plan in result.plans:
        for each in plan.checks:
            yield VerdictRow(
                run=run,
                kernel=result.provenance.kernel,
                kind="check",
                plan=plan.name,
                repetition=plan.repetition,
                guest=plan.guest,
                name=each.name,
                verdict=each.verdict.value,
                observations=None,
                evidence=each.evidence,
            )


def _rules(run: str, result: RunResult) -> Iterator[VerdictRow]:
    for each in result.rules:
        words = "; ".join(evidence_line(one) for one in each.evidence)
        yield VerdictRow(
            run=run,
            kernel=result.provenance.kernel,
            kind="rule",
            plan=None,
            repetition=None,
            guest=None,
            name=each.rule.id,
            verdict=each.verdict.value,
            observations=each.observations,
            evidence=words or each.why,
        )


class _Plans:
    """The plans of a guest over time."""

    def __init__(self, plans: Iterable[ev.Plan]) -> None:
        self._plans = sorted(plans, key=_moment)

    def __call__(self, ts_ns: int) -> str | None:
        """Return the plan that was under way at a moment; None outside of plans."""
        at = bisect_right(self._plans, ts_ns, key=_moment)
        last = self._plans[at - 1] if at else None
        return last.name if last and last.moment == "begin" else None


def _moment(event: ev.Plan) -> int:
    return event.ts_ns


def _transitions(run: str, guest: GuestTables, plan_at: _Plans) -> Iterator[TransitionRow]:
    for number, leg in enumerate(guest.legs, 1):
        each = transition_of(leg)
        yield TransitionRow(
            run=run,
            guest=guest.number,
            plan=plan_at(leg.begun_ns),
            transition=number,
            patch=each.patch,
            target=each.target,
            outcome=each.outcome.value,
            begun_ns=each.begun_ns,
            duration_ns=each.duration_ns,
            passes=each.passes,
            attempts=each.attempts,
            stragglers=len(each.stragglers),
            signals=each.signals,
            forced=each.forced,
            mixed_ns=each.mixed_ns,
        )


def _tasks(run: str, guest: GuestTables, plan_at: _Plans) -> Iterator[TaskRow]:
    for number, leg in enumerate(guest.legs, 1):
        plan, begun_ns = plan_at(leg.begun_ns), leg.begun_ns
        for each in leg.tasks:
            yield TaskRow(
                run=run,
                guest=guest.number,
                plan=plan,
                transition=number,
                patch=leg.patch,
                target=leg.target,
                pid=each.pid,
                tgid=each.tgid,
                comm=each.comm,
                path=each.path,
                attempts=each.attempts,
                wait_ns=max(0, each.at_ns - begun_ns),
                reasons=each.reasons,
            )


def _shadow(run: str, guest: int, each: ShadowLifetime) -> ShadowRow:
    whole = each.made_ns is not None and each.freed_ns is not None
    return ShadowRow(
        run=run,
        guest=guest,
        obj=each.obj,
        id=each.id,
        variable=each.variable,
        size=each.size,
        made_ns=each.made_ns,
        freed_ns=each.freed_ns,
        age_ns=(each.freed_ns or 0) - (each.made_ns or 0) if whole else None,
        caller=each.caller,
    )


def _calls(run: str, guest: GuestTables, plan_at: _Plans) -> Iterator[CallsRow]:
    for event in guest.calls:
        each = calls_of(event)
        callers: Counter[str] = Counter()
        for one in each.tasks:
            callers[one.task] += one.calls
        yield CallsRow(
            run=run,
            guest=guest.number,
            plan=plan_at(event.ts_ns),
            patch=event.patch,
            object=each.object,
            old=each.old,
            new=each.new,
            calls=each.calls,
            tasks=len(each.tasks),
            callers=dict(callers.most_common()),
            dropped=each.dropped,
            uncounted=event.uncounted,
        )
