# SPDX-License-Identifier: Apache-2.0
"""The outcomes of one check: written down after every one of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from klp.analysis.acquittal import judged
from klp.analysis.checked import CHECK_SCHEMA, CheckResult, ScenarioOutcome, verdict_words
from klp.check.plan import CheckOrder, CheckUnit, Key
from klp.check.static import BUILD
from klp.paths import CheckLayout
from klp.progress import Progress
from klp.records.writing import write_check
from klp.version import __version__
from klp.vm.spec import qemu_version


class Outcomes:
    """What a check has found so far.

    Args:
        units: all that there is to do, in the order in which it is shown.
        before: what an earlier, interrupted part of the check found.
    """

    def __init__(
        self,
        order: CheckOrder,
        units: Sequence[CheckUnit],
        layout: CheckLayout,
        progress: Progress,
        before: CheckResult | None,
    ) -> None:
        self._order = order
        self._planned = tuple(each.key for each in units)
        self._layout = layout
        self._progress = progress
        self._begun = before.begun_at if before else time.time()
        self._found: dict[Key, ScenarioOutcome] = {
            each.key: each for each in (before.outcomes if before else ())
        }

    @property
    def found(self) -> Mapping[Key, ScenarioOutcome]:
        """The outcomes that are there."""
        return MappingProxyType(self._found)

    def record(self, outcome: ScenarioOutcome) -> None:
        """Take an outcome, write check.json, and tell whoever watches.

        Of scenarios that are not tried for one reason, only the first is told.
        """
        known = any(_alike(each, outcome) for each in self._found.values())
        self._found[outcome.key] = outcome
        self.write(None)
        if known:
            return
        took = f", {outcome.seconds:.1f} s" if outcome.seconds else ""
        # Why it was not built is told at the end, whole: many a line, of which the first alone says little.
        why = f": {outcome.reasons[0]}" if outcome.reasons and outcome.scenario != BUILD else ""
        what = (
            f"{outcome.livepatch} {outcome.scenario}: {verdict_words(outcome.verdict, lost=outcome.lost)}"
        )
        self._progress.note(f"{len(self._found)}/{len(self._planned)} {what}{took}{why}")

    def write(self, error: str | None) -> None:
        """Write check.json; `error` says why it ended early."""
        write_check(self._layout, self.result(error))

    def result(self, error: str | None) -> CheckResult:
        """Return all that was found so far, with the verdict that it comes to."""
        order = self._order
        return judged(CheckResult(
            schema=CHECK_SCHEMA, klp=__version__, qemu=qemu_version(), begun_at=self._begun,
            ended_at=time.time(), livepatches=tuple(each.summary for each in order.livepatches),
            kernels=tuple(each.summary for each in order.kernels), scenarios=order.scenarios,
            quick=order.quick, repeat=order.repeat, outcomes=tuple(self._in_order()), error=error,
            complete=all(key in self._found for key in self._planned),
        ))  # fmt: skip

    def _in_order(self) -> Iterator[ScenarioOutcome]:
        return (self._found[key] for key in self._planned if key in self._found)


def _alike(one: ScenarioOutcome, other: ScenarioOutcome) -> bool:
    """Whether two scenarios of a livepatch on one kernel were not tried for the same reason."""
    return one.untried and (one.kernel, one.livepatch, one.reasons) == (
        other.kernel, other.livepatch, other.reasons,
    )  # fmt: skip
