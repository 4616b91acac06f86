# SPDX-License-Identifier: Apache-2.0
"""Kprobe events: made and removed in tracefs, and what their counts say of programs that did not run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "probes"))

import klpattach
import klpkprobes
import klpprobe
from klpkprobes import KprobeEvents


class Kernel:
    """A tracefs that takes every event, and programs that run as often as a test says."""

    KPROBE = 2

    def __init__(self, root, monkeypatch):
        self.root, self.hits, self.runs, self.detached, self.placed = root, {}, {}, [], []
        (root / "kprobe_events").touch()
        self.events = KprobeEvents(root, "klptransition", pid=7)
        monkeypatch.setattr(klpkprobes, "fdinfo", lambda fd: {"run_cnt": self.runs[fd]})
        monkeypatch.setattr(klpkprobes, "system_call", lambda command, attributes: (3, attributes))

    def load_func(self, function, _kind):
        self.runs.setdefault(function, 0)
        return SimpleNamespace(fd=function)

    def attach_tracepoint(self, tp, fn_name):
        group, name = tp.split(":")
        (self.root / "events" / group / name).mkdir(parents=True)

    def attach_kprobe(self, event, event_off, fn_name):
        self.placed.append((event, event_off, fn_name))

    def detach_tracepoint(self, tp):
        self.detached.append(tp)

    def reached(self, missed=0, **hits):
        """Write what the kernel counted at each event."""
        self.hits |= hits
        lines = [f"  {name}  {count}  {missed}" for name, count in self.hits.items()]
        (self.root / "kprobe_profile").write_text("\n".join([*lines, "  another_s  5  40", ""]))

    def probes(self):
        symbols = SimpleNamespace(
            resolve=lambda name: name, body=lambda name: name,
            anchor=lambda address: SimpleNamespace(name="klp_anchor", address=address - 9),
        )  # fmt: skip
        return klpattach.Probes(self, symbols, self.events)


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    return Kernel(tmp_path, monkeypatch)


def test_where_the_kernel_does_not_count_kprobes_on_functions_are_events(kernel):
    kernel.events.count_runs()
    probes = kernel.probes()
    probes.enter("klp_init_transition", "on_init", "beginnings")
    probes.leave("klp_init_transition", "on_init_return", "the census")
    assert probes.at(0x1009, "on_call")
    assert kernel.placed == [("klp_anchor", 9, "on_call")]
    assert (kernel.root / "kprobe_events").read_text().splitlines() == [
        "p:klptransition_7/on_init_0 klp_init_transition+0",
        "r:klptransition_7/on_init_return_1 klp_init_transition+0",
    ]
    assert (probes.attached, probes.missing) == (["klp_init_transition"], [])


def test_a_place_that_tracefs_refuses_is_told(kernel):
    kernel.events.count_runs()
    (kernel.root / "kprobe_events").unlink()
    probes = kernel.probes()
    probes.enter("klp_init_transition", "on_init", "beginnings")
    assert [one["symbol"] for one in probes.missing] == ["klp_init_transition"]


def test_an_event_whose_program_is_refused_is_taken_away_again(kernel, monkeypatch):
    def refuse(_function, _kind):
        raise OSError("the verifier")

    monkeypatch.setattr(kernel, "load_func", refuse)
    assert not kernel.events.add(kernel, "on_init_0", "klp_init_transition+0", "on_init")
    assert (kernel.root / "kprobe_events").read_text().splitlines()[-1] == "-:klptransition_7/on_init_0"


def counted(kernel):
    """Two events of one program, armed for a while before they had it."""
    kernel.events.count_runs()
    kernel.events.add(kernel, "one", "a+0", "on_both")
    kernel.events.add(kernel, "two", "b+0", "on_both")
    kernel.reached(one=3, two=0)
    kernel.events.settle()
    return kernel.events


def test_hits_that_no_run_followed_were_left_out(kernel):
    events = counted(kernel)
    kernel.reached(one=5, two=8)
    kernel.runs["on_both"] = 10
    assert events.left_out() == 0
    kernel.reached(two=10)
    assert events.left_out() == 2
    kernel.runs["on_both"] = 11  # one was under way, and another came
    assert events.left_out() == 2


def test_a_run_that_is_under_way_was_not_left_out(kernel, monkeypatch):
    events = counted(kernel)
    kernel.reached(one=5)
    kernel.runs["on_both"] = 1

    def goes_on(*_):
        kernel.runs["on_both"] = 2

    monkeypatch.setattr(klpkprobes.signal, "sigtimedwait", goes_on)
    assert events.left_out() == 0


def test_places_reached_while_a_kprobe_was_handled_are_counted_on_every_kernel(kernel):
    kernel.events.add(kernel, "one", "a+0", "on_both")
    kernel.reached(one=120, missed=3)
    assert kernel.events.left_out() == 3
    assert KprobeEvents(kernel.root, "klpshadow", pid=7).left_out() == 0


def test_events_of_a_dead_process_are_removed(kernel):
    for name in ("klptransition_0/new", "klptransition_1/new", "other_0/new"):  # init lives
        (kernel.root / "events" / name).mkdir(parents=True)
    (kernel.root / "events/klptransition_0/enable").touch()
    kernel.events.add(kernel, "on_init_0", "a+0", "on_init")
    (kernel.root / "kprobe_events").write_text("")
    kernel.events.remove()
    removed = (kernel.root / "kprobe_events").read_text().splitlines()
    assert sorted(removed) == ["-:klptransition_0/new", "-:klptransition_7/on_init_0"]
    assert kernel.detached == ["klptransition_7:on_init_0"]


@pytest.mark.parametrize(("kernel_release", "counting"), [("6.1.0-53-amd64", True), ("6.12.118", False)])
def test_runs_are_counted_where_the_kernel_does_not_count_what_it_leaves_out(
    kernel, monkeypatch, kernel_release, counting
):
    monkeypatch.setattr(klpkprobes, "TRACEFS", (kernel.root,))
    monkeypatch.setattr(klpprobe.os, "uname", lambda: SimpleNamespace(release=kernel_release))
    assert not klpprobe.counted_events("klpstates").counting
    monkeypatch.setenv(klpprobe.COUNT_RUNS, "1")
    assert klpprobe.counted_events("klpstates").counting is counting
    monkeypatch.setattr(klpkprobes, "TRACEFS", (kernel.root / "absent",))
    assert klpprobe.counted_events("klpstates") is None
