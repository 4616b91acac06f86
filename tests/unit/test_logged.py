# SPDX-License-Identifier: Apache-2.0
"""Transitions by the kernel log alone: times, and the passes that follow from them."""

from __future__ import annotations

import pytest

from klp.klog.transitions import PASSES_TOLD_BY, logged_transitions


def lines(begun: float, ended: float, word: str = "patching", patch: str = "fix") -> list[str]:
    return [
        f"[{begun:12.6f}] livepatch: '{patch}': starting {word} transition",
        f"[{ended:12.6f}] livepatch: '{patch}': {word} complete",
    ]


def left(at: float, task: str, by: int | None = None) -> str:
    teller = "" if by is None else f"[{by}] "
    return f"[{at:12.6f}] {teller}livepatch: klp_try_switch_task: {task} is running"


@pytest.mark.parametrize(
    ("told", "passes"),
    [
        ([], 1),
        ([left(10.1, "swapper/1:0")], 2),
        ([left(10.1, "kworker/0:1:9"), left(10.2, "swapper/1:0")], 2),
        # A pass tries the idle tasks last.
        ([left(10.1, "swapper/1:0"), left(10.2, "kworker/0:1:9")], 3),
        ([left(10.1, "kworker/0:1:9"), left(10.2, "swapper/0:0"), left(10.2, "swapper/1:0")], 2),
        ([left(10.1, "sh:8"), left(10.1, "swapper/1:0"), left(10.2, "cat:9")], 3),
        # Less than 0.4 s after the line before it, it is of the same pass.
        ([left(10.0, "sh:8"), left(10.25, "cat:9"), left(10.5, "cat:10")], 2),
        ([left(10.1, "kworker/0:1:9"), left(10.3, "kworker/0:1:9")], 3),
        ([left(10.1, "kworker/0:1:9"), left(11.1, "swapper/1:0")], 3),
        ([left(10.1, "kworker/0:1:9"), left(10.85, "kworker/0:2:10")], 3),
        # Another thread makes another pass, however soon: the first is made by insmod.
        ([left(10.1, "sh:9", by=500), left(10.2, "cat:10", by=500)], 2),
        ([left(10.1, "sh:9", by=500), left(10.2, "cat:10", by=57)], 3),
        # The scheduler tries the task that runs: the task tells of itself, as often as it likes.
        ([left(10.1, "kthread:9", by=9), left(10.5, "kthread:9", by=9)], 1),
        ([left(10.1, "kthread:9", by=57), left(10.3, "kthread:9", by=9)], 2),
    ],
)
def test_a_pass_is_told_by_whom_it_left_behind(told: list[str], passes: int) -> None:
    start, end = lines(10, 12)
    [found] = logged_transitions([start, *told, end])
    assert (found.passes, found.target, found.patch) == (passes, 1, "fix")
    assert found.seconds == pytest.approx(2, abs=1e-6)


def test_the_kernels_own_words_are_understood() -> None:
    """All that klp_try_switch_task says from 6.1 to 7.2."""
    said = ["a:1 is running", "b:2 has an unreliable stack", "c:3 is sleeping on function f"]
    start, end = lines(10, 12)
    for number, words in enumerate(said):
        line = f"[{10.1 + number / 10:12.6f}] livepatch: klp_try_switch_task: {words}"
        assert logged_transitions([start, line, end])[0].passes == 2


def test_both_directions_and_several_livepatches() -> None:
    log = [
        "[ 0.5] said before it",
        *lines(1, 2),
        *lines(3, 4, "unpatching"),
        *lines(5, 6, patch="other"),
        "[ 7.0] something else",
    ]
    assert [(each.patch, each.target) for each in logged_transitions(log)] == [
        ("fix", 1), ("fix", 0), ("other", 1),
    ]  # fmt: skip


def test_what_was_reversed_or_has_no_end_is_left_out() -> None:
    start, _ = lines(1, 2)
    back = lines(3, 4, "unpatching")
    assert [each.target for each in logged_transitions([start, *back])] == [0]
    assert logged_transitions([start]) == ()
    assert logged_transitions([lines(1, 2)[1]]) == ()


def test_the_thread_that_says_it_is_asked_for() -> None:
    assert PASSES_TOLD_BY.endswith(" +pt")
