# SPDX-License-Identifier: Apache-2.0
"""Runs that are under way: seen by others, told by `klp runs`, and never taken for the latest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from klp.errors import Busy
from klp.records.finding import LATEST, find_folder, find_run_folder
from klp.records.running import at_work, is_running, running_folders
from klp.records.writing import made_at, new_folder, remove_folder
from klp.settings import Settings
from tests.unit.runfolders import sample, write_run
from tests.unit.test_cli import Klp, run  # noqa: F401

OLD, NEW = "20261130-105406-6.12", "20261130-110000-6.12"
HOLDS = """
import sys
from pathlib import Path
from klp.records.running import at_work
with at_work(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process at work on a folder."""
    argv = [sys.executable, "-c", HOLDS, str(folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_who_is_at_work_is_seen_and_leaves_nothing_behind(tmp_path: Path) -> None:
    assert not is_running(tmp_path)
    with another(tmp_path) as process:
        assert is_running(tmp_path)
        assert is_running(tmp_path)  # looking at it takes nothing
        with pytest.raises(Busy), at_work(tmp_path):
            pass
        process.kill()
        process.wait()
        assert not is_running(tmp_path)
    with at_work(tmp_path):
        assert is_running(tmp_path)
    assert not is_running(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not is_running(tmp_path / "missing")


def test_a_folder_is_at_work_from_its_beginning(tmp_path: Path) -> None:
    with new_folder(Settings(runs=str(tmp_path)), None, "6.12") as layout:
        assert running_folders(tmp_path) == (layout.root,)
        made = made_at(layout.root)
        assert made is not None
        assert abs(made - layout.root.stat().st_mtime) < 3600
    assert running_folders(tmp_path) == ()
    assert made_at(tmp_path / "mine") is None


@pytest.mark.parametrize("find", [find_folder, find_run_folder])
def test_the_latest_is_one_that_has_ended(tmp_path: Path, find) -> None:
    for name in (OLD, NEW):
        write_run(tmp_path / name, sample())
    assert find(LATEST, tmp_path).name == NEW
    with at_work(tmp_path / NEW):
        assert find(LATEST, tmp_path).name == OLD
        assert find(NEW, tmp_path).name == NEW


def test_runs_shows_what_is_running(run: Klp, tmp_path: Path) -> None:  # noqa: F811
    root = tmp_path / "runs"
    write_run(root / OLD, sample())
    (root / NEW).mkdir()
    assert NEW not in run("runs", KLP_RUNS=str(root)).stdout
    with at_work(root / NEW):
        table = run("runs").stdout.splitlines()
        assert table[-1].startswith(NEW)
        assert table[-1].endswith("running")
        listed = json.loads(run("runs", "--json").stdout)
        assert [each["running"] for each in listed] == [False, True]
        assert "None" not in "".join(table)
        assert NEW not in run("runs", "--verdict", "held").stdout


def test_what_is_running_is_not_removed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / NEW, sample())
    with at_work(folder):
        with pytest.raises(Busy):
            remove_folder(folder)
        assert folder.is_dir()
    remove_folder(folder)
    assert not folder.exists()


def test_report_takes_the_latest_and_says_where_it_wrote_and_over_what(run: Klp, tmp_path: Path) -> None:  # noqa: F811
    write_run(tmp_path / "runs" / OLD, sample())
    first = run("report", KLP_RUNS=str(tmp_path / "runs"))
    page = tmp_path / "report.html"
    assert first.returncode == 0
    assert f"wrote {page} (" in first.stdout
    assert "over" not in first.stdout
    assert OLD in page.read_text()
    again = run("report")
    assert "over an earlier one" in again.stdout
    spaced = run("report", "-o", "a page.html")
    assert f"'{tmp_path / 'a page.html'}'" in spaced.stdout


def test_analyze_takes_the_latest_run_and_tells_of_checks(run: Klp, tmp_path: Path) -> None:  # noqa: F811
    root = tmp_path / "runs"
    write_run(root / OLD, sample())
    check = root / "20261130-120000-check"
    write_run(check / "6.12" / "fix" / "life", sample())
    (check / "check.json").write_text("{}")
    by_default = run("analyze", KLP_RUNS=str(root))
    assert by_default.stdout == run("analyze", OLD).stdout == run("analyze", "latest").stdout
    refused = run("analyze", check.name)
    assert refused.returncode == 2
    inside = refused.stderr.partition("such as ")[2].split(")")[0]
    assert run("analyze", inside).stdout == by_default.stdout
