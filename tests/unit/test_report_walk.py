# SPDX-License-Identifier: Apache-2.0
"""A run folder on its way to a report: read whole, then shown; who shows it comes back to no folder."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from click.testing import CliRunner

from klp.cli.main import klp
from tests.unit.comparisons import check_of, outcome, write_check
from tests.unit.runfolders import sample, write_run

# What knows folders, or can open what is in them. (sys is there for a module that can be run.)
_FOLDERS = {"os", "io", "pathlib", "shutil", "tempfile", "glob", "duckdb", "klp.files", "klp.paths"}
# Whose functions no report may call; of the analysis it reads values, whose properties are its own matter.
_READS = {"klp.records", "klp.trace"}


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names))


def folder_imports(text: str) -> set[str]:
    return set(_imports(ast.parse(text))) & _FOLDERS


def test_no_module_of_report_knows_folders(root: Path) -> None:
    files = sorted((root / "harness/klp/report").glob("*.py"))
    assert len(files) > 10
    found = {file.name: names for file in files if (names := folder_imports(file.read_text()))}
    assert found == {}


@pytest.mark.parametrize("text", ["import os", "from pathlib import Path", "from klp import paths"])
def test_that_check_can_fail(text: str) -> None:
    assert folder_imports(text)


@contextmanager
def calls_of_klp(called: list[tuple[str, str]]) -> Iterator[None]:
    """Note module and name of every call of a function of klp; loading a module is none."""

    def note(frame: FrameType, event: str, _: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("klp.") and not frame.f_code.co_name.startswith("<"):
            called.append((module, frame.f_code.co_qualname))

    before: Callable[..., object] | None = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)


def test_once_a_page_is_begun_nothing_is_read_or_judged_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KLP_RUNS", str(tmp_path / "runs"))
    write_run(tmp_path / "runs/a", sample())
    write_run(tmp_path / "runs/b", sample(), sample(hold=False))
    write_check(tmp_path / "runs/c", check_of(outcome("build", folder=""), outcome("life")))
    called: list[tuple[str, str]] = []
    words = ["report", "a", "b", "c", "--against", "a", "--out", "page.html", "--perfetto", "p.pftrace"]
    with calls_of_klp(called):
        done = CliRunner().invoke(klp, words, standalone_mode=False)
    assert (done.exception, done.return_value) == (None, 0)
    first = next(n for n, (module, _) in enumerate(called) if module == "klp.report.perfetto")
    later = called[first:]
    assert {"klp.report.html", "klp.report.html_data", "klp.report.html_check"} <= {
        each for each, _ in later
    }
    rooms = {".".join(module.split(".")[:2]) for module, _ in later}
    assert rooms.isdisjoint(_READS), sorted({each for each in later if each[0].startswith(tuple(_READS))})
    # What is left of the analysis are its values' own properties, and a few words on them.
    functions = {name for module, name in later if module.startswith("klp.analysis.") and "." not in name}
    assert functions <= {"overall", "identity", "rule_name", "verdict_words"}
