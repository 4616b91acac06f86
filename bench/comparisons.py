# SPDX-License-Identifier: Apache-2.0
"""How often `klp compare` raises a false alarm, and how often it finds what is slower: by simulation.

``python -m bench.comparisons``: two sets of runs are drawn from a model of transitions, equal ones or such
that one plan of the new set differs, and compared as `klp compare` does. docs/comparing.md has the figures.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import click
from rich import box
from rich.console import Console
from rich.table import Table

from klp import consoles
from klp.analysis.compare.sets import RunSet, compare_sets
from klp.analysis.compare.values import CompareLimits, Difference, Kind
from klp.analysis.evidence import Verdict
from klp.analysis.legs import RUNNING, LegOutcome
from klp.analysis.recording import RecordedRun
from klp.analysis.result import RUN_SCHEMA, PlanResult, Provenance, RunResult
from klp.analysis.shadow import ShadowLedger
from klp.analysis.transitions import Straggler, Transition, TransitionPhase
from klp.progress import Progress

# Milliseconds of each phase on 6.12 under emulation, and by how much they vary, as logarithms: all phases
# of a transition together, for the host does other things as well, and each by itself.
_PHASES = {"init": 150, "patching": 250, "first pass": 400, "completion": 300}
_TOGETHER = 0.3
_EACH = 0.3
_UNRELIABLE = "its stack could not be read reliably"


@dataclass(frozen=True, slots=True)
class Model:
    """What transitions of a set are drawn from.

    Attributes:
        again: chance that a pass leaves a task behind because it runs, and another pass follows.
        unreliable: chance that a transition meets a stack that cannot be read.
        line: chance of a line in the kernel log that tells nothing.
        slower: by phase, how many times as long the first plan's patching takes.
        passes: passes more that the first plan's patching always takes.
    """

    again: float = 0.0
    unreliable: float = 0.0
    line: float = 0.0
    slower: Mapping[str, float] = field(default_factory=dict)
    passes: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """A row: both sets' model, what the new set's first plan has besides, and what counts as found."""

    title: str
    model: Model
    plans: int
    repetitions: int
    worse: Callable[[Model], Model] | None = None
    kind: Kind | None = None

    def hit(self, seed: int) -> tuple[bool, bool]:
        """Draw two sets and compare them: whether anything was found, and whether anything untrue was."""
        chance = random.Random(seed)
        new = self.worse(self.model) if self.worse else self.model
        old = RunSet(tuple(_run(chance, self, self.model) for _ in range(self.repetitions)))
        now = RunSet(tuple(_run(chance, self, new) for _ in range(self.repetitions)))
        found = compare_sets(old, now, CompareLimits()).regressions
        right = [each for each in found if self._is_true(each)]
        return bool(right if self.worse else found), len(right) < len(found)

    def _is_true(self, finding: Difference) -> bool:
        own = finding.place.plan == "plan 0" and "unpatching" not in finding.what
        return self.worse is not None and own and self.kind in (None, finding.kind)


def _transition(chance: random.Random, target: int, model: Model) -> Transition:
    passes = 1 + model.passes
    while chance.random() < model.again:
        passes += 1
    reasons = {RUNNING: passes - 1} if passes > 1 else {}
    if chance.random() < model.unreliable:
        passes = max(passes, 2)
        reasons[_UNRELIABLE] = 1
    host = chance.lognormvariate(0, _TOGETHER)
    lasted = {
        name: ms * 1e6 * model.slower.get(name, 1.0) * host * chance.lognormvariate(0, _EACH)
        for name, ms in _PHASES.items()
    }
    lasted |= {f"retry {number}": chance.uniform(0.75, 1.75) * 1e9 for number in range(1, passes)}
    return Transition(
        patch="fix", target=target, outcome=LegOutcome.COMPLETE, started=True, begun_ns=0,
        ended_ns=int(sum(lasted.values())), passes=passes, attempts=80, tasks={}, twice=(), signals=0,
        forced=False, stragglers=_stragglers(reasons),
        phases=tuple(
            TransitionPhase(name=name, begun_ns=0, duration_ns=int(each)) for name, each in lasted.items()
        ),
    )  # fmt: skip


def _stragglers(reasons: dict[str, int]) -> tuple[Straggler, ...]:
    if not reasons:
        return ()
    one = Straggler(
        pid=9, comm="kworker/0:1", reasons=reasons, held_ns=1_000_000_000, switched_by="retry pass"
    )
    return (one,)


def _run(chance: random.Random, case: Case, first: Model) -> RecordedRun:
    plans = []
    for number in range(case.plans):
        model = case.model if number else first
        legs = _transition(chance, 1, model), _transition(chance, 0, case.model)
        log = ("[ 1.0] workqueue: a work hogged CPU",) if chance.random() < model.line else ()
        plans.append(
            PlanResult(
                name=f"plan {number}", livepatch="fix", objects=(), transitions=legs, callbacks=(),
                shadow=ShadowLedger(allocated=0, found=0, refused=0, freed=0, strays=0, left=()),
                checks=(), log=log, error=None, verdict=Verdict.HELD,
            )
        )  # fmt: skip
    result = RunResult(
        schema=RUN_SCHEMA, begun_at=0, ended_at=1, provenance=_PROVENANCE, plans=tuple(plans), events=1,
        lost_events=0, unseen=(), error=None, rules=(), verdict=Verdict.HELD,
    )  # fmt: skip
    return RecordedRun("drawn", "", result)


_PROVENANCE = Provenance(
    klp="", qemu="", python="", kernel="6.12", kernel_name="6.12", kernel_digest="", image_digest="",
    accelerator="tcg", accelerator_reason="", memory_mib=0, cpus=2, modules={}, probes={},
)  # fmt: skip


def equal_cases() -> Iterator[Case]:
    """Yield what must raise no alarm: both sets come from one model."""
    noise = {
        "times alone": Model(),
        "a task that runs makes for another pass, 25 % of passes": Model(again=0.25),
        "a stack that cannot be read, 10 % of transitions": Model(unreliable=0.1),
        "a line in the kernel log, 30 % of plans": Model(line=0.3),
        "all of these": _NOISY,
    }
    for title, model in noise.items():
        for plans, repetitions in ((1, 1), (1, 5), (7, 1), (7, 5)):
            yield Case(title, model, plans, repetitions)
    for plans, repetitions in ((7, 2), (7, 10)):
        yield Case("all of these", _NOISY, plans, repetitions)


def worse_cases() -> Iterator[Case]:
    """Yield what should be found: the first plan's patching differs."""
    for plans, repetitions in ((1, 5), (2, 5), (4, 5), (7, 5), (7, 6), (7, 10), (25, 5)):
        yield Case("first pass 2 x longer", Model(), plans, repetitions, _first_pass(2), Kind.PHASE)
    yield Case("first pass 3 x longer", Model(), 7, 5, _first_pass(3), Kind.PHASE)
    yield Case("all phases 2 x longer", Model(), 7, 5, _all_phases, Kind.PHASE)
    for repetitions in (5, 10):
        yield Case("first pass 2 x longer, all chances", _NOISY, 7, repetitions, _first_pass(2), Kind.PHASE)
    yield Case("one pass more each time, all chances", _NOISY, 7, 5, _one_pass_more)
    yield Case("stacks that cannot be read: 10 % to 90 %", _NOISY, 7, 5, _mostly_unreliable)


_NOISY = Model(again=0.25, unreliable=0.1, line=0.3)


def _first_pass(times: float) -> Callable[[Model], Model]:
    return lambda model: replace(model, slower={"first pass": times})


def _all_phases(model: Model) -> Model:
    return replace(model, slower=dict.fromkeys(_PHASES, 2.0))


def _one_pass_more(model: Model) -> Model:
    return replace(model, passes=1)


def _mostly_unreliable(model: Model) -> Model:
    return replace(model, unreliable=0.9)


def simulated(title: str, cases: Iterable[Case], trials: int, told: Progress) -> Table:
    """Return a table of the share of comparisons that found anything, and that found what is untrue."""
    table = Table(title, box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("plans", "repetitions", "found", "untrue"):
        table.add_column(head, justify="right")
    for case in cases:
        with told.step(f"{case.title}, {case.plans} plans, {case.repetitions} repetitions"):
            outcomes = [case.hit(seed) for seed in range(trials)]
        shares = (sum(column) / trials for column in zip(*outcomes, strict=True))
        percent = (f"{100 * share:.1f} %" for share in shares)
        table.add_row(case.title, str(case.plans), str(case.repetitions), *percent)
    return table


@click.command()
@click.option("--trials", default=200, show_default=True, help="Comparisons for each row.")
@click.option("--only", type=click.Choice(["equal", "worse"]), help="Simulate just this.")
def main(trials: int, only: str | None) -> None:
    """Simulate how often a comparison raises a false alarm, and how often it finds what is worse."""
    told, shown = consoles.for_console(Console(stderr=True)), Console(width=100)
    if only != "worse":
        shown.print(simulated("equal sets", equal_cases(), trials, told))
    if only != "equal":
        shown.print(simulated("the first plan's patching is worse", worse_cases(), trials, told))


if __name__ == "__main__":
    main()
