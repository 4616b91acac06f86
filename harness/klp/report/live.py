# SPDX-License-Identifier: Apache-2.0
"""A transition while it runs, for `klp trace`: a picture that is redrawn, or a line at each change."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from klp.analysis.live import LiveTransition, StuckTask

# A picture taller than the terminal could not be redrawn in place.
_SHOWN_HOLDERS = 10
_SHOWN_FRAMES = 6
_BAR = 30


def live_line(now: LiveTransition) -> str:
    """Return a transition's state in one line."""
    parts = [f"{_seconds(now):8.3f} s  {now.patch} {now.direction}: {now.phase}"]
    if now.passes:
        parts.append(f"pass {now.passes}")
    if now.total:
        parts.append(f"{now.left} of {now.total} tasks left")
    if now.over and now.switched:
        parts.append("switched " + ", ".join(f"{path} {count}" for path, count in now.switched.items()))
    return ", ".join(parts)


def holder_lines(now: LiveTransition) -> list[str]:
    """Return a line for each task that holds the transition, its stack below it where that is known."""
    lines = []
    for each in now.holders[:_SHOWN_HOLDERS]:
        outlook = f"; {each.outlook}" if each.outlook else ""
        lines.append(f"{each.comm}[{each.pid}] patch_state {each.patch_state}, {_held(each, now)}{outlook}")
        lines += [f"    {frame}" for frame in each.stack[:_SHOWN_FRAMES]]
    further = len(now.holders) - _SHOWN_HOLDERS
    return [*lines, f"and {further} more"] if further > 0 else lines


def _held(holder: StuckTask, now: LiveTransition) -> str:
    for_s = (now.seen_ns - holder.since_ns) / 1e9
    tries = f"{holder.attempts} attempt{'s' if holder.attempts > 1 else ''}"
    return f"{for_s:.1f} s, {tries}: {holder.reason}"


def live_picture(now: LiveTransition) -> RenderableType:
    """Return the picture that `klp trace` redraws: bar, phase, and who is stuck on what for how long."""
    head = Table.grid(padding=(0, 2, 0, 0))
    done = now.total - now.left
    head.add_row(
        Text(f"{now.patch} {now.direction}", style="bold"),
        ProgressBar(total=max(now.total, 1), completed=done if now.total else 0, width=_BAR),
        Text(f"{done}/{now.total} tasks"),
        Text(_phase(now), style="cyan"),
        Text(f"{_seconds(now):.1f} s"),
    )
    holders = [Text(f"  {line}", style="yellow") for line in holder_lines(now)]
    return Group(head, *holders)


def _phase(now: LiveTransition) -> str:
    return f"{now.phase}, pass {now.passes}" if now.passes else now.phase


def _seconds(now: LiveTransition) -> float:
    return (now.seen_ns - now.begun_ns) / 1e9
