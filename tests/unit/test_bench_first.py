# SPDX-License-Identifier: Apache-2.0
"""What the bench reads of a first run's progress: each step, and no second of the run counted twice."""

from __future__ import annotations

import threading

import pytest
from rich.console import Console

from bench.first import FirstRun, Step, first_table, from_new_tree, ratios, steps_of, taken_by
from klp.consoles import PlainLines
from klp.errors import CheckFailed
from klp.progress import Silent
from klp.sidework import beside


def own(steps):
    return {what: round(taken.own, 3) for (_, what), taken in taken_by(steps).items()}


def test_steps_are_read_from_what_klp_says_of_them(capsys):
    told = PlainLines(Console(stderr=True))
    with told.step("booting to be saved"), told.step("connecting"):
        told.note("a note: 3 s")
    with told.step("arming the probes"):
        pass
    with pytest.raises(RuntimeError), told.step("saving"):
        raise RuntimeError

    lines = [(float(second), line) for second, line in enumerate(capsys.readouterr().err.splitlines())]
    found = sorted((step.what, step.depth) for step in steps_of(lines))
    assert found == [("arming the probes", 0), ("booting to be saved", 0), ("connecting", 1)]


def test_steps_of_two_threads_are_read(capsys):
    told, over = PlainLines(Console(stderr=True)), threading.Event()

    def other():
        with told.step("guest root"):
            over.wait()

    with beside(other) as made, told.step("kernel"):
        over.set()
        made()

    lines = [(5.0, line) for line in capsys.readouterr().err.splitlines()]
    assert {step.what for step in steps_of(lines)} == {"guest root", "kernel"}


def test_a_step_lasts_from_its_begin_to_the_line_that_ends_it():
    assert steps_of([(2.0, "x …"), (9.0, "x: 8 s"), (12.5, "  x: 10.5 s")]) == [Step("x", 1, 2.0, 12.5)]


def test_steps_of_one_name_are_added_up():
    taken = taken_by([Step("a", 0, 0, 1.5), Step("b", 0, 2, 4), Step("a", 0, 5, 5.5)])
    assert [(what, each.seconds) for (_, what), each in taken.items()] == [("a", 2.0), ("b", 2.0)]


def test_a_step_has_what_its_parts_leave():
    assert own([Step("all of it", 0, 0, 10), Step("part", 1, 2, 5)]) == {"all of it": 7, "part": 3}


def test_steps_side_by_side_share_the_time_that_they_have_in_common():
    # As two threads make: the second is indented below the first, and outlasts it.
    steps = [Step("packages", 0, 0, 10), Step("guest root", 1, 4, 20)]
    assert own(steps) == {"packages": 4 + 3, "guest root": 3 + 10}
    assert {each.beside for each in taken_by(steps).values()} == {6}


def test_the_table_names_each_step_and_adds_up():
    console = Console(width=120)
    steps = [Step("packages", 0, 0, 10), Step("guest root", 1, 4, 20)]
    with console.capture() as captured:
        console.print(first_table(FirstRun("new", 25.0, steps)))
    rows = [line.split() for line in captured.get().splitlines()]
    for row in (
        ["packages", "10.0", "6.0", "28%"], ["guest", "root", "16.0", "6.0", "52%"],
        ["all", "else", "5.0", "20%"], ["all", "25.0", "100%"],
    ):  # fmt: skip
        assert row in rows


def test_each_run_is_told_beside_the_oldest():
    runs = [FirstRun("new", 30.0, []), FirstRun("old", 120.0, [])]
    assert list(ratios(runs)) == ["new: 30.0 s, 0.250 of old"]
    assert list(ratios(runs[1:])) == []


def test_a_run_that_failed_shows_what_led_to_it(tmp_path):
    klp = tmp_path / ".venv/bin/klp"
    klp.parent.mkdir(parents=True)
    klp.write_text("#!/bin/sh\necho 'E: no such suite' >&2\necho 'error: is it reachable?' >&2\nexit 3\n")
    klp.chmod(0o755)
    (tmp_path / "tree").mkdir()
    with pytest.raises(CheckFailed, match=r"(?s)E: no such suite.*\n.*is it reachable"):
        from_new_tree({"this": tmp_path}, tmp_path / "tree", Silent())
