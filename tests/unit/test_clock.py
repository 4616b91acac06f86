# SPDX-License-Identifier: Apache-2.0
"""The guest's clock as the host tells it, when questions and answers are late.

The guest here is a stand-in whose clock runs AHEAD of the host's and whose link delays what the test says;
that a real guest answers so is seen in tests/integration/test_guest.py.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from klp.drive.subject import ModuleSubject
from klp.guest.clock import Clock
from klp.guest.ssh import CommandResult
from klp.trace.observer import Observer
from klp.trace.store import EventStore

AHEAD = 3_000_000_000_000
MS = 1_000_000


class Link:
    """A guest behind a link; time passes by the delays alone."""

    def __init__(self, monkeypatch, *, shows=True):
        self.host_ns = 50 * MS
        self.there_ns = self.back_ns = 0
        self.ahead_ns = AHEAD
        self.shows = shows
        self.status = 3
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.host_ns)

    def run(self, line, *, shown_as):
        self.host_ns += self.there_ns
        begun = self.host_ns + self.ahead_ns
        self.host_ns += 2 * MS
        ended = self.host_ns + self.ahead_ns
        self.host_ns += self.back_ns
        output = f"begun\0{begun}\nsaid\nended\0{ended}\n" if self.shows else "said\n"
        return CommandResult(shown_as, self.status, output, "why")

    def read(self, _path):
        return "6.12"


@pytest.fixture
def link(monkeypatch):
    return Link(monkeypatch)


def error_ns(clock, link):
    return clock.now_ns() - link.host_ns - AHEAD


def test_a_command_is_timed_by_the_guest_however_late_its_answer(link):
    clock = Clock(link)
    link.there_ns, link.back_ns = 700 * MS, 900 * MS
    sent = link.host_ns
    result, span = clock.run(["rmmod", "klp fix"])
    assert (result.status, result.stdout, result.stderr) == (3, "said\n", "why")
    assert result.command == "rmmod 'klp fix'"
    assert span.begun_ns == sent + 700 * MS + AHEAD
    assert span.ended_ns - span.begun_ns == 2 * MS


@pytest.mark.parametrize(("there", "back"), [(0, 300), (300, 0), (40, 200)])
def test_one_quick_answer_makes_good_for_a_late_one(link, there, back):
    link.there_ns, link.back_ns = there * MS, back * MS
    clock = Clock(link)
    late = abs(error_ns(clock, link))
    link.there_ns = link.back_ns = 1 * MS
    clock.run("true")
    assert abs(error_ns(clock, link)) <= 1 * MS < late
    link.there_ns, link.back_ns = there * MS, back * MS
    clock.run("true")
    assert abs(error_ns(clock, link)) <= 1 * MS


def test_a_clock_that_drifted_away_is_followed(link):
    link.there_ns = link.back_ns = 1 * MS
    clock = Clock(link)
    link.ahead_ns += 100 * MS
    clock.run("true")
    assert abs(error_ns(clock, link) - 100 * MS) <= 1 * MS


def test_a_guest_that_shows_no_clock(monkeypatch):
    link = Link(monkeypatch, shows=False)
    clock = Clock(link)
    result, span = clock.run("true")
    assert (result.stdout, span, clock.now_ns()) == ("said\n", None, 0)


def test_a_step_is_told_by_the_guests_time(link, tmp_path):
    """What came before it in the guest must not seem to come after, though the first reading was late."""
    link.there_ns, link.back_ns = 0, 400 * MS
    with EventStore(tmp_path / "events.jsonl") as store:
        observer = Observer(link, None, store)
        link.status, link.back_ns = 0, 0
        link.host_ns += 1000 * MS
        begun = link.host_ns + AHEAD
        module = SimpleNamespace(name="fix")
        ModuleSubject(SimpleNamespace(guest=link), module, "fix.ko", observer).unload()
        step = store.since()[-1]
    assert (step.action, step.errno, step.ts_ns) == ("unload", 0, begun + 2 * MS)
    assert step.ts_ns - step.duration_ns == begun
