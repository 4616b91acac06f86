# SPDX-License-Identifier: Apache-2.0
"""A check's own verdict, and why: nothing is acquitted that was not seen to run. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from klp.analysis.checked import GUEST_LOST, CheckResult, ScenarioOutcome
from klp.analysis.evidence import Verdict
from klp.analysis.exercised import Exercised, exercised

# As many places of faults are named in one line; a section for each follows.
_MOST_PLACES = 4
# The scenario whose outcome says nothing of whether a livepatch is for a kernel: it is built for any.
_BUILD = "build"


def judged(result: CheckResult) -> CheckResult:
    """Return a check with its own verdict, its headlines, and what was exercised, from its outcomes."""
    ran = tuple(_ran(result))
    return msgspec.structs.replace(
        result, verdict=_verdict(result, ran), headlines=tuple(_headlines(result, ran)), exercised=ran
    )


def _unseen(result: CheckResult) -> tuple[ScenarioOutcome, ...]:
    """Return the outcomes that were to be seen and were not, though no guest was lost under them."""
    return tuple(
        each
        for each in result.outcomes
        if each.verdict is Verdict.NOT_OBSERVED and not each.inapplicable and not each.lost
    )


def _ran(result: CheckResult) -> Iterator[Exercised]:
    for livepatch in result.livepatches:
        for kernel in result.kernels:
            own = [each for each in result.outcomes if each.key[:2] == (kernel.name, livepatch.name)]
            why = _why_not_for_it(own)
            yield exercised(
                kernel.name, livepatch.name, [(each.scenario, each.calls) for each in own],
                callbacks_only=any(each.callbacks_only for each in own), applies=not why, why_not=why,
            )  # fmt: skip


def _why_not_for_it(own: Sequence[ScenarioOutcome]) -> str:
    """Return why a livepatch is not for a kernel: nothing that was asked for applies to it there."""
    tried = [each for each in own if each.scenario != _BUILD]
    if not tried or not all(each.inapplicable for each in tried):
        return ""
    return tried[0].reasons[0]


def _verdict(result: CheckResult, ran: Sequence[Exercised]) -> Verdict:
    if result.violated:
        return Verdict.VIOLATED
    whole = result.complete and result.error is None
    good = all(each.verdict is Verdict.HELD or each.inapplicable for each in result.outcomes)
    # A guest may be lost after its scenario had held.
    kept = not result.lost
    seen = any(each.applies for each in ran) and all(each.seen for each in ran)
    return Verdict.HELD if whole and good and kept and seen else Verdict.NOT_OBSERVED


def _headlines(result: CheckResult, ran: Sequence[Exercised]) -> Iterator[str]:
    for each in result.lost:
        yield f"{GUEST_LOST}: {_where(result, each)}: {each.reasons[0] if each.reasons else 'no reason'}"
    yield from _faults(result)
    if not result.complete or result.error is not None:
        yield f"not complete: {result.error or 'the check ended before all was tried'}"
    yield from _untried(result)
    yield from _never_ran(result, ran)
    for one in ran:
        # Where none is known, a line above says so.
        if one.functions or one.seen:
            yield f"{_pair(result, one)}{one.told()}"


def _faults(result: CheckResult) -> Iterator[str]:
    places = [_where(result, each) for each in result.violated]
    if places:
        more = f" and {len(places) - _MOST_PLACES} more" if len(places) > _MOST_PLACES else ""
        count = "1 scenario found a fault" if len(places) == 1 else f"{len(places)} scenarios found faults"
        yield f"{count}: {', '.join(places[:_MOST_PLACES])}{more}"


def _untried(result: CheckResult) -> Iterator[str]:
    """Yield what was not tried, the scenarios of one reason in one line."""
    places: dict[str, list[str]] = {}
    for each in _unseen(result):
        reason = each.reasons[0] if each.reasons else "no reason is known"
        places.setdefault(reason, []).append(_where(result, each))
    for reason, own in places.items():
        more = f" and {len(own) - 1} more" if len(own) > 1 else ""
        yield f"{own[0]}{more}: {reason}"


def _never_ran(result: CheckResult, ran: Sequence[Exercised]) -> Iterator[str]:
    """Yield the functions that never ran, the kernels of one function in one line."""
    kernels: dict[tuple[str, str], list[str]] = {}
    for one in ran:
        if not one.seen:
            for function in one.never_ran:
                who = f"{function.name}{_whose(result, one)} never ran"
                kernels.setdefault((who, function.unknown), []).append(one.kernel)
            if not one.functions:
                who = f"no new function of {one.livepatch} was seen to run"
                kernels.setdefault((who, "nothing is known of what it does"), []).append(one.kernel)
    for (who, meaning), where in kernels.items():
        yield f"{who} on {', '.join(where)}: {meaning}"


def _where(result: CheckResult, outcome: ScenarioOutcome) -> str:
    livepatch = f"{outcome.livepatch} " if len(result.livepatches) > 1 else ""
    again = f" (repetition {outcome.repetition})" if outcome.repetition > 1 else ""
    return f"{livepatch}{outcome.scenario} on {outcome.kernel}{again}"


def _whose(result: CheckResult, ran: Exercised) -> str:
    return f" of {ran.livepatch}" if len(result.livepatches) > 1 else ""


def _pair(result: CheckResult, ran: Exercised) -> str:
    livepatch = [ran.livepatch] if len(result.livepatches) > 1 else []
    kernel = [f"on {ran.kernel}"] if len(result.kernels) > 1 else []
    names = " ".join([*livepatch, *kernel])
    return f"{names}: " if names else ""
