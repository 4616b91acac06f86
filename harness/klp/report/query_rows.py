# SPDX-License-Identifier: Apache-2.0
"""What run.json and the analysis say of a run, as the rows of `klp query`'s tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from klp.analysis.calls import calls_of
from klp.analysis.evidence import evidence_line
from klp.analysis.recording import GuestTrace, RecordedRun
from klp.analysis.result import RunResult
from klp.report.query_tables import CallsRow, RunRow, ShadowRow, TaskRow, TransitionRow, VerdictRow

Rows = Mapping[str, Sequence[msgspec.Struct]]


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


def rows_of(run: RecordedRun, guests: Iterable[GuestTrace]) -> Rows:
    """Return a run's rows in every table but `runs` and `events`.

    Args:
        guests: its traces; each is gone through once, and need not be kept.
    """
    name, result = run.name, run.whole()
    rows: dict[str, list[msgspec.Struct]] = {
        "verdicts": [*_checks(name, result), *_rules(name, result)],
        "transitions": [],
        "tasks": [],
        "shadows": [],
        "calls": [],
    }
    for each in guests:
        rows["transitions"] += _transitions(name, each)
        rows["tasks"] += _tasks(name, each)
        rows["shadows"] += _shadows(name, each)
        rows["calls"] += _calls(name, each)
    return rows


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


def _transitions(run: str, guest: GuestTrace) -> Iterator[TransitionRow]:
    for number, traced in enumerate(guest.legs, 1):
        each = traced.transition
        yield TransitionRow(
            run=run,
            guest=guest.number,
            plan=_plan(traced.leg.begun_ns, guest),
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
        )


def _tasks(run: str, guest: GuestTrace) -> Iterator[TaskRow]:
    for number, leg in enumerate(guest.history.legs, 1):
        for each in leg.tasks:
            yield TaskRow(
                run=run,
                guest=guest.number,
                plan=_plan(leg.begun_ns, guest),
                transition=number,
                patch=leg.patch,
                target=leg.target,
                pid=each.pid,
                tgid=each.tgid,
                comm=each.comm,
                path=each.path,
                attempts=each.attempts,
                wait_ns=max(0, each.at_ns - leg.begun_ns),
                reasons=each.reasons,
            )


def _plan(ts_ns: int, guest: GuestTrace) -> str | None:
    """Return the plan that was under way at a moment; None outside of plans."""
    before = [each for _, each in guest.history.seen.plans if each.ts_ns <= ts_ns]
    return before[-1].name if before and before[-1].moment == "begin" else None


def _shadows(run: str, guest: GuestTrace) -> Iterator[ShadowRow]:
    for each in guest.lifetimes:
        whole = each.made_ns is not None and each.freed_ns is not None
        yield ShadowRow(
            run=run,
            guest=guest.number,
            obj=each.obj,
            id=each.id,
            variable=each.variable,
            size=each.size,
            made_ns=each.made_ns,
            freed_ns=each.freed_ns,
            age_ns=(each.freed_ns or 0) - (each.made_ns or 0) if whole else None,
            caller=each.caller,
        )


def _calls(run: str, guest: GuestTrace) -> Iterator[CallsRow]:
    for _, event in guest.history.seen.calls:
        each = calls_of(event)
        callers: Counter[str] = Counter()
        for one in each.tasks:
            callers[one.task] += one.calls
        yield CallsRow(
            run=run,
            guest=guest.number,
            plan=_plan(event.ts_ns, guest),
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
