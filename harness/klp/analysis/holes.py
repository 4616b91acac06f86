# SPDX-License-Identifier: Apache-2.0
"""What a trace cannot show: lost events, missing probe points, streams that were cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from klp.trace import events as ev


class Hole(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a trace does not show.

    Attributes:
        probe: whose events are missing.
        symbol: the kernel function that has no probe point; empty where all its events may be missing.
        words: what is missing, and why.
    """

    probe: str
    symbol: str
    words: str


def bare(symbol: str) -> str:
    """Return a symbol without leading underscores and what compilers add to it, such as ``.part.0``.

    Where the compiler inlined klp_unpatch_object, a probe sees it at __klp_unpatch_object: one name for
    both.
    """
    return symbol.partition(".")[0].lstrip("_")


# By which functions klptransition sees tasks: only of these has it no events where a task was asked for.
_OF_TASKS = ("klp_try_switch_task", "klp_update_patch_state", "klp_copy_process")


def _filtered(header: ev.Header) -> Iterator[Hole]:
    """Yield what a probe left out because it was told to."""
    words = f"{header.probe} was told to trace {' and '.join(header.filters)} alone"
    by_task = header.probe == "klptransition" and all(each.startswith("pid=") for each in header.filters)
    for symbol in (_OF_TASKS if by_task else ("",)) if header.filters else ():
        yield Hole(probe=header.probe, symbol=symbol, words=words)


class HoleBuilder:
    """Folds events to holes."""

    def __init__(self) -> None:
        self.headers: dict[str, ev.Header] = {}
        self._lost: Counter[str] = Counter()
        # The kind of each probe's last event: one that says that all is told (an end, a mark), or not.
        self.last: dict[str, type[ev.AnyEvent]] = {}
        self.heard: dict[str, int] = {}

    def take(self, event: ev.AnyEvent) -> None:
        """Add one event that is about a tool itself."""
        if isinstance(event, ev.Header):
            self.headers[event.probe] = event
        elif isinstance(event, ev.Lost):
            self._lost[event.probe] += event.count
        elif isinstance(event, ev.End):
            # Not added: the end's count is that of the whole run, of all `Lost` events together.
            self._lost[event.probe] = max(self._lost[event.probe], event.lost)
        if isinstance(event, ev.Mark | ev.End):
            self.heard[event.probe] = event.ts_ns

    def built(self) -> tuple[Hole, ...]:
        """Return every hole."""
        holes = [
            Hole(probe=probe, symbol="", words=f"{probe} lost {count} events")
            for probe, count in self._lost.items()
            if count
        ]
        for probe, header in self.headers.items():
            holes += _filtered(header)
            holes += [
                Hole(
                    probe=probe,
                    symbol=bare(each.symbol),
                    words=f"{probe}: {header.kernel} has no probe point {each.symbol}: {each.unseen}",
                )
                for each in header.missing
            ]
            # A span of a trace ends at a mark: by then each probe has written all that it had seen.
            if self.last.get(probe) not in (ev.Mark, ev.End) and probe != "klp":
                holes.append(Hole(probe=probe, symbol="", words=f"{probe} has no end: the guest was lost"))
        return tuple(holes)
