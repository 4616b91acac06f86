# SPDX-License-Identifier: Apache-2.0
"""The first run of a newcomer, from an empty cache; of a kernel developer, with a tree that was just built.

Each is the command itself, in a process of its own; its steps and their times are read from what it says.
An older checkout is measured in the same way after it, so that both meet the same machine.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich import box
from rich.table import Table

from bench.measure import seconds
from klp.errors import CheckFailed
from klp.paths import PROJECT
from klp.process import CommandFailed, run
from klp.progress import Progress, unheard

_STEP = re.compile(r"(?P<indent>(?:  )*)(?P<what>\S.*): (?P<seconds>\d+\.\d) s")
# What is no step's.
_REST = "all else"
# A line may be read a little later than its step ended.
_LATE_S = 0.2
# Of a run that failed: the error itself stands last, what led to it some steps above.
_SHOWN_OF_FAILED = 40


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a run, from `begin` to `end` in seconds since the run began; `depth` is its indentation."""

    what: str
    depth: int
    begin: float
    end: float

    def has(self, other: Step) -> bool:
        """Whether another step is a part of this one."""
        within = self.begin - _LATE_S <= other.begin and other.end <= self.end + _LATE_S
        return self.depth < other.depth and within


@dataclass(frozen=True, slots=True)
class FirstRun:
    """What a first run took.

    Attributes:
        of: what was run, and by which checkout.
        total: seconds of all of it.
        steps: each step, in the order in which they began.
    """

    of: str
    total: float
    steps: Sequence[Step]


@dataclass(slots=True)
class Share:
    """What steps of one name and depth took.

    Attributes:
        seconds: of each from its begin to its end.
        own: seconds of the run that are theirs: a moment in which several were at work side by side is
            shared out among them, so that all steps' own seconds add up to no more than the run's.
        beside: seconds in which another step that is no part of them was at work.
    """

    seconds: float = 0.0
    own: float = 0.0
    beside: float = 0.0


def from_nothing(checkouts: Mapping[str, Path], progress: Progress) -> list[FirstRun]:
    """Measure `klp run` of the default kernel's samples with an empty cache, for each checkout.

    The archive's packages are downloaded each time.
    """
    found = []
    for name, checkout in checkouts.items():
        with (
            tempfile.TemporaryDirectory(prefix="klp-first-") as folder,
            progress.step(f"{name}, from nothing"),
        ):
            cache = {"KLP_CACHE": f"{folder}/cache"}
            found.append(_first(f"{name}: from an empty cache", checkout, ["run"], folder, cache))
    return found


def from_new_tree(checkouts: Mapping[str, Path], tree: Path, progress: Progress) -> list[FirstRun]:
    """Measure `klp run version-banner` with a tree that klp has not seen, for each checkout.

    Its definition's images must be in the cache: the developer has run klp before.
    """
    found = []
    for name, checkout in checkouts.items():
        with _copied(tree) as unseen, progress.step(f"{name}, from a new tree"):
            words = ["run", "version-banner", "-k", str(unseen)]
            found.append(_first(f"{name}: from a new tree", checkout, words, str(unseen.parent), {}))
            _klp(checkout, ["image", "rm", str(unseen)], {}, unheard)
    return found


@contextmanager
def _copied(tree: Path) -> Iterator[Path]:
    """Have a tree at another place, beside it so that its files can be linked there."""
    with tempfile.TemporaryDirectory(prefix=".klp-first-", dir=tree.parent) as folder:
        copy = Path(folder, "tree")
        run(["cp", "--archive", "--link", tree, copy])
        yield copy


def _klp(checkout: Path, words: list[str], env: Mapping[str, str], hear: Callable[[str], None]) -> None:
    """Run a checkout's klp, as its `make setup` installed it; `hear` gets what it says of its progress.

    Raises:
        CheckFailed: it failed; with the end of all that it said.
    """
    try:
        run([checkout / ".venv/bin/klp", *words], env=env, listen=hear)
    except CommandFailed as error:
        said = error.output.splitlines()[-_SHOWN_OF_FAILED:]
        lines = "".join(f"\n    {line}" for line in said)
        raise CheckFailed(f"{error.message}; the last that it said:{lines}", hint=error.hint) from error


def _first(of: str, checkout: Path, words: list[str], folder: str, env: Mapping[str, str]) -> FirstRun:
    said: list[tuple[float, str]] = []
    begun = time.perf_counter()

    def hear(line: str) -> None:
        said.append((time.perf_counter() - begun, line))

    total = seconds(lambda: _klp(checkout, words, {"KLP_RUNS": f"{folder}/runs", **env}, hear))
    return FirstRun(of, total, steps_of(said))


def steps_of(said: Sequence[tuple[float, str]]) -> list[Step]:
    """Return the steps in what klp wrote of its progress, each line with the second in which it came."""
    found = []
    for at, line in said:
        if step := _STEP.fullmatch(line):
            begin = max(0.0, at - float(step["seconds"]))
            found.append(Step(step["what"], len(step["indent"]) // 2, begin, at))
    return sorted(found, key=lambda step: (step.begin, step.depth))


def taken_by(steps: Sequence[Step]) -> dict[tuple[int, str], Share]:
    """Return what each took, by depth and name; steps of one name and depth are added up."""
    found = {(step.depth, step.what): Share() for step in steps}
    for step in steps:
        found[step.depth, step.what].seconds += step.end - step.begin
    moments = sorted({moment for step in steps for moment in (step.begin, step.end)})
    for begin, end in pairwise(moments):
        active = [step for step in steps if step.begin <= begin and end <= step.end]
        innermost = [step for step in active if not any(step.has(other) for other in active)]
        for step in innermost:
            taken = found[step.depth, step.what]
            taken.own += (end - begin) / len(innermost)
            taken.beside += (end - begin) * (len(innermost) > 1)
    return found


def first_table(first: FirstRun) -> Table:
    """Return a first run's steps, each with its share of the whole."""
    shown = Table(
        "step", box=box.SIMPLE_HEAD, pad_edge=False, title=first.of, title_justify="left",
        caption="share: of the whole run, without a step's parts; steps side by side share their time",
        caption_justify="left",
    )  # fmt: skip
    for head in ("seconds", "side by side", "share"):
        shown.add_column(head, justify="right")
    taken = taken_by(first.steps)
    for (depth, what), each in taken.items():
        beside = f"{each.beside:.1f}" if each.beside >= _LATE_S else ""
        shown.add_row("  " * depth + what, f"{each.seconds:.1f}", beside, f"{each.own / first.total:.0%}")
    rest = first.total - sum(each.own for each in taken.values())
    shown.add_row(_REST, f"{rest:.1f}", "", f"{rest / first.total:.0%}")
    shown.add_row("all", f"{first.total:.1f}", "", "100%")
    return shown


def ratios(runs: list[FirstRun]) -> Iterator[str]:
    """Yield a line for each run but the last, the oldest checkout's: its time beside that one's."""
    for each in runs[:-1]:
        yield f"{each.of}: {each.total:.1f} s, {each.total / runs[-1].total:.3f} of {runs[-1].of}"


def checkouts(against: Path | None) -> dict[str, Path]:
    """Return this checkout and, after it, the older one that it is measured beside."""
    return {"this checkout": PROJECT} | ({against.name: against} if against else {})
