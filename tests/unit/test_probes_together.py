# SPDX-License-Identifier: Apache-2.0
"""Tools that are started together: each in a process of its own, one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from klp.trace.tracer import starting

PROBES = Path(__file__).parents[2] / "probes"
# A tool that writes what it is, says that its probes are attached when it is told to, and goes on.
TOOL = """
import json, os, sys
from pathlib import Path

def main():
    here = Path(__file__).parent
    print(json.dumps({"name": Path(__file__).stem, "words": sys.argv, "session": os.getsid(0)}), flush=True)
    print("said", file=sys.stderr)
    if Path(__file__).stem == "klpbroken":
        raise RuntimeError("it broke")
    with open(here / "orders") as orders:
        orders.read()
    import klpprobe
    klpprobe.tell_ready()
    with open(here / f"{Path(__file__).stem}.end") as end:
        end.read()
    return 0
"""


@pytest.fixture
def together(tmp_path):
    """Start tools of such names; returns the process that starts them."""
    os.mkfifo(tmp_path / "orders")

    def start(*names):
        for name in names:
            os.mkfifo(tmp_path / f"{name}.end")
            (tmp_path / f"{name}.py").write_text(TOOL)
        command = [sys.executable, "-B", str(PROBES / "klptogether.py"), str(tmp_path), *names]
        environment = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    return start


def test_each_tool_is_started_when_the_one_before_is_ready(together, tmp_path):
    with together("klpone", "klptwo") as starter:
        assert starter.stdout is not None
        name, first = starter.stdout.readline().split()
        assert name == "klpone"
        (tmp_path / "orders").write_text("")  # waits until it reads them
        assert starter.stdout.readline().startswith("klptwo ")
        told = json.loads((tmp_path / "klpone.jsonl").read_text())
        assert told == {"name": "klpone", "words": ["klpone.py", "-j"], "session": int(first)}
        assert (tmp_path / "klpone.err").read_text() == "said\n"
        (tmp_path / "orders").write_text("")
        assert starter.wait(60) == 0
        for name in ("klpone", "klptwo"):  # they outlive it
            (tmp_path / f"{name}.end").write_text("")


def test_a_tool_that_ends_holds_up_no_other(together, tmp_path):
    with together("klpbroken", "klptwo") as starter:
        assert starter.stdout is not None
        assert [starter.stdout.readline().split()[0] for _ in range(2)] == ["klpbroken", "klptwo"]
        assert "RuntimeError: it broke" in (tmp_path / "klpbroken.err").read_text()
        (tmp_path / "orders").write_text("")
        assert starter.wait(60) == 0
        (tmp_path / "klptwo.end").write_text("")


def test_the_probe_that_starts_is_told_with_its_place() -> None:
    assert starting("", 4) == ""
    assert starting("klptransition 101\n", 4) == "klptransition, 1 of 4"
    assert starting("klptransition 101\nklpshadow", 4) == "klpshadow, 2 of 4"
