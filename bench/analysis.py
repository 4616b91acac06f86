# SPDX-License-Identifier: Apache-2.0
"""What `klp analyze`, `klp report` and `klp query` take for traces of many events, of several shapes.

Each is a process of its own, on a run folder that was generated (`bench.recordings`). Both its time by the
clock and that of its own CPU are told: the latter depends less on what else the machine does.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich import box
from rich.table import Table

from bench.recordings import SHAPES
from klp.paths import PROJECT
from klp.process import CommandFailed, run
from klp.progress import Progress

_KLP = (sys.executable, "-c", "from klp.cli.main import main; main()")
_COMMANDS = {
    "analyze": ("analyze",),
    "report": ("report", "--out", "page.html"),
    "query": ("query", "SELECT type, count(*) FROM events GROUP BY type"),
}
# A sample's checks and a livepatch that leaves variables break something: that is an answer, too.
_ANSWERS = (0, 1)
_FEW, _MANY = 100_000, 1_000_000


class _Usage(msgspec.Struct):
    """What `bench.usage` wrote."""

    status: int
    wall_s: float
    user_s: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class Taken:
    """What a command took for a run: seconds by the clock and of its CPU, and its peak of memory."""

    shape: str
    events: int
    command: str
    wall_s: float
    user_s: float
    peak_mib: float


def analysis_taken(progress: Progress) -> list[Taken]:
    """Measure every command on every shape, of few events and of many."""
    taken: list[Taken] = []
    with tempfile.TemporaryDirectory(prefix="klp-analysis-") as folder:
        for shape in SHAPES:
            for events in (_FEW, _MANY):
                with progress.step(f"{shape}, {events:,} events"):
                    taken += _measured(Path(folder, f"{shape}-{events}"), shape, events)
    return taken


def _measured(room: Path, shape: str, events: int) -> Iterator[Taken]:
    room.mkdir()
    env = {
        "PYTHONPATH": f"{PROJECT / 'harness'}:{PROJECT}",
        "KLP_RUNS": str(room),
        "KLP_CACHE": str(room / "cache"),
    }
    # In another process: what it takes is not to count as a command's own.
    made: list[str | Path] = [sys.executable, "-m", "bench.recordings", room / "run", shape, str(events)]
    run(made, cwd=room, env=env)
    for command, words in _COMMANDS.items():
        argv = [*_KLP, *words, "run"]
        run([sys.executable, "-m", "bench.usage", "usage.json", *argv], cwd=room, env=env)
        used = msgspec.json.decode((room / "usage.json").read_bytes(), type=_Usage)
        if used.status not in _ANSWERS:
            raise CommandFailed(argv, used.status, f"{shape}, {events} events")
        yield Taken(shape, events, command, used.wall_s, used.user_s, used.peak_mib)


def analysis_table(taken: list[Taken]) -> Table:
    """Return a line for each command and shape, with its growth from few events to many."""
    shown = Table("run", box=box.SIMPLE_HEAD, pad_edge=False, title="analysis", title_justify="left")
    for head in ("command", "events", "seconds", "of CPU", "of CPU / those of few", "peak MiB"):
        shown.add_column(head, justify="left" if head == "command" else "right")
    few = {(each.shape, each.command): each for each in taken if each.events == _FEW}
    for each in taken:
        before = few.get((each.shape, each.command))
        growth = f"{each.user_s / before.user_s:.1f}" if before and before is not each else ""
        shown.add_row(
            SHAPES[each.shape].words, each.command, f"{each.events:,}", f"{each.wall_s:.1f}",
            f"{each.user_s:.1f}", growth, f"{each.peak_mib:.0f}",
        )  # fmt: skip
    return shown
