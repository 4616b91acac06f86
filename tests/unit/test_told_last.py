# SPDX-License-Identifier: Apache-2.0
"""What is at fault comes last and once: a compile error, and scenarios that it kept from being tried."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from klp.analysis.checked import NOT_TRIED
from klp.analysis.evidence import Verdict
from klp.check.host import _why_not_built
from klp.cli import main
from klp.errors import BuildFailed
from klp.report.check_table import check_problems, check_table
from tests.unit.test_check import outcome, result

OUTPUT = """\
a.c: In function 'f':
a.c:3:5: warning: unused variable 'x' [-Wunused-variable]
    3 |     int x;
      |         ^
a.c:7:9: error: 'y' undeclared
    7 |         y = 1;
      |         ^
a.c:9:1: error: expected ';'
    9 | }
      | ^"""
SHOWN = ("    7 |         y = 1;", "      |         ^")
FAILED = BuildFailed("a.c:7: 'y' undeclared", output=OUTPUT)
WHY = f"{NOT_TRIED}it could not be built: see `build`"


def test_the_error_is_told_apart_from_what_else_the_compiler_said() -> None:
    shown, others = FAILED.parts()
    assert shown == SHOWN
    lines = OUTPUT.splitlines()
    assert others == (*lines[:4], *lines[7:])


@pytest.mark.parametrize(
    "output",
    ["", 'ERROR: modpost: "f" [a.ko] undefined!', "make: *** No rule to make target 'n.o'.  Stop."],
)
def test_output_without_the_place_of_the_error_is_kept_whole(output: str) -> None:
    failure = BuildFailed("p: something went wrong", output=output)
    assert failure.parts() == ((), tuple(output.splitlines()))


def test_a_compile_error_ends_what_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise FAILED

    monkeypatch.setattr(main, "_invoke", fails)
    monkeypatch.setattr(sys, "argv", ["klp", "run", "a.c"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-3:] == ["error: a.c:7: 'y' undeclared", *SHOWN]
    assert sum("'y' undeclared" in each for each in lines) == 1


def test_a_check_has_the_error_and_its_line_first_and_all_once() -> None:
    reasons = _why_not_built(FAILED)
    assert reasons[:3] == ("a.c:7: 'y' undeclared", *SHOWN)
    assert sum("'y' undeclared" in each for each in reasons) == 1
    long = BuildFailed("a.c:1: no", output="\n".join(f"line {each}" for each in range(30)))
    assert _why_not_built(long)[-1] == "and 20 more lines"


def test_scenarios_that_were_not_tried_are_one_line() -> None:
    names = ("build", "life", "cycles", "held-up")
    told = result(
        outcome("build", Verdict.VIOLATED, "a.c:7: 'y' undeclared"),
        *(outcome(each, Verdict.NOT_OBSERVED, WHY) for each in names[1:]),
        scenarios=names,
    )
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(check_table(told))
    for _, text in check_problems(told, "/runs"):
        console.print(text)
    lines = [each for each in console.export_text().splitlines() if "not tried" in each]
    assert len(lines) == 1
    assert "life on 6.12 and 2 more: not tried, for it could not be built" in lines[0]
    assert "held-up" not in console.export_text()


def test_faults_come_after_what_was_only_not_observed() -> None:
    told = result(
        outcome("life", Verdict.VIOLATED, "it leaks"), outcome("cycles", Verdict.NOT_OBSERVED, "no target")
    )
    assert [each.scenario for each, _ in check_problems(told, "/runs")] == ["cycles", "life"]
