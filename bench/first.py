# SPDX-License-Identifier: Apache-2.0
"""The first run of a newcomer, from an empty cache; of a kernel developer, with a tree that was just built.

Each is the command itself, in a process of its own; what its steps took is read from what it says of them.
An older checkout is measured in the same way after it, so that both meet the same machine.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from bench.measure import seconds
from klp.paths import PROJECT
from klp.process import run
from klp.progress import Progress

_STEP = re.compile(r"(?P<what>\S.*): (?P<seconds>\d+\.\d) s")
# What is no step of its own.
_REST = "all else"


@dataclass(frozen=True, slots=True)
class FirstRun:
    """What a first run took.

    Attributes:
        of: what was run, and by which checkout.
        total: seconds of all of it.
        steps: seconds of each outermost step, in their order.
    """

    of: str
    total: float
    steps: Mapping[str, float]


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
            _klp(checkout, ["image", "rm", str(unseen)], {})
    return found


@contextmanager
def _copied(tree: Path) -> Iterator[Path]:
    """Have a tree at another place, beside it so that its files can be linked there."""
    with tempfile.TemporaryDirectory(prefix=".klp-first-", dir=tree.parent) as folder:
        copy = Path(folder, "tree")
        run(["cp", "--archive", "--link", tree, copy])
        yield copy


def _klp(checkout: Path, words: list[str], env: Mapping[str, str]) -> str:
    """Run a checkout's klp, as its `make setup` installed it; return what it says of its progress."""
    return run([checkout / ".venv/bin/klp", *words], env=env).stderr


def _first(of: str, checkout: Path, words: list[str], folder: str, env: Mapping[str, str]) -> FirstRun:
    said = ""

    def work() -> None:
        nonlocal said
        said = _klp(checkout, words, {"KLP_RUNS": f"{folder}/runs", **env})

    return FirstRun(of, seconds(work), steps_of(said))


def steps_of(said: str) -> dict[str, float]:
    """Return the outermost steps of what klp wrote of its progress, and their seconds."""
    found: dict[str, float] = {}
    for line in said.splitlines():
        if step := _STEP.fullmatch(line):
            found[step["what"]] = found.get(step["what"], 0.0) + float(step["seconds"])
    return found


def first_table(first: FirstRun) -> Table:
    """Return a first run's steps, each with its share of the whole."""
    shown = Table("step", box=box.SIMPLE_HEAD, pad_edge=False, title=first.of, title_justify="left")
    for head in ("seconds", "share"):
        shown.add_column(head, justify="right")
    rest = first.total - sum(first.steps.values())
    for what, took in (first.steps | {_REST: rest}).items():
        shown.add_row(what, f"{took:.1f}", f"{took / first.total:.0%}")
    shown.add_row("all", f"{first.total:.1f}", "100%")
    return shown


def ratios(runs: list[FirstRun]) -> Iterator[str]:
    """Yield a line for each run but the last, the oldest checkout's: its time beside that one's."""
    for each in runs[:-1]:
        yield f"{each.of}: {each.total:.1f} s, {each.total / runs[-1].total:.3f} of {runs[-1].of}"


def checkouts(against: Path | None) -> dict[str, Path]:
    """Return this checkout and, after it, the older one that it is measured beside."""
    return {"this checkout": PROJECT} | ({against.name: against} if against else {})
