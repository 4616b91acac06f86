# SPDX-License-Identifier: Apache-2.0
"""The day of abuse sees what is left behind: a process, a lock, a file, a verdict, an exit code."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from bench import abuse
from bench.abuse import Abuse
from bench.attempts import Attempt, Found
from tests.unit.runfolders import sample, write_run

# It ends once the child runs: a process that has only just begun shows no environment yet.
_LEAVES_A_CHILD = """
import subprocess, sys
child = [sys.executable, "-c", "print(1, flush=True); input()"]
subprocess.Popen(child, stdin=0, stdout=subprocess.PIPE).stdout.readline()
"""


@pytest.fixture
def day(tmp_path: Path) -> Abuse:
    return Abuse(tmp_path, "6.12", random.Random(1))


@contextmanager
def attempt(place: Path, program: str) -> Iterator[Attempt]:
    (place / "tmp").mkdir(parents=True)
    (place / "runs").mkdir()
    with (place / "said").open("wb") as said:
        child = subprocess.Popen(
            [sys.executable, "-c", program],
            env={"TMPDIR": f"{place}/tmp"},
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
        )
    with child:  # at last its input is closed, which ends what still reads it
        yield Attempt(place, child)


def test_one_that_leaves_nothing_is_clean(day: Abuse, tmp_path: Path) -> None:
    found = Found()
    with attempt(tmp_path / "1", "pass") as one:
        day._ended(one, found)
    assert (found.codes, found.faults, found.left.total()) == (Counter({"0": 1}), [], 0)
    assert not (tmp_path / "1").exists()


def test_an_orphan_is_seen_in_whatever_session(
    day: Abuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abuse, "_ENDING_S", 0.2)
    found = Found()
    with attempt(tmp_path / "1", _LEAVES_A_CHILD) as one:
        day._ended(one, found)
    assert found.left["an orphan"] == 1
    assert "still there: python" in found.faults[0]


@pytest.mark.parametrize(
    ("program", "fault"),
    [("raise SystemExit(1)", "exit code 1"), ("print('Traceback (most recent…')", "a traceback")],
)
def test_what_klp_does_not_promise_is_a_fault(day: Abuse, tmp_path: Path, program: str, fault: str) -> None:
    found = Found()
    with attempt(tmp_path / "1", program) as one:
        day._ended(one, found)
    assert found.faults == [f"{tmp_path / '1'}: {fault}"]
    assert (tmp_path / "1" / "said").exists()  # kept, to be looked at


def test_what_was_recorded_is_read(day: Abuse, tmp_path: Path) -> None:
    found = Found()
    with attempt(tmp_path / "1", "pass") as one:
        write_run(one.runs / "whole", sample())
        cut = write_run(one.runs / "cut", sample())
        (cut / "run.json").unlink()
        (cut / "overlay.qcow2").touch()
        (one.place / "tmp" / "file").touch()
        day._ended(one, found)
    assert found.verdicts.total() == 2
    assert found.verdicts["its run.json is missing: it was cut short"] == 1
    assert found.left == {"a guest's overlay in a run folder": 1, "a file in TMPDIR": 1}


def test_a_lock_that_is_held_is_seen(day: Abuse, tmp_path: Path) -> None:
    locks = tmp_path / "cache" / "locks"
    locks.mkdir(parents=True)
    lock = FileLock(locks / "guest-1.lock")
    with lock:
        assert day.locks() == ["guest-1.lock"]
    assert day.locks() == []
