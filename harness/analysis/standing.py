# SPDX-License-Identifier: Apache-2.0
"""What the traced events say that sysfs must show at a moment (kernel/livepatch/core.c)."""

from __future__ import annotations

from collections.abc import Iterator

from harness.analysis.history import History
from harness.analysis.legs import Leg
from harness.trace import events as ev

# Reading every file of sysfs over SSH, and two clocks that are compared to some ten milliseconds.
_AROUND_NS = 1_000_000_000

_Key = tuple[str, str]


class Standing:
    """Values of sysfs over time, as far as the trace tells them."""

    def __init__(self, history: History) -> None:
        self._values: dict[_Key, list[tuple[int, object]]] = {}
        for leg in history.legs:
            self._take(leg)
        for each in history.objects:
            event = each.event
            if not event.nops_only and not event.errno:
                self._set(event.patch, f"{event.object} patched", event.ts_ns, event.action == "patch")
        for _, stack in history.stack.stacks:
            for name in {name for name, what in self._values if what == "enabled"} | set(stack.patches):
                self._set(name, "there", stack.ts_ns, name in stack.patches)
            for place, name in enumerate(stack.patches, 1):
                self._set(name, "stack_order", stack.ts_ns, place)
        for _, gone in history.stack.replaced:
            self._set(gone.patch, "enabled", gone.ts_ns, False)
        for values in self._values.values():
            values.sort(key=lambda each: each[0])

    def _set(self, name: str, what: str, ts_ns: int, value: object) -> None:
        self._values.setdefault((name, what), []).append((ts_ns, value))

    def _take(self, leg: Leg) -> None:
        begun = leg.begun_ns
        self._set(leg.patch, "transition", begun, True)
        self._set(leg.patch, "replace", begun, leg.replace)
        if leg.started:
            # klp_patch.enabled is set just after klp_start_transition, and flipped before it in a reversal.
            self._set(leg.patch, "enabled", leg.started[1].ts_ns, leg.target == ev.PATCHED)
        if leg.completed:
            self._set(leg.patch, "transition", leg.completed[1].ts_ns, False)

    def _around(self, name: str, what: str, ts_ns: int) -> list[object]:
        """Return the values that stood about a moment; none if what stood there is not known."""
        values = self._values.get((name, what), [])
        early = [value for at, value in values if at <= ts_ns - _AROUND_NS]
        late = [value for at, value in values if ts_ns - _AROUND_NS < at <= ts_ns + _AROUND_NS]
        return list(dict.fromkeys([early[-1], *late])) if early else []

    def compare(self, shown: ev.SysfsPatch, ts_ns: int) -> Iterator[tuple[str, object, list[object]]]:
        """Yield what is shown of a livepatch beside what was traced, for all that is known of both."""
        files: dict[str, object] = {
            "enabled": shown.enabled,
            "transition": shown.transition,
            "replace": shown.replace,
            "stack_order": shown.stack_order,
            **{f"{name} patched": patched for name, patched in shown.objects.items()},
        }
        for what, value in files.items():
            traced = self._around(shown.name, what, ts_ns)
            if value is not None and traced:
                yield what, value, traced

    def missing(self, sample: ev.Sysfs) -> list[str]:
        """Return the livepatches that must be in sysfs, and are not."""
        names = {each.name for each in sample.patches}
        known = [name for name, what in self._values if what == "there" and name not in names]
        return [name for name in known if self._around(name, "there", sample.ts_ns) == [True]]
