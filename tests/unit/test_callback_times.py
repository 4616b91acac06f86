# SPDX-License-Identifier: Apache-2.0
"""A callback that takes long is told with its time, and one above the limit is at fault."""

from __future__ import annotations

from klp.analysis.callback_times import slow_callbacks
from klp.analysis.history import history
from klp.trace import events as ev
from tests.unit.traces import MS, SHELL, Trace

LIMIT_S = 10.0
MEANWHILE = (
    "with klp_mutex held: no module is loaded or removed and no livepatch enabled or disabled meanwhile"
)


def told(*calls: tuple[str, str, int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return notes and faults of calls: livepatch, object, milliseconds."""
    trace = Trace()
    for patch, object_, ms in calls:
        trace.put(
            ev.Callback, patch=patch, object=object_, kind="post_patch", function="livepatch_post [fix]",
            result=None, duration_ns=ms * MS, task=SHELL,
        )  # fmt: skip
    slow = slow_callbacks(history(enumerate(trace.events)), "fix", LIMIT_S)
    return slow.notes, slow.faults


def words(object_: str, took: str) -> str:
    return f"its post-patch callback livepatch_post for {object_} took {took} s, {MEANWHILE}"


def test_a_short_one_is_not_told() -> None:
    assert told(("fix", "vmlinux", 999), ("other", "vmlinux", 60_000)) == ((), ())


def test_a_long_one_is_a_note() -> None:
    assert told(("fix", "vmlinux", 3_240)) == ((words("vmlinux", "3.2"),), ())


def test_each_is_told_once_by_its_longest_call() -> None:
    calls = (("fix", "vmlinux", 1_500), ("fix", "vmlinux", 2_500), ("fix", "vmlinux", 1_100))
    assert told(*calls, ("fix", "loop", 4_000)) == ((words("loop", "4.0"), words("vmlinux", "2.5")), ())


def test_one_above_the_limit_is_at_fault() -> None:
    notes, faults = told(("fix", "vmlinux", 10_000), ("fix", "loop", 10_100))
    assert notes == (words("vmlinux", "10.0"),)
    assert faults == (f"{words('loop', '10.1')} (limit: 10 s)",)
