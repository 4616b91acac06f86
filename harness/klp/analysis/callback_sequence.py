# SPDX-License-Identifier: Apache-2.0
"""The callbacks of a trace: which ran, and which there are."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable

from klp.analysis.legs import ObjectSeen
from klp.analysis.numbered import began, between
from klp.trace import events as ev

_Calls = tuple[tuple[int, ev.Callback], ...]


class CallbackSequence:
    """Every callback that ran, in order.

    A livepatch's name stands for another build of it once it was freed: which callbacks an object has is
    asked for a moment.

    Args:
        calls: with the numbers of their events.
        objects: what was patched and unpatched, which tells which callbacks an object has.
        frees: when livepatches were freed.
    """

    def __init__(
        self, calls: _Calls, objects: Iterable[ObjectSeen] = (),
        frees: Iterable[tuple[int, ev.PatchFree]] = (),
    ) -> None:  # fmt: skip
        self.calls = calls
        found: dict[tuple[str, str | None], list[tuple[int, ev.Callback]]] = defaultdict(list)
        for each in calls:
            found[each[1].patch, None].append(each)
            found[each[1].patch, each[1].object].append(each)
        self._of = {key: tuple(own) for key, own in found.items()}
        self._ran = {(each.patch, each.object, kind) for _, each in calls for kind in each.kinds}
        self._frees: dict[str, list[int]] = defaultdict(list)
        for _, free in frees:
            self._frees[free.patch].append(free.ts_ns)
        self._declared: dict[tuple[str, str, int], set[str]] = {}
        for event in (each.event for each in objects):
            if event.callbacks is not None:
                key = (event.patch, event.object, self.build(event.patch, event.ts_ns))
                self._declared.setdefault(key, set()).update(event.callbacks)

    def build(self, patch: str, ts_ns: int) -> int:
        """Return which build of a livepatch's name there was at a moment: how often it had been freed."""
        return bisect_left(self._frees[patch], ts_ns) if patch in self._frees else 0

    def of(self, patch: str, object_: str | None = None) -> _Calls:
        """Return one livepatch's, or one of its objects', in order."""
        return self._of.get((patch, object_), ())

    def following(self, call: ev.Callback) -> tuple[int, ev.Callback] | None:
        """Return the next callback of the same livepatch and object that began after one."""
        own = self.of(call.patch, call.object)
        at = bisect_right(own, call.ts_ns, key=began)
        return own[at] if at < len(own) else None

    def has(self, patch: str, object_: str, kind: str, ts_ns: int | None = None) -> bool:
        """Whether an object had a callback at a moment (None: at any); callbacks are optional.

        Where that was not told, it had those that ever ran.
        """
        if ts_ns is None:
            builds = [kinds for key, kinds in self._declared.items() if key[:2] == (patch, object_)]
            return (patch, object_, kind) in self._ran or any(kind in kinds for kinds in builds)
        declared = self._declared.get((patch, object_, self.build(patch, ts_ns)))
        return (patch, object_, kind) in self._ran if declared is None else kind in declared

    def between(self, from_ns: int, until_ns: int | None) -> _Calls:
        """Return those that began at `from_ns` or later, and before `until_ns` (None: up to the end)."""
        return between(self.calls, from_ns, until_ns)

    @property
    def objects(self) -> tuple[tuple[str, str], ...]:
        """Every (livepatch, object) of which a callback ran."""
        return tuple((patch, object_) for patch, object_ in self._of if object_ is not None)
