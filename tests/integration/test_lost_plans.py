# SPDX-License-Identifier: Apache-2.0
"""A livepatch that takes its guest down costs only itself: the plans after it run in a fresh guest."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.vm("6.12")


@pytest.mark.parametrize("retry", [False, True])
def test_the_next_plan_runs_in_a_fresh_guest(klp, fatal, tmp_path, retry):
    out = tmp_path / "run"
    more = ["--retry-lost"] if retry else []
    done = klp("run", fatal, "version-banner", "--json", "--out", out, *more)
    assert done.returncode == 3, done.stderr
    assert "error: " in done.stderr
    assert ("once more in a fresh one" in done.stderr) == retry
    result = json.loads(done.stdout)
    by_name = {plan["name"]: plan for plan in result["plans"]}
    assert by_name["panics"]["verdict"] == "violated"
    assert "klp_fault" in by_name["panics"]["error"]
    assert by_name["version-banner"]["verdict"] == "held"
    assert result["verdict"] == "violated"
    # Each guest left its own console and events; none its disk.
    guests = 3 if retry else 2
    assert len(list(out.glob("console*.log"))) == len(list(out.glob("events*.jsonl"))) == guests
    assert "Kernel panic" in (out / "console.log").read_text(errors="replace")
    assert "Kernel panic" not in (out / f"console-{guests}.log").read_text(errors="replace")
    assert not list(out.glob("overlay*"))
