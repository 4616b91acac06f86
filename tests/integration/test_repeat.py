# SPDX-License-Identifier: Apache-2.0
"""`klp run --repeat`: each repetition has a fresh guest, and all commands read what they leave."""

from __future__ import annotations

import json
import os

import pytest

pytestmark = pytest.mark.vm("6.12")


@pytest.fixture(scope="module")
def repeated(klp, tmp_path_factory):
    """A run of a livepatch, three times."""
    out = tmp_path_factory.mktemp("repeat") / "run"
    wide = {**os.environ, "COLUMNS": "140"}
    done = klp("run", "version-banner", "--repeat", "3", "--out", out, env=wide)
    assert done.returncode == 0, done.stderr
    assert "version-banner (3 times)" in done.stdout
    assert "version-banner (2 of 3)" in done.stderr
    return out


def test_each_repetition_has_a_guest_of_its_own(repeated) -> None:
    plans = json.loads((repeated / "run.json").read_text())["plans"]
    assert [(each["repetition"], each["guest"]) for each in plans] == [(1, 1), (2, 2), (3, 3)]
    assert {each["verdict"] for each in plans} == {"held"}
    names = sorted(each.name for each in repeated.glob("events*"))
    assert names == ["events-2.jsonl", "events-3.jsonl", "events.jsonl"]
    # From the same saved state: the same tasks, at nearly the same time of the guest's clock.
    begun = [each["transitions"][0]["begun_ns"] for each in plans]
    assert max(begun) - min(begun) < 60e9


def test_commands_read_all_repetitions(klp, repeated) -> None:
    assert klp("analyze", repeated).returncode == 0
    asked = "SELECT count(DISTINCT guest) AS guests, count(*) AS legs FROM transitions"
    assert json.loads(klp("query", asked, repeated, "--json").stdout) == [{"guests": 3, "legs": 6}]
    page = repeated.parent / "page.html"
    assert klp("report", repeated, "--out", page).returncode == 0
    assert "version-banner, repetition 3" in page.read_text()
    same = klp("compare", repeated, repeated, "--json")
    assert same.returncode == 0
    assert json.loads(same.stdout)["compared"][-1]["new"] == 3


def test_a_guest_that_is_lost_costs_one_plan_of_one_repetition(klp, fatal, tmp_path) -> None:
    out = tmp_path / "run"
    done = klp("run", fatal, "version-banner", "--repeat", "2", "--json", "--out", out)
    assert done.returncode == 3, done.stderr
    told = [(each["name"], each["repetition"], each["guest"], each["verdict"])
            for each in json.loads(done.stdout)["plans"]]  # fmt: skip
    assert told == [
        ("panics", 1, 1, "violated"), ("version-banner", 1, 2, "held"),
        ("panics", 2, 3, "violated"), ("version-banner", 2, 4, "held"),
    ]  # fmt: skip
    assert len(list(out.glob("events*.jsonl"))) == 4
