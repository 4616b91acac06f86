# SPDX-License-Identifier: Apache-2.0
"""Tables: folded on a terminal, whole in a pipe, with tabs for programs; never padded, never a `None`."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import datetime

import msgspec
import pytest
from rich.text import Text

from klp.analysis.checked import CHECK_SCHEMA, CheckedKernel, CheckedLivepatch, CheckResult
from klp.analysis.evidence import Verdict
from klp.analysis.history import history
from klp.analysis.rules.registry import RULES, judge_all
from klp.report.check_table import check_table
from klp.report.columns import Columns, ResultConsole
from klp.report.rules import rules_table, verdicts_table
from klp.report.runs import Brief, runs_table
from klp.report.table import run_table
from tests.unit.runfolders import result_of, sample

LONG = "a long text " * 40
BRACKETS = "[red]not markup[/red]"
ROWS = [("one", 1, LONG.strip()), ("two", None, BRACKETS), (Text("three", style="red"), 30, "a\nb  c")]


def shown(table: object, *, plain: bool = False, terminal: int | None = None) -> str:
    """What a table is on a console."""
    console = ResultConsole()
    console.file = io.StringIO()
    console.plain = plain
    if terminal:
        console._force_terminal = True
        console.width = terminal
        console.no_color = True
    console.print(table)
    return console.file.getvalue()


def test_in_a_pipe_a_row_is_a_line_and_columns_stand_below_each_other() -> None:
    lines = shown(Columns(("name", "count", "text"), ROWS)).splitlines()
    assert lines == [
        "name   count  text", f"one        1  {LONG.strip()}", f"two        -  {BRACKETS}",
        "three     30  a b  c",
    ]  # fmt: skip


def test_plain_has_one_tab_between_columns() -> None:
    rows = [line.split("\t") for line in shown(Columns(("n", "c", "t"), ROWS), plain=True).splitlines()]
    assert rows == [
        ["n", "c", "t"],
        ["one", "1", LONG.strip()],
        ["two", "-", BRACKETS],
        ["three", "30", "a b c"],
    ]


@pytest.mark.parametrize("width", [30, 60, 90, 200])
def test_on_a_terminal_nothing_is_wider_than_it_and_nothing_is_lost(width: int) -> None:
    text = shown(Columns(("name", "count", "text"), ROWS), terminal=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("long") == LONG.count("long")


def test_what_is_kept_whole_is_not_folded_while_others_can_be() -> None:
    name = "20261130-105406-6.12.118+deb13-amd64"
    rows = [(name, "6.12.118+deb13-amd64", "2026-11-30 10:55:50", 8.0)]
    folded = shown(Columns(("run", "kernel", "begun", "seconds"), rows, whole=("run",)), terminal=80)
    assert name in folded
    assert max(map(len, folded.splitlines())) <= 80


def test_words_are_whole_while_another_column_can_be_folded_at_blanks() -> None:
    name = "klp_check_and_switch_task"
    text = shown(Columns(("function", "text"), [(name, "a b c " * 9), ("x", "of one word")]), terminal=40)
    assert name in text
    assert max(map(len, text.splitlines())) <= 40


def test_a_spare_column_is_left_out_only_where_not_all_fit() -> None:
    table = Columns(("a", "n", "b"), [("one", 7, "two"), ("three", 10, "four")], spare=("n",))
    assert shown(table, terminal=15).splitlines() == shown(table).splitlines() == [
        "a       n  b", "one     7  two", "three  10  four",
    ]  # fmt: skip
    assert shown(table, terminal=14).splitlines() == ["a      b", "one    two", "three  four"]


def test_a_row_is_a_block_where_its_words_would_be_torn_apart() -> None:
    rows = [("klp_version_banner", 102531129970, "true"), ("other", None, "false")]
    table = Columns(("patch", "begun_ns", "forced"), rows, blocks=True)
    blocks = [
        "patch     klp_version_banner", "begun_ns  102531129970", "forced    true", "",
        "patch     other", "begun_ns  -", "forced    false",
    ]  # fmt: skip
    assert shown(table, terminal=39).splitlines() == blocks
    whole = shown(table)
    assert whole.splitlines()[0] == "patch                   begun_ns  forced"
    assert shown(table, terminal=60) == whole
    assert shown(Columns(("a" * 50,), [], blocks=True), terminal=20).strip()


def test_functions_and_files_are_whole_in_the_table_of_rules_on_a_narrow_terminal() -> None:
    short = shown(rules_table(RULES.values()), terminal=80)
    assert not [
        word for rule in RULES.values() for word in rule.source.split() if word not in short.split()
    ]
    assert short.splitlines()[0].split() == ["rule", "says", "source"]
    assert shown(rules_table(RULES.values())).splitlines()[0].split()[-1] == "needs"


def test_a_run_is_one_line_on_a_terminal_of_80_columns() -> None:
    name, release = "20261130-105406-6.12.118+deb13-amd64", "6.12.118+deb13-amd64"
    run = Brief(
        run=name, path="/a", kind="run", kernels=(release,), asked=("6.12",), verdict=Verdict.HELD,
        begun_at=datetime(2026, 11, 30, 10, 55, 50).timestamp(), duration_s=3601.4, plans=8,
    )  # fmt: skip
    _, line = shown(runs_table([run]), terminal=80).splitlines()
    assert line.split() == [name, "6.12", "11-30", "10:55", "3601", "8", "held"]
    tree = msgspec.structs.replace(run, kernels=("mainline", "6.14.0-rc1+"))
    assert "  mainline 6.14  " in shown(runs_table([tree]))


def test_lines_that_belong_to_a_row_stand_below_it_and_not_among_columns() -> None:
    table = Columns(("a", "b"), [("x", 1), ("y", 2)], below=[["about x"], []])
    assert shown(table).splitlines() == ["a  b", "x  1", "    about x", "y  2"]
    assert shown(table, plain=True).splitlines() == ["a\tb", "x\t1", "y\t2"]


def test_a_table_without_rows_or_heading() -> None:
    assert shown(Columns(("a", "b"), [])) == "a  b\n"
    assert shown(Columns((), [("a", 1)], below=[["c"]], indent=2)) == "  a  1\n      c\n"


def test_text_is_never_broken_so_that_a_path_can_be_pasted() -> None:
    path = "/tmp/" + "x" * 300
    assert path in shown(f"run folder: {path}", terminal=80).replace("\x1b[0m", "")
    assert shown(f"run folder: {path}") == f"run folder: {path}\n"


def empty_check() -> CheckResult:
    kernel = CheckedKernel(
        name="6.12", release="6.12.1", kernel_digest="", image_digest="", accelerator="tcg"
    )
    return CheckResult(
        schema=CHECK_SCHEMA, klp="0", qemu="0", begun_at=0, ended_at=1, quick=False, repeat=1, error=None,
        livepatches=(CheckedLivepatch(name="p", word="p", digest=""),), kernels=(kernel,), complete=False,
        scenarios=("build", "life"), outcomes=(), headlines=("nothing was tried",),
    )  # fmt: skip


def briefs() -> list[Brief]:
    """A run with everything, and one of which nothing is known."""
    whole = Brief(run="a", path="/a", kind="run", kernels=("6.12",), begun_at=1.0, duration_s=2.0, plans=1)
    return [
        whole,
        Brief(run="b", path="/b", kind="run"),
        Brief(run="c", path="/c", kind="run", error="cut"),
    ]


TABLES: dict[str, Callable[[], object]] = {
    "run": lambda: run_table(result_of(sample())),
    "runs": lambda: runs_table(briefs()),
    "rules": lambda: rules_table(RULES.values()),
    "verdicts": lambda: verdicts_table(judge_all(history(sample().numbered()))),
    "check": lambda: check_table(empty_check()),
}


@pytest.mark.parametrize("plain", [False, True], ids=["piped", "plain"])
@pytest.mark.parametrize("make", TABLES.values(), ids=list(TABLES))
def test_no_table_is_padded_or_says_none(make: Callable[[], object], *, plain: bool) -> None:
    text = shown(make(), plain=plain)
    assert text.strip()
    assert "None" not in text
    assert [line for line in text.splitlines() if line != line.rstrip(" ")] == []
