# SPDX-License-Identifier: Apache-2.0
"""What the bench reads of a first run's progress: its outermost steps, each once."""

from __future__ import annotations

import pytest
from rich.console import Console

from bench.first import FirstRun, ratios, steps_of
from klp.progress import PlainLines


def test_steps_are_read_from_what_klp_says_of_them(capsys):
    told = PlainLines(Console(stderr=True))
    with told.step("booting to be saved"), told.step("connecting"):
        told.note("a note: 3.5 s")
    with told.step("arming the probes"):
        pass
    with pytest.raises(RuntimeError), told.step("saving"):
        raise RuntimeError

    assert list(steps_of(capsys.readouterr().err)) == ["booting to be saved", "arming the probes"]


def test_steps_of_one_name_are_added_up():
    assert steps_of("version-banner: 1.5 s\nother: 2.0 s\nversion-banner: 0.5 s\n") == {
        "version-banner": 2.0,
        "other": 2.0,
    }


def test_each_run_is_told_beside_the_oldest():
    runs = [FirstRun("new", 30.0, {}), FirstRun("old", 120.0, {})]
    assert list(ratios(runs)) == ["new: 30.0 s, 0.250 of old"]
    assert list(ratios(runs[1:])) == []
