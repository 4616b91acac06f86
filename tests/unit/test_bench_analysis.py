# SPDX-License-Identifier: Apache-2.0
"""The runs that the bench generates are read by every command, and what these take is measured and told."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from bench import usage
from bench.analysis import Taken, analysis_table
from bench.recordings import SHAPES, write_recording
from klp.analysis.evidence import Verdict
from klp.analysis.lifetimes import shadow_lifetimes
from klp.records.reading import read_histories, read_run, with_traces
from klp.records.verdicts import judge
from klp.trace.reading import read_events


@pytest.mark.parametrize("name", SHAPES)
def test_a_generated_run_is_whole_and_breaks_no_rule_but_one(tmp_path: Path, name: str) -> None:
    write_recording(tmp_path / "run", SHAPES[name], 20_000)
    broken = {
        each.rule.id for each in judge(read_histories(tmp_path / "run")) if each.verdict is Verdict.VIOLATED
    }
    assert broken <= {"S7"}  # variables stand as their livepatch goes
    run = with_traces(read_run(tmp_path / "run"))
    plan = run.whole().plans[0]
    legs = [each.transition for guest in run.guests for each in guest.legs]
    assert list(plan.transitions) == legs
    assert len(legs) == 2 * max(1, 20_000 // SHAPES[name].events_each)
    events = (tmp_path / "run/events.jsonl").read_bytes().splitlines()
    assert 20_000 <= len(events) == run.whole().events < 21_000


def test_variables_of_a_shape_share_their_addresses(tmp_path: Path) -> None:
    write_recording(tmp_path / "run", SHAPES["one address"], 20_000)
    found = shadow_lifetimes(read_events(tmp_path / "run/events.jsonl"))
    assert len({each.variable for each in found}) == 16
    assert len(found) > 1_000


def test_what_a_command_takes_is_its_own(tmp_path: Path) -> None:
    hold = "held = bytearray(64 << 20); raise SystemExit(3)"
    usage.main(str(tmp_path / "used"), sys.executable, "-c", hold)
    used = msgspec.json.decode((tmp_path / "used").read_bytes())
    assert used["status"] == 3
    assert used["peak_mib"] > 64
    assert used["wall_s"] > 0


def test_the_table_tells_growth_beside_the_few() -> None:
    taken = [
        Taken("mixed", 100_000, "analyze", 1.0, 0.5, 80),
        Taken("mixed", 1_000_000, "analyze", 9.0, 5.5, 200),
    ]
    console = Console(width=120)
    with console.capture() as shown:
        console.print(analysis_table(taken))
    [few, many] = [line.split() for line in shown.get().splitlines() if "analyze" in line]
    assert few[-4:] == ["100,000", "1.0", "0.5", "80"]
    assert many[-5:] == ["1,000,000", "9.0", "5.5", "11.0", "200"]
