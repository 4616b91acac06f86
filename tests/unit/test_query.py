# SPDX-License-Identifier: Apache-2.0
"""SQL over runs gives what the traces and run.json say; `klp runs` lists and removes run folders."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path

import duckdb
import msgspec
import pytest
from click.testing import CliRunner, Result

from klp.analysis.lifetimes import shadow_lifetimes
from klp.analysis.recording import NotARecord
from klp.cli.main import klp
from klp.errors import KlpError
from klp.files import remove_tree
from klp.paths import CacheLayout
from klp.progress import Silent
from klp.records.database import TABLES, Database
from klp.records.finding import find_folder
from klp.records.reading import read_run
from klp.records.tables import open_tables
from klp.report import query_tables
from klp.trace import events as ev
from klp.trace.reading import BadTrace
from tests.unit.comparisons import check_of, outcome, write_check
from tests.unit.runfolders import sample, shadow, write_run
from tests.unit.traces import Trace


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs with two in it; the settings name it."""
    for name in [each for each in os.environ if each.startswith("KLP_")]:
        monkeypatch.delenv(name)
    root = tmp_path / "runs"
    monkeypatch.setenv("KLP_RUNS", str(root))
    monkeypatch.setenv("KLP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    write_run(root / "a-6.12", sample())
    write_run(root / "b-6.1", sample("6.1.192", hold=False), begun_at=1_770_000_000.0)
    return root


@pytest.fixture
def cache(tmp_path: Path) -> CacheLayout:
    return CacheLayout(tmp_path / "cache")


def klp_(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(klp, words, input=stdin)


def opened(root: Path, cache: CacheLayout, *names: str) -> Database:
    found = [read_run(find_folder(each, root)) for each in names]
    return open_tables(found, cache, Silent(), skip=False)


def ask(words: str, *runs: str) -> list[dict[str, object]]:
    done = klp_("query", words, *runs, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_tasks_tell_path_attempts_and_wait(runs: Path) -> None:
    rows = ask("SELECT * FROM tasks WHERE target = 1 AND pid IN (1, 2, 3)", "a-6.12")
    told = {row["pid"]: row for row in rows}
    assert {pid: row["path"] for pid, row in told.items()} == {1: "first pass", 2: "exit", 3: "retry pass"}
    assert {pid: row["attempts"] for pid, row in told.items()} == {1: 0, 2: 1, 3: 2}
    assert told[1]["wait_ns"] < 400_000_000 <= told[2]["wait_ns"] < 1_000_000_000 <= told[3]["wait_ns"]
    assert "sleeping in cmdline_proc_show" in str(told[3]["reasons"])
    assert {row["plan"] for row in rows} == {"livepatch-sample"}


def test_transitions_equal_run_json(runs: Path) -> None:
    found = read_run(runs / "a-6.12")
    written = found.whole().plans[0].transitions
    rows = ask("SELECT * FROM transitions ORDER BY transition", "a-6.12")
    assert [row["duration_ns"] for row in rows] == [each.duration_ns for each in written]
    assert [row["passes"] for row in rows] == [each.passes for each in written] == [3, 1]
    assert [row["stragglers"] for row in rows] == [len(each.stragglers) for each in written] == [2, 0]
    assert [row["signals"] for row in rows] == [1, 0]


def test_shadow_variables_live_and_stay(runs: Path) -> None:
    rows = ask("SELECT variable, size, age_ns > 5000000 AS old, freed_ns FROM shadows ORDER BY 1", "a-6.12")
    assert [(row["size"], row["old"]) for row in rows] == [(8, True), (8, None)]
    assert rows[1]["freed_ns"] is None


def test_calls_are_told_by_function_and_caller(runs: Path) -> None:
    trace, cat = sample(), ev.CallsByTask(comm="cat", pid=7, calls=2)
    own = {"patch": "p", "object": "vmlinux", "old": "f", "new": "g"}
    begun = next(each.ts_ns for each in trace.events if isinstance(each, ev.Plan))
    tasks = (cat, ev.CallsByTask(comm="cat", pid=8, calls=1), ev.CallsByTask(comm="sh", pid=9, calls=1))
    trace.put(ev.Calls, at=begun + 1, **own, tasks=tasks, dropped=3, uncounted=None)
    trace.put(ev.Calls, **own, tasks=(), dropped=0, uncounted="why")
    write_run(runs / "c-6.12", trace)
    rows = ask("SELECT * FROM calls ORDER BY calls DESC", "c-6.12")
    assert [(row["plan"], row["calls"], row["tasks"]) for row in rows] == [
        ("livepatch-sample", 7, 3), (None, 0, 0),
    ]  # fmt: skip
    assert json.loads(str(rows[0]["callers"])) == {"cat": 3, "sh": 1}
    assert [(row["dropped"], row["uncounted"]) for row in rows] == [(3, None), (0, "why")]


def test_lives_of_one_address_are_told_apart() -> None:
    trace = Trace()
    trace.put(ev.ShadowFreed, obj="0x1", id=2, variable="0xa", age_ns=None, dtor=False, dtor_calls=0)
    for _ in range(2):
        shadow(trace, "0xffff888000001000")
    shadow(trace, "0xffff888000001000", freed_after_ms=None)
    old, *lives = shadow_lifetimes(trace.numbered())
    assert (old.made_ns, old.size, old.freed_ns is None) == (None, None, False)
    spans = [(each.made_ns, each.freed_ns) for each in lives]
    assert all(made < freed for made, freed in spans[:2])
    assert spans[0][1] < spans[1][0] < spans[1][1] < spans[2][0]
    assert spans[2][1] is None


def test_a_variable_whose_free_was_lost_takes_no_other_ones() -> None:
    trace = Trace()
    shadow(trace, "0xffff888000001000", freed_after_ms=None)
    shadow(trace, "0xffff888000001000")
    first, second = shadow_lifetimes(trace.numbered())
    assert first.freed_ns is None
    assert second.freed_ns is not None


def test_ids_are_as_large_as_the_kernels(runs: Path) -> None:
    trace = sample(hold=False)
    trace.events = [
        msgspec.structs.replace(each, id=2**64 - 1)
        if isinstance(each, ev.ShadowAlloc | ev.ShadowFree | ev.ShadowFreed)
        else each
        for each in trace.events
    ]
    write_run(runs / "c-6.12", trace)
    assert {row["id"] for row in ask("SELECT id FROM shadows", "c-6.12")} == {2**64 - 1}
    assert ask("SELECT DISTINCT id FROM events WHERE type = 'shadow_freed'", "c-6.12") == [
        {"id": 2**64 - 1}
    ]
    target = runs / "c-6.12.pftrace"
    assert klp_("report", "c-6.12", "--perfetto", str(target)).exit_code == 0
    assert str(2**64 - 1).encode() in target.read_bytes()


def test_verdicts_are_those_of_checks_and_rules(runs: Path) -> None:
    checks = ask("SELECT name, verdict, evidence, plan FROM verdicts WHERE kind = 'check'", "a-6.12")
    assert [(row["name"], row["verdict"]) for row in checks] == [
        ("behaviour", "held"), ("shadow variables", "violated"),
    ]  # fmt: skip
    [rule] = ask("SELECT verdict, observations FROM verdicts WHERE name = 'T1'", "a-6.12")
    assert rule["verdict"] == "held"
    assert rule["observations"]


def test_events_are_there_line_by_line_with_their_fields(runs: Path) -> None:
    lines = (runs / "a-6.12/events.jsonl").read_bytes().splitlines()
    [count] = ask("SELECT count(*) AS n, count(DISTINCT run) AS runs FROM events WHERE run = 'a-6.12'")
    assert count == {"n": len(lines), "runs": 1}
    rows = ask("SELECT result, errno, task.comm FROM events WHERE type='attempt' AND task.pid=3", "a-6.12")
    assert rows[0] == {"result": "sleeping", "errno": -98, "comm": "task3"}
    [callback] = ask("SELECT result FROM events WHERE kind = 'pre_patch' LIMIT 1", "a-6.12")
    assert callback["result"] == "0"
    [core] = ask("SELECT core.target_state AS t FROM events WHERE type = 'start' LIMIT 1", "a-6.12")
    assert core["t"] == 1


def test_runs_are_joined(runs: Path) -> None:
    rows = ask(
        "SELECT kernel, begun_at, sum(attempts)::BIGINT AS n FROM tasks JOIN runs USING (run)"
        " GROUP BY ALL ORDER BY 1"
    )
    assert [(row["kernel"], row["n"]) for row in rows] == [("6.1.192", 0), ("6.12.117", 3)]
    assert rows[1]["begun_at"] == "2025-10-09 08:53:20"


def test_the_runs_of_a_check_are_joined_by_their_scenarios_folders(runs: Path) -> None:
    write_check(runs / "c-check", check_of(outcome("build", folder=""), outcome("life")))
    rows = ask("SELECT DISTINCT run, kernel FROM tasks JOIN runs USING (run)", "c-check")
    assert rows == [{"run": "6.12/fix/life", "kernel": "6.12"}]


def test_a_run_without_a_trace_is_asked_for_what_its_summary_has(runs: Path) -> None:
    (runs / "a-6.12/events.jsonl").unlink()
    assert ask("SELECT plans FROM runs", "a-6.12") == [{"plans": 1}]
    assert ask("SELECT * FROM events", "a-6.12") == []


def test_several_guests_are_numbered(runs: Path) -> None:
    write_run(runs / "c", sample(), sample(hold=False))
    rows = ask("SELECT guest, max(passes) AS p FROM transitions GROUP BY 1 ORDER BY 1", "c")
    assert rows == [{"guest": 1, "p": 3}, {"guest": 2, "p": 1}]


def test_a_changed_run_is_read_again_and_an_unchanged_one_is_not(runs: Path, cache: CacheLayout) -> None:
    def count() -> object:
        return opened(runs, cache, "a-6.12").ask("SELECT count(*) FROM events").rows[0][0]

    before, kept = count(), sorted(cache.tables.rglob("*.parquet"))
    stamps = [each.stat().st_mtime_ns for each in kept]
    assert count() == before
    assert [each.stat().st_mtime_ns for each in sorted(cache.tables.rglob("*.parquet"))] == stamps
    longer = sample(tasks=9).write(runs / "a-6.12/events.jsonl")
    assert count() == len(longer.read_bytes().splitlines()) != before
    assert len(sorted(cache.tables.rglob("*.parquet"))) == len(kept)


def test_csv_and_parquet_and_table_say_the_same(runs: Path, tmp_path: Path) -> None:
    sql = "SELECT path, count(*) AS n FROM tasks GROUP BY path ORDER BY path;"
    done = klp_("query", sql, "--csv")
    told = list(csv.reader(io.StringIO(done.stdout)))
    target = tmp_path / "out.parquet"
    assert klp_("query", sql, "--parquet", str(target)).exit_code == 0
    rows = duckdb.sql(f"SELECT * FROM '{target}'").fetchall()
    assert told == [["path", "n"], *([path, str(n)] for path, n in rows)]
    table = klp_("query", sql).stdout
    assert [line.rsplit(None, 1) for line in table.splitlines()] == told


def test_yes_and_no_are_sqls_in_every_format(runs: Path) -> None:
    sql = "SELECT forced, [forced] AS list, {'a': forced, 'b': 'x'} AS struct FROM transitions LIMIT 1"
    told = ["false", "[false]", '{"a":false,"b":"x"}']
    assert list(csv.reader(io.StringIO(klp_("query", sql, "--csv").stdout)))[1] == told
    assert klp_("query", sql).stdout.splitlines()[1].split() == told
    assert ask(sql) == [{"forced": False, "list": [False], "struct": {"a": False, "b": "x"}}]


def test_documentation_is_that_of_the_tables(root: Path, runs: Path, cache: CacheLayout) -> None:
    assert (root / "docs/query.md").read_text().endswith(query_tables.documentation())
    asked = opened(runs, cache, "a-6.12")
    for table in TABLES:
        described = asked.ask(f"DESCRIBE {table}").rows
        shown = [(name, kind.replace('"', "")) for name, kind, *_ in described]
        assert shown == [(each.name, each.sql) for each in query_tables.columns(table)], table


def test_every_column_of_a_row_has_a_meaning() -> None:
    for table in query_tables.ROWS:
        assert all(each.meaning for each in query_tables.columns(table)), table


def test_examples_of_the_documentation_run(root: Path, runs: Path) -> None:
    text = (root / "docs/query.md").read_text()
    examples = [part.partition("```")[0] for part in text.split("```sql\n")[1:]]
    assert len(examples) >= 3
    for sql in examples:
        assert ask(sql), sql


def failure(*words: str) -> KlpError:
    error = klp_(*words).exception
    assert isinstance(error, KlpError), error
    assert "\n" not in error.message
    assert error.exit_code == 2
    return error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("SELEC 1",), 'syntax error at or near "SELEC"'),
        (("SELECT nothing FROM tasks",), '"nothing" not found'),
        (("SELECT * FROM nowhere",), "nowhere does not exist"),
        (("SELECT 'x'::INT",), "Could not convert"),
        (("SELECT 1", "c-7.2"), "c-7.2: no such run"),
        (("SELECT 1", "--csv", "--json"), "each alone"),
        ((), "no SQL given"),
        (("SELECT 1", "--parquet", "/nowhere/x.parquet"), "/nowhere/x.parquet"),
    ],
)
def test_misuse_is_one_line(runs: Path, words: tuple[str, ...], says: str) -> None:
    assert says in failure("query", *words).message


def test_no_runs_at_all(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLP_RUNS", str(runs / "none"))
    assert "no runs yet" in failure("query", "SELECT 1").message
    assert "no runs yet" in failure("query", "SELECT 1", "latest").message
    assert "no runs yet" in klp_("runs").output


def spoil(folder: Path, how: str) -> None:
    summary, events = folder / "run.json", folder / "events.jsonl"
    if how == "no run.json":
        summary.unlink()
    elif how == "cut run.json":
        summary.write_bytes(summary.read_bytes()[:-20])
    elif how == "newer":
        summary.write_text(summary.read_text().replace('"schema": ', '"schema": 9'))
    elif how == "no UTF-8 in run.json":
        summary.write_bytes(summary.read_bytes().replace(b"livepatch-sample", b"\xff\xfe", 1))
    elif how == "a time of no calendar":
        summary.write_text(re.sub(r'"begun_at": [^,]+', '"begun_at": 1e300', summary.read_text()))
    elif how == "a number of no kernel":
        events.write_text(re.sub('"id":1,', f'"id":{2**64},', events.read_text(), count=1))
    elif how in EVENTS:
        events.write_bytes(re.sub(*EVENTS[how], events.read_bytes(), count=1))
    else:
        events.write_bytes(events.read_bytes()[:-20])


# What takes the place of what in events.jsonl.
EVENTS = {
    "no UTF-8": (b'"comm":"task', b'"comm":"\xff'),
    "a negative time": (b'"ts_ns":', b'"ts_ns":-'),
    "a huge time": (b'"duration_ns":', b'"duration_ns":99999999999999999999'),
    "a header without schema": (b'"schema":2,', b""),
}
SPOILT = [
    ("no UTF-8 in run.json", NotARecord, "run.json is cut or damaged"),
    ("a time of no calendar", NotARecord, "run.json is cut or damaged"),
    ("a number of no kernel", BadTrace, "a-6.12/events.jsonl"),
    *((how, BadTrace, "a-6.12/events.jsonl:") for how in EVENTS),
    ("no run.json", NotARecord, "its run.json is missing"),
    ("cut run.json", NotARecord, "run.json is cut or damaged"),
    ("newer", NotARecord, "of a newer klp"),
    ("cut events", BadTrace, "torn"),
]


@pytest.mark.parametrize(("how", "kind", "says"), SPOILT)
def test_a_spoilt_run_is_refused_where_named_and_left_out_where_not(
    runs: Path, how: str, kind: type[KlpError], says: str
) -> None:
    spoil(runs / "a-6.12", how)
    error = failure("query", "SELECT 1", "a-6.12")
    assert isinstance(error, kind)
    assert says in error.message
    assert ask("SELECT DISTINCT run FROM events") == [{"run": "b-6.1"}]
    done = klp_("query", "SELECT 1")
    assert f"left out: {error.message}" in " ".join(done.stderr.split())


@pytest.mark.parametrize("words", [
    ("analyze", "a-6.12"), ("report", "a-6.12"), ("report", "a-6.12", "--perfetto", "p"),
    ("query", "SELECT 1", "a-6.12"), ("compare", "a-6.12", "b-6.1"),
])  # fmt: skip
@pytest.mark.parametrize("how", EVENTS)
def test_whoever_reads_a_spoilt_trace_names_its_file_and_line(
    runs: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], how: str
) -> None:
    monkeypatch.chdir(runs)
    for folder in ("a-6.12", "b-6.1"):
        write_run(runs / f"{folder}.new", sample(), plans=())  # whose transitions are in its trace alone
        remove_tree(runs / folder)
        (runs / f"{folder}.new").rename(runs / folder)
    spoil(runs / "a-6.12", how)
    error = failure(*words)
    assert isinstance(error, BadTrace)
    assert re.match(r".*a-6\.12/events\.jsonl:\d+: ", error.message)


def test_a_folder_that_is_no_run(runs: Path, tmp_path: Path) -> None:
    assert "not a run folder" in failure("query", "SELECT 1", str(tmp_path)).message


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), ["a-6.12", "b-6.1"]),
        (("--kernel", "6.1"), ["b-6.1"]),
        (("--kernel", "6.12.117"), ["a-6.12"]),
        (("--verdict", "held"), []),
        (("--verdict", "violated"), ["a-6.12", "b-6.1"]),
        (("--since", "2026-01-01"), ["b-6.1"]),
        (("--since", "1m"), []),
    ],
)
def test_runs_are_listed_with_a_filter(runs: Path, words: tuple[str, ...], names: list[str]) -> None:
    told = json.loads(klp_("runs", *words, "--json").stdout)
    assert [each["run"] for each in told] == names
    shown = klp_("runs", *words).stdout
    assert [line.split()[0] for line in shown.splitlines()[1:]] == names


def test_a_kernel_is_not_taken_for_one_whose_name_begins_alike(runs: Path) -> None:
    told = json.loads(klp_("runs", "--kernel", "6.1", "--json").stdout)
    assert [each["kernels"] for each in told] == [["6.1.192"]]


def test_a_cut_run_is_listed_with_the_reason(runs: Path) -> None:
    spoil(runs / "a-6.12", "cut run.json")
    (runs / "not-a-run").mkdir()
    told = json.loads(klp_("runs", "--json").stdout)
    assert [each["run"] for each in told] == ["a-6.12", "b-6.1"]
    assert "cut or damaged" in told[0]["error"]
    assert "cut or damaged" in " ".join(klp_("runs").stdout.split())


def test_a_bad_date(runs: Path) -> None:
    assert "--since soon: no date" in failure("runs", "--since", "soon").message


def test_runs_are_removed_after_asking(runs: Path) -> None:
    assert klp_("runs", "rm", "a-6.12", stdin="n\n").exit_code == 1
    assert (runs / "a-6.12").is_dir()
    assert klp_("runs", "rm", "a-6.12", stdin="y\n").exit_code == 0
    assert not (runs / "a-6.12").exists()
    assert klp_("runs", "rm", "--yes", "latest").exit_code == 0
    assert list(runs.iterdir()) == []


def test_the_tables_of_a_removed_run_go_with_it(runs: Path, cache: CacheLayout) -> None:
    ask("SELECT 1")
    before = set(cache.tables.iterdir())
    assert len(before) == 2
    assert klp_("runs", "rm", "--yes", "a-6.12").exit_code == 0
    [left] = cache.tables.iterdir()
    assert left in before
    ask("SELECT 1")
    assert set(cache.tables.iterdir()) == {left}  # those of the other run


def test_what_is_no_run_is_never_removed(runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "photos"
    other.mkdir()
    (other / "one.jpg").touch()
    assert "not a run folder" in failure("runs", "rm", "--yes", "a-6.12", str(other)).message
    assert (other / "one.jpg").exists()
    assert (runs / "a-6.12").exists()
