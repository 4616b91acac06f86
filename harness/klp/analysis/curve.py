# SPDX-License-Identifier: Apache-2.0
"""How many tasks of a transition had not switched yet, over time."""

from __future__ import annotations

from klp.analysis.legs import Leg


def tasks_left(leg: Leg) -> tuple[tuple[int, int], ...]:
    """Return (guest's monotonic ns, tasks left) from the start of a leg on, at each change.

    Of those tasks that were seen in the leg: a task born in the target state has nothing to switch, one
    that ended needs to switch no more, one that was left pending stays until the end.
    """
    due = [each for each in leg.tasks if each.path != "fork"]
    changes = sorted(each.at_ns for each in due if each.path is not None)
    begun = leg.started[1].ts_ns if leg.started else leg.begun_ns
    points = {begun: len(due)}
    for gone, at_ns in enumerate(changes, 1):
        points[max(begun, at_ns)] = len(due) - gone
    return tuple(sorted(points.items()))
