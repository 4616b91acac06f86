# SPDX-License-Identifier: Apache-2.0
"""`klp compare`: which runs words name, what it prints, its exit codes, and runs that cannot be read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from klp.analysis.compare.values import CompareLimits
from klp.cli.main import klp
from klp.errors import KlpError
from klp.files import remove_tree
from klp.records.encoding import decode_run, encode
from klp.records.sets import limits, read_set
from klp.settings import Settings
from tests.unit.comparisons import check_of, outcome, write_check
from tests.unit.runfolders import sample, write_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs with two calm ones and one with a straggler; the settings name it."""
    for name in [each for each in os.environ if each.startswith("KLP_")]:
        monkeypatch.delenv(name)
    root = tmp_path / "runs"
    monkeypatch.setenv("KLP_RUNS", str(root))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_run(root / "a-calm", sample(hold=False))
    write_run(root / "b-calm", sample(hold=False))
    write_run(root / "c-held", sample())
    return root


@pytest.fixture
def repeated(runs: Path) -> tuple[str, str]:
    """Patterns of two sets beside these, each of five repetitions: calm ones, and such with a straggler."""
    for number in range(5):
        write_run(runs / f"calm-{number}", sample(hold=False))
        write_run(runs / f"held-{number}", sample())
    return "calm-*", "held-*"


def klp_(*words: str) -> Result:
    return CliRunner().invoke(klp, ["compare", *words], standalone_mode=False)


def names(root: Path, *words: str) -> list[str]:
    return [each.name for each in read_set(words, root).runs]


def test_what_words_name(runs: Path, tmp_path: Path) -> None:
    assert names(runs, "a-calm") == ["a-calm"]
    assert names(runs, "latest") == ["c-held"]
    assert names(runs, "runs") == names(runs, str(runs)) == ["a-calm", "b-calm", "c-held"]
    assert names(runs, "*-calm") == names(runs, f"{runs}/*-calm") == ["a-calm", "b-calm"]
    assert names(runs, "runs/[bc]*") == ["b-calm", "c-held"]
    assert names(runs, "b-calm", "*-calm", str(runs / "b-calm")) == ["b-calm", "a-calm"]


def test_a_set_that_became_worse_exits_with_1(repeated: tuple[str, str]) -> None:
    done = klp_(*repeated)
    assert done.return_value == 1
    told = " ".join(done.stdout.split())
    assert "6.12 livepatch-sample" in told
    assert "regression straggler: patching held up by task3 sleeping in cmdline_proc_show" in told
    straggler = (
        "base: 0 of 5; new: 5 of 5: task3[3] for 2.00 s, switched by retry pass (significant: p 0.004"
    )
    assert straggler in told
    assert "4 regressions, 0 told, 0 better; repetitions compared: 5 against 5; 3 tests" in told


def test_one_run_against_one_tells_what_differs_and_that_it_may_be_chance(runs: Path) -> None:
    done = klp_("a-calm", "c-held")
    assert done.return_value == 0
    told = " ".join(done.stdout.split())
    assert "told straggler: patching held up by task3 sleeping in cmdline_proc_show" in told
    assert "(one against one cannot tell a change from chance)" in told
    assert "one run against one cannot tell a change from chance: only faults count" in told
    assert "0 regressions, 4 told, 0 better; repetitions compared: 1 against 1; 0 tests" in told


def test_but_a_loss_of_evidence_exits_with_1(runs: Path) -> None:
    file = runs / "b-calm/run.json"
    whole = decode_run(file.read_bytes())
    [plan] = whole.plans
    half = msgspec.structs.replace(plan, transitions=plan.transitions[:1])
    file.write_bytes(encode(msgspec.structs.replace(whole, plans=(half,))))
    done = klp_("a-calm", "b-calm")
    assert done.return_value == 1
    assert "regression transitions: unpatching" in " ".join(done.stdout.split())


def test_one_that_did_not_exits_with_0(runs: Path) -> None:
    for words in (("a-calm", "b-calm"), ("c-held", "a-calm"), ("c-held", "c-held")):
        assert klp_(*words).return_value == 0, words


def test_json_says_the_same(repeated: tuple[str, str]) -> None:
    done = klp_(*repeated, "--json")
    assert done.return_value == 1
    told = json.loads(done.stdout)
    assert told["base"]["runs"] == [f"calm-{number}" for number in range(5)]
    kinds = [each["kind"] for each in told["findings"] if each["grade"] == "regression"]
    assert kinds == ["outcome", "straggler", "straggler", "passes"]
    assert told["limits"]["alpha"] == 0.05


def test_sets_by_options(runs: Path) -> None:
    done = klp_("--base", "a-calm", "--base", "b-calm", "--new", "c-held", "--json")
    assert json.loads(done.stdout)["base"]["runs"] == ["a-calm", "b-calm"]
    more = klp_("a-calm", "c-held", "--base", "b-calm", "--json")
    assert json.loads(more.stdout)["base"]["runs"] == ["a-calm", "b-calm"]


def test_limits_are_settings(repeated: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits(Settings()) == CompareLimits(ignore=Settings().compare_ignore)
    monkeypatch.setenv("KLP_COMPARE_ALPHA", "0.001")
    told = json.loads(klp_(*repeated, "--json").stdout)
    assert told["limits"]["alpha"] == 0.001
    assert "straggler" not in [each["kind"] for each in told["findings"] if each["grade"] == "regression"]


def failure(*words: str) -> str:
    done = klp_(*words)
    assert isinstance(done.exception, KlpError)
    assert done.exception.exit_code == 2
    assert "\n" not in done.exception.message
    assert done.exception.hint
    return done.exception.message


def test_misuse_is_one_line(runs: Path, tmp_path: Path) -> None:
    assert failure("a-calm") == "a-calm: name two, BASE and NEW"
    assert failure() == "nothing to compare"
    assert failure("--new", "a-calm") == "nothing to compare"
    assert failure("a-calm", "none") == "none: no such run"
    assert failure("a-calm", "none*") == "none*: matches no run folder"
    (tmp_path / "empty").mkdir()
    assert "not a run folder" in failure("a-calm", "empty")
    assert "not a run folder" in failure("a-calm", str(write_run(runs / "d", sample()) / "run.json"))


def test_a_run_that_cannot_be_read_is_one_line(runs: Path) -> None:
    cut = write_run(runs / "cut", sample()) / "run.json"
    text = cut.read_bytes()
    cut.write_bytes(text[:-9])
    assert "run.json is cut or damaged" in failure("a-calm", "cut")
    assert "run.json is cut or damaged" in failure("a-calm", str(runs))  # in a set, too
    cut.write_bytes(text.replace(b'"schema": 2', b'"schema": 3', 1))
    assert "run.json is of a newer klp (schema 3; this one reads 2)" in failure("a-calm", "cut")
    cut.unlink()
    assert "its run.json is missing: it was cut short" in failure("a-calm", "cut")


def test_a_trace_that_is_cut_is_one_line_where_it_is_needed(runs: Path) -> None:
    bare = write_run(runs / "bare", sample(), plans=())
    assert klp_("bare", "bare").return_value == 0
    trace = bare / "events.jsonl"
    trace.write_bytes(trace.read_bytes()[:-9])
    assert "torn" in failure("bare", "a-calm")
    trace.unlink()
    assert "no events.jsonl" in failure("bare", "a-calm")


def test_nothing_in_common_is_one_line(runs: Path) -> None:
    for name in ("x", "y"):
        run = write_run(runs / name, sample(hold=False)) / "run.json"
        whole = decode_run(run.read_bytes())
        plans = (*whole.plans, *whole.plans)
        renamed = (
            msgspec.structs.replace(each, name=f"{name}{number}") for number, each in enumerate(plans)
        )
        run.write_bytes(encode(msgspec.structs.replace(whole, plans=tuple(renamed))))
    assert failure("x", "y").startswith("nothing to compare: only in the base: 6.12 x0; ")
    assert klp_("x", "x").return_value == 0


@pytest.fixture
def checks(runs: Path) -> Path:
    """Two checks beside the runs: in the second one a task holds up the scenario called life."""
    outcomes = (outcome("build", folder=""), outcome("life"), outcome("reverse"))
    write_check(runs / "d-check", check_of(*outcomes))
    write_check(runs / "e-check", check_of(*outcomes), life=sample())
    return runs


def test_checks_are_compared_scenario_by_scenario(checks: Path) -> None:
    done = klp_("d-check", "e-check", "--json")
    told = json.loads(done.stdout)
    assert {each["place"]["scenario"] for each in told["findings"]} == {"life"}
    assert [each["place"]["scenario"] for each in told["compared"]] == ["", "build", "life", "reverse"]
    assert klp_("d-check", "d-check").return_value == 0
    assert [each.name for each in read_set(["?-check"], checks).checks] == ["d-check", "e-check"]
    both = read_set([str(checks)], checks)
    assert (len(both.runs), len(both.checks)) == (3, 2)


def test_a_check_that_cannot_be_read_is_one_line(checks: Path) -> None:
    file = checks / "e-check/check.json"
    text = file.read_bytes()
    file.write_bytes(text[:-9])
    assert "check.json is cut or damaged" in failure("d-check", "e-check")
    file.write_bytes(text.replace(b'"schema": 2', b'"schema": 3', 1))
    assert "check.json is of a newer klp (schema 3; this one reads 2)" in failure("d-check", "e-check")
    file.write_bytes(text)
    (checks / "e-check/6.12/fix/life/run.json").unlink()
    assert "fix/life: its run.json is missing" in failure("d-check", "e-check")
    remove_tree(checks / "e-check/6.12/fix/life")
    assert "6.12/fix/life: no such run" in failure("d-check", "e-check")
