# SPDX-License-Identifier: Apache-2.0
"""A transition that is stuck ends its plan, or is forced if the user wants that; either way it is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.vm("6.12")
HOLDUPS = Path(__file__).parents[2] / "patches" / "holdups"
PLAN = """# SPDX-License-Identifier: GPL-2.0-only
name = "held"
summary = "a thread sleeps in a patched function for good"
rules = ["T9", "L5"]
livepatch = "klp_holder_fix"

[[load]]
module = "klp_holder"
parameters = "sleepers=1"

[[observe]]
command = "cat /proc/klp_holder"
enabled = '^version 1'
"""


@pytest.fixture
def held(tmp_path):
    """A folder whose livepatch never completes its transition by itself."""
    folder = tmp_path / "held"
    shutil.copytree(HOLDUPS, folder)
    (folder / "patch.toml").write_text(PLAN)
    return folder


def test_a_stuck_transition_is_forced(klp, held, tmp_path):
    done = klp("run", held, "--force", "--deadline", "12", "--json", "--out", tmp_path / "run")
    assert done.returncode == 1, done.stderr
    assert "forced: klp_holder_fix" in done.stderr
    result = json.loads(done.stdout)
    [plan] = result["plans"]
    assert plan["error"] is None
    [bad] = [each for each in plan["checks"] if each["verdict"] == "violated"]
    assert bad["name"] == "transition needs no force"
    assert "klp_sleep/0" in bad["evidence"]
    assert {each["name"]: each["verdict"] for each in plan["checks"]}[
        "enabled: cat /proc/klp_holder"
    ] == "held"
    assert [each["outcome"] for each in plan["transitions"]] == ["complete", "complete"]
    assert {each["rule"]["id"]: each["verdict"] for each in result["rules"]}["T9"] == "held"


def test_without_force_it_ends_its_plan(klp, held, tmp_path):
    done = klp("run", held, "--deadline", "12", "--json", "--out", tmp_path / "run")
    assert done.returncode == 1, done.stderr
    [plan] = json.loads(done.stdout)["plans"]
    assert "klp_sleep/0" in plan["error"]
    assert plan["checks"][0]["name"] == "life cycle"
