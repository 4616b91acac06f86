# SPDX-License-Identifier: Apache-2.0
"""Memory that grows with the calls of a livepatch's functions, and not without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from klp.analysis.calls import FunctionCalls
from klp.analysis.growth import Meter, growth_by_calls
from klp.check.memory import sample, settled
from klp.check.stage import Stage

CALLS_TO_JUDGE = 100


class Growing:
    """Sees memory that grows with a livepatch's calls.

    What a red zone or KFENCE adds to an object is another size and another place, so it is not for a guest
    that looks for faults in memory.

    Args:
        runs: returns how often workloads have run by now.
    """

    def __init__(self, stage: Stage, runs: Callable[[], int]) -> None:
        self._stage = stage
        self._runs = runs
        self._begun = self._learned = runs()
        self._meters = settled(stage.guest)
        self._a_run: dict[str, float] = {}

    def learn(self) -> None:
        """Learn from what was done without it since the beginning, a control life with workloads."""
        self._meters = self._add(self._meters, sample(self._stage.guest), self._runs() - self._begun)
        self._learned = self._runs()

    def _add(self, before: Mapping[str, Meter], after: dict[str, Meter], runs: int) -> dict[str, Meter]:
        for name, each in after.items():
            if name in before:
                rate = (each.count - before[name].count) / max(1, runs)
                self._a_run[name] = max(rate, self._a_run.get(name, 0.0))
        return after

    def judge(self, control: Callable[[Stage], None]) -> None:
        """Say what has grown with its calls, and does not grow in another control life after it either."""
        runs = self._runs() - self._learned
        counts = self._stage.counter.read()
        often = [each.calls for each in counts if each.calls >= CALLS_TO_JUDGE]
        for words in not_judged(counts):
            self._stage.note(words)
        if not often or not self._grown(sample(self._stage.guest), min(often), runs):
            return
        # What is freed later is gone once caches have settled, which takes seconds.
        after = settled(self._stage.guest)
        if not self._grown(after, min(often), runs):
            return
        begun = self._runs()
        control(self._stage)
        self._add(after, settled(self._stage.guest), self._runs() - begun)
        for words in self._grown(after, min(often), runs):
            self._stage.fault(words)

    def _grown(self, now: Mapping[str, Meter], calls: int, runs: int) -> tuple[str, ...]:
        usual = {name: rate * runs for name, rate in self._a_run.items()}
        return growth_by_calls(self._meters, now, calls, usual)


def not_judged(counts: Iterable[FunctionCalls]) -> Iterator[str]:
    """Say of which functions it stays unknown whether their calls leave memory behind."""
    for each in counts:
        if 0 < each.calls < CALLS_TO_JUDGE:
            yield (
                f"whether calls of {each.new} leave memory behind is not known: {each.calls} are too few: "
                f"it takes {CALLS_TO_JUDGE}"
            )
