# SPDX-License-Identifier: Apache-2.0
"""Waiting: at once where there is nothing to wait for, and never for ever. No test here reads a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from klp import waiting
from klp.waiting import DeadlineMissed, wait_until


class Clock:
    """Stands in for `time`, and keeps the sleeps it was asked for."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(waiting, "time", fake)
    return fake


def answers(*values: object) -> Callable[[], object]:
    given: Iterator[object] = iter(values)
    return lambda: next(given)


def test_returns_what_was_found_without_sleeping(clock: Clock) -> None:
    assert wait_until(answers("it"), what="x", timeout_s=0, every_s=1) == "it"
    assert clock.sleeps == []


def test_looks_until_there_is_something(clock: Clock) -> None:
    assert wait_until(answers(None, False, 0, 7), what="x", timeout_s=10, every_s=2) == 7
    assert clock.sleeps == [2, 2, 2]


def test_looks_once_more_at_the_deadline(clock: Clock) -> None:
    assert wait_until(answers(None, None, "late"), what="x", timeout_s=3, every_s=2) == "late"
    assert clock.sleeps == [2, 1]


@pytest.mark.usefixtures("clock")
def test_gives_up_and_says_what_it_waited_for() -> None:
    with pytest.raises(DeadlineMissed) as caught:
        wait_until(lambda: None, what="answer", timeout_s=3, every_s=2)
    assert str(caught.value) == "no answer within 3.0 s"
    assert caught.value.what == "answer"
    assert caught.value.waited_s == 3


def test_what_a_look_raises_ends_the_wait(clock: Clock) -> None:
    def look() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError):
        wait_until(look, what="x", timeout_s=10, every_s=1)
    assert clock.sleeps == []
