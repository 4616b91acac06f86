# SPDX-License-Identifier: Apache-2.0
"""What the traced events say that sysfs must show at a moment (kernel/livepatch/core.c)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from klp.analysis.history import History
from klp.analysis.legs import Leg
from klp.trace import events as ev

# For an older trace, which does not tell when sysfs was read: how long reading all its files over SSH takes
# at most, by the host's clock.
_AROUND_NS = 1_000_000_000

_Key = tuple[str, str]


class _Value(NamedTuple):
    """What a file of sysfs shows: not before `may_ns`, surely from `sure_ns` on (None: not known)."""

    may_ns: int
    sure_ns: int | None
    value: object


class Standing:
    """Values of sysfs over time, as far as the trace tells them.

    No probe sits at the very statement that changes a file. An event tells of the change before it is made;
    made it surely is once something is told that comes later under the same klp_mutex, or needs that mutex:
    a start, a pass, or the end of klp_complete_transition.
    """

    def __init__(self, history: History) -> None:
        self._values: dict[_Key, list[_Value]] = {}
        self._moments = sorted(at for leg in history.legs for at in _moments(leg))
        for leg in history.legs:
            self._take(leg)
        for each in history.objects:
            event, notice = each.event, history.notice_at(each.event.ts_ns, each.event.object)
            if not event.nops_only and not event.errno:
                sure = notice[1].ts_ns + notice[1].duration_ns if notice else None
                patched = event.action == "patch"
                self._set(event.patch, f"{event.object} patched", patched, event.ts_ns, sure)
        self._take_stacks(history)
        for _, gone in history.stack.replaced:
            self._set(gone.patch, "enabled", False, gone.ts_ns)
        for values in self._values.values():
            values.sort(key=lambda each: each.may_ns)

    def _set(self, name: str, what: str, value: object, may_ns: int, sure_ns: int | None = None) -> None:
        if sure_ns is None:
            after = bisect_right(self._moments, may_ns)
            sure_ns = self._moments[after] if after < len(self._moments) else None
        self._values.setdefault((name, what), []).append(_Value(may_ns, sure_ns, value))

    def _take(self, leg: Leg) -> None:
        """Take what klp_init_transition, klp_start_transition and klp_complete_transition change."""
        begun = leg.begun_ns
        if isinstance(leg.begun[1], ev.Init):  # a reversal does not say it, and its init may not be told
            self._set(leg.patch, "replace", leg.replace, begun)
        self._set(leg.patch, "transition", True, begun)
        if leg.started:
            # klp_reverse_transition() flips it before it calls klp_start_transition(); __klp_enable_patch()
            # and __klp_disable_patch() set it after that call.
            at = begun if leg.reversal else leg.started[1].ts_ns
            self._set(leg.patch, "enabled", leg.target == ev.PATCHED, at)
        if leg.completed:
            self._set(leg.patch, "transition", False, leg.completed[1].ts_ns)

    def _take_stacks(self, history: History) -> None:
        """Take klp_patches as it was told: it may have changed at any time since it was told before."""
        known = {name for name, what in self._values if what == "enabled"}
        before = 0
        for _, stack in history.stack.stacks:
            known.update(stack.patches)
            for name in known:
                self._set(name, "there", name in stack.patches, before, stack.ts_ns)
            for place, name in enumerate(stack.patches, 1):
                self._set(name, "stack_order", place, before, stack.ts_ns)
            before = stack.ts_ns

    def _between(self, name: str, what: str, sample: ev.Sysfs) -> list[object]:
        """Return the values that stood while sysfs was read; none if what stood there is not known."""
        from_ns, until_ns = sample.begun_ns, sample.ended_ns
        if from_ns is None or until_ns is None:
            from_ns, until_ns = sample.ts_ns - _AROUND_NS, sample.ts_ns + _AROUND_NS
        values = self._values.get((name, what), [])
        stood: list[object] = []
        # From the last that may have stood back to the first that surely did.
        for each in reversed(values[: bisect_right(values, until_ns, key=lambda value: value.may_ns)]):
            stood.append(each.value)
            if each.sure_ns is not None and each.sure_ns <= from_ns:
                return list(dict.fromkeys(reversed(stood)))
        return []

    def compare(self, shown: ev.SysfsPatch, sample: ev.Sysfs) -> Iterator[tuple[str, object, list[object]]]:
        """Yield what is shown of a livepatch beside what was traced, for all that is known of both."""
        files: dict[str, object] = {
            "enabled": shown.enabled,
            "transition": shown.transition,
            "replace": shown.replace,
            "stack_order": shown.stack_order,
            **{f"{name} patched": patched for name, patched in shown.objects.items()},
        }
        for what, value in files.items():
            traced = self._between(shown.name, what, sample)
            # None: this kernel has no such file. 6.1 and 6.12 have no stack_order.
            if value is not None and traced:
                yield what, value, traced

    def missing(self, sample: ev.Sysfs) -> list[str]:
        """Return the livepatches that must be in sysfs, and are not."""
        names = {each.name for each in sample.patches}
        known = [name for name, what in self._values if what == "there" and name not in names]
        return [name for name in known if self._between(name, "there", sample) == [True]]


def _moments(leg: Leg) -> Iterator[int]:
    if leg.started:
        yield leg.started[1].ts_ns
    yield from (each.ts_ns for _, each in leg.passes)
    yield from (each.ts_ns for _, each in leg.censuses if each.moment == "completed")
