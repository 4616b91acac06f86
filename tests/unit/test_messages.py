# SPDX-License-Identifier: Apache-2.0
"""What a user is told who named nothing, or the wrong thing: what is wrong with it, and a way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from klp.analysis.evidence import Verdict
from klp.analysis.history import history
from klp.analysis.result import Check
from klp.analysis.rules.registry import RULES, judge_all
from klp.analysis.selftests import CaseResult, KernelResult, ScriptResult, SelftestsResult, Status
from klp.check.registry import chosen
from klp.errors import did_you_mean, errno_name
from klp.records.database import TABLES
from klp.report.selftest_table import selftests_table
from tests.unit.everything import everything
from tests.unit.runfolders import sample, write_run
from tests.unit.test_cli import Klp, error_line, run  # noqa: F401

NAME = "20261130-105406-6.12.118"
PATCH = "--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a run in the folder of runs."""
    write_run(tmp_path / "runs" / NAME, sample())
    monkeypatch.setenv("KLP_RUNS", str(tmp_path / "runs"))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "says", "way_out"),
    [
        (["check"], "nothing to check", "klp check fix.patch; or a folder with a Kbuild, a .c file"),
        (["build"], "nothing to build", "klp build fix.patch; or a folder with a Kbuild, a .c file"),
        (["make"], "nothing to make", "(klp make fix.patch)"),
        (["make", "runs"], "runs: is a folder", "klp build runs"),
        (["make", "my_fix.patch"], "my_fix.patch: no such file", "did you mean my-fix.patch?"),
        (["make", "fix.txt"], "fix.txt: no such file", "looked for /"),
        (["runs", "--kernel", "6.13"], "unknown kernel 6.13", "did you mean 6.1 or 6.12?"),
        (["runs", "--kernel", "nosuch"], "unknown kernel nosuch", "known: 6.1, 6.12"),
        (["check", "--resume", "nosuch"], "nosuch: no such run", "klp runs"),
        (["check", "version-banner", "--against", "nosuch"], "nosuch: no such run", "klp runs"),
        (["check", "--resume", NAME], f"{NAME}: no check.json in it", "name a folder of klp check"),
        (["check", "fix", "--resume", "a b"], "name no PATCH", "klp check --resume 'a b'"),
        (["check", "version-banner", "-l", "foo"], "--livepatch foo", "it holds version-banner"),
        (["cp", "my-fix.patc", "guest:/root"], "my-fix.patc: no such file or folder", "my-fix.patch?"),
        (["cp", "elsewhere", "guest:/root"], "elsewhere: no such file or folder", "looked for /"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_and_the_way_out(
    run: Klp, here: Path, words: list[str], says: str, way_out: str  # noqa: F811
) -> None:  # fmt: skip
    (here / "my-fix.patch").write_text(PATCH)
    done = run(*words)
    assert done.returncode == 2
    assert says in error_line(done)
    assert way_out in done.stderr


def test_a_folder_that_is_in_the_way_names_the_ways_out(run: Klp, here: Path) -> None:  # noqa: F811
    (here / "my-fix.patch").write_text(PATCH)
    done = run("make", "my-fix.patch", "-o", "runs")
    assert (done.returncode, error_line(done)) == (2, "error: runs: not empty")
    assert "-o DIR" in done.stderr
    assert "remove it" in done.stderr


@pytest.mark.parametrize("kernel", ["6.12", "6.12.118", "7.2", "6.1.170-x"])
def test_runs_of_a_kernel_or_a_release_of_one_may_be_none(run: Klp, here: Path, kernel: str) -> None:  # noqa: F811
    assert run("runs", "--kernel", kernel, "--verdict", "violated").returncode == 0


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("__init_foo", "x86_init_noop"),
        ("__init_foo", "sg_init_one"),
        ("nosuchmod", "fschmd"),
        ("find_busiest_group", "fix_fullness_group"),
    ],
)
def test_a_name_that_is_not_near_is_no_guess(word: str, known: str) -> None:
    assert did_you_mean(word, [known]) == ""


def test_a_name_that_is_near_spares_the_list_of_all(run: Klp, here: Path) -> None:  # noqa: F811
    near, far = run("run", "version-baner"), run("run", "frobnicate")
    assert "version-banner" in near.stderr
    assert "shadow-cases" not in near.stderr
    assert "shadow-cases" in far.stderr


@pytest.mark.parametrize("words", [["ps"], ["down", "--all"]])
def test_no_guest_is_told(run: Klp, words: list[str]) -> None:  # noqa: F811
    done = run(*words)
    assert (done.returncode, done.stdout) == (0, "no guest is up (klp up starts one)\n")


def test_a_rule_that_is_named_is_shown_in_full(run: Klp) -> None:  # noqa: F811
    shown = run("rules", "T4", "C1").stdout
    assert RULES["T4"].text in shown
    assert RULES["T4"].source in shown
    assert ", ".join(RULES["C1"].needs.symbols) in shown
    assert RULES["T5"].text not in shown
    unknown = run("rules", "T44")
    assert (unknown.returncode, error_line(unknown)) == (2, "error: T44: no such rule")


def test_the_size_of_a_page_is_no_zero(run: Klp, here: Path) -> None:  # noqa: F811
    wrote = run("report", NAME).stdout
    assert " kB)" in wrote or " MB)" in wrote
    assert "(0 kB)" not in wrote
    assert "0.0 MB" not in wrote


def test_help_names_what_there_is(run: Klp) -> None:  # noqa: F811
    told = " ".join(run("query", "--help").stdout.split())
    assert f"Tables: {', '.join(TABLES)};" in told
    quick = " ".join(run("check", "--help").stdout.split())
    assert f"Only {', '.join(chosen((), quick=True))}." in quick
    assert "version-banner" in run("trace", "--help").stdout.partition("Options:")[0]


def test_scenarios_are_listed_below_headings(run: Klp) -> None:  # noqa: F811
    heading, *lines = run("check", "--list").stdout.splitlines()
    assert heading.split() == ["scenario", "--quick", "CPUs", "what", "it", "does"]
    assert next(each for each in lines if each.startswith("life ")).split()[1] == "yes"
    assert next(each for each in lines if each.startswith("four-cpus ")).split()[1] == "4"


def test_a_trace_is_told_in_names_not_in_numbers(run: Klp, here: Path) -> None:  # noqa: F811
    told = run("analyze", NAME).stdout
    assert "running: EBUSY, patch_state 0 to 0" in told
    assert ", before init: " in told
    assert "errno" not in told
    assert errno_name(-22) == errno_name(22) == "EINVAL"
    assert errno_name(0) == "success"


def test_what_sysfs_shows_is_spelt_as_json_spells_it() -> None:
    """Python's True stands in no evidence of a trace in which every rule is judged."""
    words = [
        each.words for verdict in judge_all(history(everything().numbered())) for each in verdict.evidence
    ]
    assert any("enabled is true, traced true" in each for each in words)
    assert not any("True" in each or "False" in each for each in words)


@pytest.mark.parametrize(
    ("scripts", "planned", "says"),
    [
        (1, 1, "1 script, 1 case: 1 ok"),
        (2, 2, "2 scripts, 2 cases: 2 ok"),
        (1, 3, "1 of 3 scripts, 1 case: 1 ok"),
    ],
)
def test_selftests_are_counted(scripts: int, planned: int, says: str) -> None:
    held = Check(name="rule T1", verdict=Verdict.HELD, evidence="")
    case = CaseResult(name="basic", status=Status.OK, seconds=1.0, detail="")
    script = ScriptResult(
        name="test-x.sh", status=Status.OK, exit_status=0, seconds=1.0, message="", report=(),
        cases=(case,), checks=(held, held), folder="",
    )  # fmt: skip
    kernel = KernelResult(
        name="6.12", release="6.12.118", kernel_digest="", image_digest="", accelerator="tcg", modules={},
        planned=tuple(f"{number}.sh" for number in range(planned)), scripts=(script,) * scripts,
    )  # fmt: skip
    result = SelftestsResult(
        schema=1, klp="0", qemu="", begun_at=0.0, ended_at=1.0, kernels=(kernel,), error=None
    )  # fmt: skip
    console = Console(width=200)
    with console.capture() as shown:
        console.print(selftests_table(result))
    assert says in shown.get().splitlines()
    assert "2 checks held" in shown.get()
