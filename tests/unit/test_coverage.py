# SPDX-License-Identifier: Apache-2.0
"""`klp coverage`: which tests observe each rule, and what must be said where none does."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from klp.analysis.coverage import Cell, Reason, RecordedTest, coverage_of
from klp.analysis.evidence import Verdict
from klp.analysis.rules.registry import RULES
from klp.cli.coverage import coverage as command
from klp.errors import HostLacks, UsageError
from klp.images.names import known_kernels
from klp.records import coverage
from klp.report.coverage import coverage_table

HELD, VIOLATED = Verdict.HELD, Verdict.VIOLATED
TWO = [RULES["T1"], RULES["T4"]]


def record(test: str, kernel: str = "6.12", outcome: str = "passed", breaks=(), **verdicts) -> RecordedTest:
    return RecordedTest(
        test=test, kernel=kernel, release=f"{kernel}.1", outcome=outcome, verdicts=verdicts, breaks=breaks
    )


def cell_of(records, rule: str = "T4", kernel: str = "6.12", reasons=()) -> Cell:
    found = coverage_of(records, TWO, ["6.12", "7.2"], reasons)
    return {(name, where): cell for name, where, cell in found.cells()}[rule, kernel]


def shown(records, reasons=()) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(coverage_table(coverage_of(records, TWO, ["6.12", "7.2"], reasons)))
    return console.file.getvalue()


def test_a_test_counts_once_for_the_kernel_it_held_the_rule_on() -> None:
    records = [record("a", T4=HELD), record("a", T4=HELD), record("b", T4=HELD), record("c", "7.2")]
    assert cell_of(records).held == ("a", "b")
    assert cell_of(records, kernel="7.2").held == ()
    assert cell_of(records, rule="T1").gap


@pytest.mark.parametrize("outcome", ["failed", "skipped"])
def test_what_did_not_pass_observes_nothing(outcome: str) -> None:
    records = [
        record("a", outcome=outcome, T4=HELD),
        record("b", outcome=outcome, breaks=("T1",), T1=VIOLATED),
    ]
    assert cell_of(records).gap
    assert cell_of(records, rule="T1").gap


def test_broken_on_purpose_is_apart_from_violated() -> None:
    records = [
        record("says so", breaks=("T4",), T4=VIOLATED),
        record("does not", outcome="failed", breaks=("T1",), T4=VIOLATED),
    ]
    cell = cell_of(records)
    assert (cell.held, cell.broken, cell.violated) == ((), ("says so",), ("does not",))
    assert not cell.gap
    assert cell_of(records[:1]).observed
    assert not coverage_of(records, TWO[1:], ["6.12"], ()).good
    assert coverage_of(records[:1], TWO[1:], ["6.12"], ()).good


def test_a_reason_is_for_its_rules_and_kernels_alone() -> None:
    here, everywhere = (Reason(rules=("T4",), kernels=where, reason="why") for where in (("7.2",), ()))
    assert cell_of([], reasons=[here]).gap
    assert not cell_of([], reasons=[here], kernel="7.2").gap
    assert not cell_of([], reasons=[everywhere]).gap
    assert cell_of([], rule="T1", reasons=[everywhere]).gap


def test_the_table_tells_counts_reasons_and_gaps() -> None:
    records = [record("a", T4=HELD), record("b", breaks=("T4",), T4=VIOLATED)]
    text = shown(records, [Reason(rules=("T1",), kernels=("6.12",), reason="nobody can see it")])
    lines = {line[:2]: " ".join(line.split()) for line in text.splitlines()}
    assert lines["T4"].endswith(" 1 +1 broken no test")
    assert lines["T1"].endswith(" (1) no test")
    assert "(1) nobody can see it" in text
    assert "4 cells: 1 observed, 1 explained, 2 with no test" in text
    assert "6.12 (6.12.1): 2 tests passed" in text
    assert "7.2 (not run): 0 tests passed" in text


def test_the_table_names_who_violated_and_reasons_that_are_not_needed() -> None:
    text = shown([record("bad", outcome="failed", T4=VIOLATED), record("good", T1=HELD)],
                 [Reason(rules=("T1",), kernels=("6.12",), reason="nobody can")])  # fmt: skip
    assert "T4 on 6.12: violated in bad" in text
    assert "T1 on 6.12: observed, and yet said to be unobservable: nobody can" in text
    assert "1 failed (and count for nothing)" in text


def test_the_reasons_are_about_rules_and_kernels_that_there_are() -> None:
    for each in coverage.unobservable():
        assert each.rules
        assert set(each.rules) <= set(RULES)
        assert set(each.kernels) <= set(known_kernels())
        assert each.reason


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file in which every rule but those without a possible test was held on 6.12."""
    file = tmp_path / "build" / "verdicts.jsonl"
    coverage.begin_session(file)
    excused = {rule for each in coverage.unobservable() for rule in each.rules}
    coverage.add_test(file, record("all", **{rule: HELD for rule in RULES if rule not in excused}))
    return file


def test_records_come_back_as_they_were_written(file: Path) -> None:
    coverage.add_test(file, record("b", "7.2", "failed", ("T1",), T1=VIOLATED))
    first, second = coverage.read_tests((file,))
    assert second == record("b", "7.2", "failed", ("T1",), T1=VIOLATED)
    assert first.has("L6", HELD)
    coverage.begin_session(file)
    assert coverage.read_tests((file,)) == ()


@pytest.mark.parametrize("line", ['{"test":"a","ker', "{}", '{"type":"init","probe":"klptransition"}'])
def test_a_line_that_is_none_is_named(file: Path, line: str) -> None:
    with file.open("a") as opened:
        opened.write(line + "\n")
    with pytest.raises(UsageError, match=r"verdicts\.jsonl:2: no record of a test"):
        coverage.read_tests((file,))


def test_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "no").write_text("a file")
    with pytest.raises(HostLacks, match=r"no/verdicts\.jsonl: "):
        coverage.begin_session(tmp_path / "no" / "verdicts.jsonl")


def call(*words: object):
    return CliRunner().invoke(command, [str(each) for each in words], standalone_mode=False)


def test_an_empty_cell_makes_the_exit_code_1(file: Path) -> None:
    assert call(file, "-k", "6.12").return_value == 0
    done = call(file, "-k", "6.12", "-k", "7.2")
    assert done.return_value == 1
    assert "no test" in done.output
    assert call(file).return_value == 1  # by default every kernel must have been run


def test_json_names_the_tests(file: Path) -> None:
    found = json.loads(call(file, "-k", "6.12", "--rule", "T4", "--json").output)
    assert found["good"] is True
    assert [each["kernel"] for each in found["columns"]] == ["6.12"]
    assert [(row["rule"], row["cells"][0]["held"]) for row in found["rows"]] == [("T4", ["all"])]


def test_one_rule_is_told_with_who_observes_it_and_who_does_not(file: Path) -> None:
    coverage.add_test(file, record("blind"))
    text = call(file, "-k", "6.12", "--rule", "T4").output
    assert "6.12 held: all\n" in text
    assert "6.12 not observed: blind\n" in text


def test_misuse_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "build/verdicts.jsonl: No such file" in call().exception.message
    assert call("--rule", "Q1").exception.message == "Q1: no such rule"
    (tmp_path / "empty").touch()
    assert "no test of a kernel is recorded" in call(tmp_path / "empty").exception.message


def test_a_record_is_one_line(file: Path) -> None:
    lines = file.read_bytes().splitlines()
    assert [msgspec.json.decode(line)["test"] for line in lines] == ["all"]
