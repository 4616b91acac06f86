# SPDX-License-Identifier: Apache-2.0
"""What is wrong with how workloads ended, in the words of the livepatch's author. Pure."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence

from klp.check.exercise.outputs import masked, usual_output
from klp.check.exercise.remote import Alone, Hanging, RunCount, Sleeper
from klp.check.exercise.workloads import GuestWorkload, Origin

BEFORE, LOADING, ENABLED, DISABLING, AFTER = "before", "loading", "enabled", "disabling", "after"
_WHEN = {
    BEFORE: "before the livepatch is loaded",
    LOADING: "while the livepatch is being enabled",
    ENABLED: "while the livepatch is enabled",
    DISABLING: "while the livepatch is being disabled",
    AFTER: "after the livepatch was disabled",
}
_FRAMES = 8
# A command of the catalogue may fail by chance, beside others of itself; hardly twice.
_ONCE_IS_CHANCE = 2
_SHELL_SIGNAL = 128


def result_words(result: str) -> str:
    """Return how a workload ended: of ``exit 139`` that a signal ended what it ran."""
    kind, _, number = result.partition(" ")
    code = int(number or 0)
    if kind == "signal":
        return f"dies of {_signal(code)}"
    if kind == "exit" and code > _SHELL_SIGNAL and _signal(code - _SHELL_SIGNAL):
        return f"fails with exit status {code} ({_signal(code - _SHELL_SIGNAL)})"
    if kind == "exit":
        return f"fails with exit status {code}" if code else "succeeds"
    return "succeeds" if kind == "ok" else f"fails with {kind}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


def hanging_words(hanging: Hanging, workload: GuestWorkload) -> str:
    """Return which workload hangs, when, since when, and where its tasks are."""
    where = "; ".join(_sleeper(each) for each in hanging.tasks)
    return f"{workload.words} hangs {_WHEN[hanging.phase]}, for {hanging.seconds:.0f} s: {where}"


def _sleeper(task: Sleeper) -> str:
    doing = "runs" if task.state == "R" else "sleeps"
    # Of "mutex_lock+0x2f/0x40 [module]" the function and its module.
    frames = [" ".join([line.split("+")[0], *line.split()[1:]]) for line in task.stack[:_FRAMES]]
    return f"{task.comm}[{task.pid}] {doing} in {' < '.join(frames) or 'the kernel'}"


def failures(
    workloads: Sequence[GuestWorkload], ran: Iterable[RunCount], before: Sequence[Mapping[int, Alone]]
) -> Iterator[str]:
    """Yield which workloads ended as they never did before loading.

    Args:
        before: of the runs of each by itself, before loading.
    """
    every = tuple(ran)
    usual = {(each.index, each.result) for each in every if each.phase == BEFORE}
    usual |= {(index, one.result) for each in before for index, one in each.items()}
    for each in every:
        workload = workloads[each.index]
        excused = workload.may_fail and each.phase in (LOADING, ENABLED, DISABLING)
        if (each.index, each.result) in usual or (excused and not each.result.startswith("signal")):
            continue
        if each.runs < _ONCE_IS_CHANCE and workload.origin in (Origin.COMMAND, Origin.STRESSOR):
            continue
        runs = sum(one.runs for one in every if (one.index, one.phase) == (each.index, each.phase))
        said = f" ({each.output.strip().splitlines()[-1]})" if each.output.strip() else ""
        yield (
            f"{workload.words} {result_words(each.result)} {_WHEN[each.phase]}, in {each.runs} of {runs} "
            f"runs; it never did before{said}"
        )


def changes(
    workloads: Sequence[GuestWorkload], before: Sequence[Mapping[int, Alone]], after: Mapping[int, Alone]
) -> dict[int, str]:
    """Return which workloads, by number, end or print otherwise after unloading than before loading."""
    found = {}
    for index, workload in enumerate(workloads):
        runs = [each[index] for each in before if index in each]
        now = after.get(index)
        if not runs or now is None:
            continue
        if now.result not in {each.result for each in runs}:
            how = result_words(now.result)
            found[index] = f"{workload.words} {how} after unloading; before loading it never did"
        # What a stressor prints is about itself.
        elif workload.origin is not Origin.STRESSOR:
            difference = usual_output([each.output for each in runs]).difference(now.output)
            if difference:
                found[index] = f"after unloading, {workload.words} shows {difference.words}"
    return found


def lasting_changes(
    workloads: Sequence[GuestWorkload],
    before: Sequence[Mapping[int, Alone]],
    after: Sequence[Mapping[int, Alone]],
) -> tuple[str, ...]:
    """Return what workloads show otherwise in each of several runs after unloading, the same each time.

    What is still on the move between those runs, moves by itself.
    """
    found = [changes(workloads, before, each) for each in after]
    return tuple(
        words
        for index, words in found[0].items()
        if all(index in each for each in found) and _stands_still(index, before, after)
    )


def _stands_still(
    index: int, before: Sequence[Mapping[int, Alone]], after: Sequence[Mapping[int, Alone]]
) -> bool:
    first, *later = (each[index] for each in after)
    # Numbers that varied before loading are not compared now, either.
    usual = usual_output([each[index].output for each in before if index in each])
    shown = str if usual.numbers and usual.lines is not None else masked
    return all((each.result, shown(each.output)) == (first.result, shown(first.output)) for each in later)
