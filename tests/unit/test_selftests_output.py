# SPDX-License-Identifier: Apache-2.0
"""A selftest script's cases: counted in its text, read from recorded outputs of the three kernels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from klp.analysis.selftest_output import (
    PlannedCase,
    case_results,
    last_words,
    logged_cases,
    open_case,
    planned_cases,
    ran_cases,
    script_outcome,
)
from klp.analysis.selftests import CaseResult, Status, tally

DATA = Path(__file__).parent.parent / "data" / "selftests"
LISTED = json.loads((DATA / "list.json").read_text())
OUTPUTS = sorted(DATA.glob("[0-9]*/test-*.txt"))
LIVEPATCH = ("basic function patching", "multiple livepatches", "atomic replace livepatch")


def plan(*names: str) -> tuple[PlannedCase, ...]:
    return tuple(PlannedCase(name, conditional=False) for name in names)


def results(
    output: str, exit_status: int | None, *planned: PlannedCase
) -> tuple[tuple[CaseResult, ...], Status, str]:
    cases = case_results(planned, output, exit_status, float)
    return (cases, *script_outcome(cases, output, exit_status))


def statuses(cases: tuple[CaseResult, ...]) -> list[Status]:
    return [case.status for case in cases]


def recorded(name: str) -> str:
    return (DATA / name).read_text()


def test_cases_are_counted_in_the_text() -> None:
    script = """\
# start_test "in a comment"
start_test "plain"
if [[ "$HAS" == "1" ]]; then
\tstart_test "with \\"quotes\\"" # and a comment
fi
start_test 'the first of $MOD'
function start_test {
"""
    assert planned_cases(script) == (
        PlannedCase("plain", conditional=False),
        PlannedCase('with "quotes"', conditional=True),
        PlannedCase("the first of $MOD", conditional=False),
    )


def test_the_numbers_of_the_three_kernels() -> None:
    counts = {kernel: (len(listed), sum(map(len, listed.values()))) for kernel, listed in LISTED.items()}
    assert counts == {"6.1": (6, 22), "6.12": (7, 25), "7.2": (8, 32)}
    assert len(OUTPUTS) == 6 + 7 + 8


@pytest.mark.parametrize("file", OUTPUTS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_recorded_outputs(file: Path) -> None:
    names = LISTED[file.parent.name][f"{file.stem}.sh"]
    cases, status, message = results(file.read_text(), 0, *plan(*names))
    assert [case.name for case in cases] == names
    assert set(statuses(cases)) == {Status.OK}
    assert (status, message) == (Status.OK, "")


def test_a_failed_case_keeps_its_difference() -> None:
    cases, status, message = results(recorded("failed-6.12.txt"), 1, *plan(*LIVEPATCH))
    assert statuses(cases) == [Status.OK, Status.FAILED, Status.NOT_RUN]
    assert "+livepatch: nobody expects this" in cases[1].detail.splitlines()
    assert status is Status.FAILED
    assert message == "case 'multiple livepatches' failed: livepatch kselftest(s) failed"
    assert tally(cases) == "1 ok, 1 not ok, 1 not run"


def test_a_script_that_dies_names_its_case() -> None:
    output = recorded("cut-6.12.txt")
    cases, status, message = results(output, 137, *plan(*LIVEPATCH))
    assert statuses(cases) == [Status.OK, Status.DIED, Status.NOT_RUN]
    assert status is Status.FAILED
    assert message == "case 'multiple livepatches' has no result (the script was killed by signal 9)"
    assert open_case(output) == "multiple livepatches"
    assert open_case(recorded("6.12/test-livepatch.txt")) == ""


def test_what_a_script_says_when_it_gives_up() -> None:
    cases, _, message = results(recorded("gave-up-6.12.txt"), 1, *plan(*LIVEPATCH))
    assert statuses(cases) == [Status.OK, Status.DIED, Status.NOT_RUN]
    assert "test_klp_no_such_module" in cases[1].detail
    assert "exited 1" in message
    assert "test_klp_no_such_module" in message


def test_the_skip_code_is_honoured() -> None:
    cases, status, message = results(recorded("skipped-6.1.txt"), 4, *plan(*LIVEPATCH))
    assert statuses(cases) == [Status.OK, Status.SKIPPED, Status.SKIPPED]
    assert status is Status.SKIPPED
    assert message.startswith("unable to load module test_klp_no_such_module")
    assert last_words("skip all tests: must be run as root\n") == "skip all tests: must be run as root"


def test_a_failed_case_outweighs_the_skip_code() -> None:
    _, status, _ = results("TEST: a ... not ok\n", 4, *plan("a"))
    assert status is Status.FAILED


def test_output_between_a_case_and_its_result() -> None:
    [case] = ran_cases("TEST: a ... kill: no such process\nok for now\nok\nafterwards\n")
    assert (case.status, case.detail) == (Status.OK, "kill: no such process\nok for now")
    [case] = ran_cases("TEST: a ... ok for now\n")
    assert case.status is Status.DIED


def test_a_case_that_never_ran() -> None:
    output = "TEST: a ... ok\n"
    conditional = PlannedCase("b", conditional=True)
    cases, status, _ = results(output, 0, *plan("a"), conditional)
    assert statuses(cases) == [Status.OK, Status.SKIPPED]
    assert status is Status.OK
    cases, status, message = results(output, 0, *plan("a", "b"))
    assert statuses(cases) == [Status.OK, Status.NOT_RUN]
    assert status is Status.FAILED
    assert message == "case 'b' never ran, though the script exited 0"
    cases, status, _ = results(output, None, *plan("a"), conditional)
    assert statuses(cases) == [Status.OK, Status.NOT_RUN]


def test_names_made_by_the_shell() -> None:
    output = "TEST: load of x ... ok\nTEST: loop 1 ... ok\nTEST: loop 2 ... ok\nTEST: last ... ok\n"
    cases, _, _ = results(output, 0, *plan("load of $MOD", "loop ${i}", "last"))
    assert [case.name for case in cases] == ["load of x", "loop 1", "loop 2", "last"]
    assert set(statuses(cases)) == {Status.OK}


def test_an_exit_status_counts_though_all_cases_are_ok() -> None:
    _, status, message = results("TEST: a ... ok\nERROR: and then\n", 1, *plan("a"))
    assert (status, message) == (Status.FAILED, "the script exited 1 after its last result: and then")


def test_seconds_run_from_a_cases_start_to_its_result() -> None:
    output = "TEST: a ... ok\nTEST: b ... ok\nrest"
    first, second = case_results(plan("a", "b"), output, 0, float)
    assert first.seconds == len("TEST: a ... ok")
    assert second.seconds == len("TEST: b ... ok")


CONSOLE = (
    "[   12.3] % insmod test_modules/test_klp.ko\r\n"
    "[   13.0] ===== TEST: a =====\n[   13.5] livepatch: enabling\n[   14.0] ===== TEST: b (x) =====\r\n"
    "[   14.1] sysrq: Trigger a crash\n"
)


def test_a_case_whose_output_was_lost_with_the_guest_is_known_by_its_log() -> None:
    """The last words of a script are on their way over the network when its guest panics."""
    logged = logged_cases(CONSOLE)
    assert logged == ("a", "b (x)")
    cut = "TEST: a ... ok\n"
    found = case_results(plan("a", "b (x)", "c"), cut, None, float, logged)
    assert [each.status for each in found] == [Status.OK, Status.DIED, Status.NOT_RUN]
    assert open_case(cut, logged) == "b (x)"
    assert open_case(cut) == ""
    whole = "TEST: a ... ok\nTEST: b (x) ... "
    assert case_results(plan("a", "b (x)", "c"), whole, None, float, logged) == case_results(
        plan("a", "b (x)", "c"), whole, None, float
    )
