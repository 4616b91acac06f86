# SPDX-License-Identifier: Apache-2.0
"""KTAP version 1: kernel > script > case, as a parser of the kernel's own format reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from klp.analysis.result import check
from klp.analysis.selftests import CaseResult, KernelResult, ScriptResult, SelftestsResult, Status
from klp.report.ktap import ktap


def case(name: str, status: Status = Status.OK, detail: str = "") -> CaseResult:
    return CaseResult(name=name, status=status, seconds=1.0, detail=detail)


def script(
    name: str, status: Status, *cases: CaseResult, message: str = "", held: bool = True
) -> ScriptResult:
    return ScriptResult(
        name=name, status=status, exit_status=0, seconds=2.0, message=message, report=(), cases=cases,
        checks=(check("no event lost", held, "3 events, 0 lost"),), folder=f"k/{name}",
    )  # fmt: skip


def kernel(name: str, *scripts: ScriptResult, planned: tuple[str, ...] = ()) -> KernelResult:
    return KernelResult(
        name=name, release=f"{name}.1", kernel_digest="0", image_digest="1", accelerator="tcg", modules={},
        planned=planned or tuple(each.name for each in scripts), scripts=scripts,
    )  # fmt: skip


def run(*kernels: KernelResult, error: str | None = None) -> SelftestsResult:
    return SelftestsResult(
        schema=1, klp="0", qemu="7", begun_at=0.0, ended_at=1.0, kernels=kernels, error=error
    )


@dataclass
class Node:
    """A test as read: its number and name, ok or not, its directive, and the tests in it."""

    number: int
    name: str
    ok: bool
    directive: str
    below: list[Node] = field(default_factory=list)


# ktap.rst: "<result> <number> [<description>][ # [<directive>] [<diagnostic data>]]"
_LINE = re.compile(r"(ok|not ok) (\d+) ((?:[^#\\]|\\.)*?)(?: # (.*))?$")


def parse(text: str) -> list[Node]:
    lines = iter(text.splitlines())
    assert next(lines) == "KTAP version 1"
    return list(level(lines, ""))


def level(lines: Iterator[str], indent: str) -> Iterator[Node]:
    """Read a plan and its tests; every test has a number in the plan, and may have a subtest before it."""
    plan = next(line for line in lines if not line.startswith(f"{indent}#"))
    assert re.fullmatch(rf"{indent}1\.\.\d+", plan), plan
    planned = int(plan.partition("..")[2])
    below: list[Node] = []
    numbers = []
    for line in lines:
        if line == f"{indent}  KTAP version 1":
            below = list(level(lines, f"{indent}  "))
        elif not line.startswith(f"{indent}#"):
            found = _LINE.fullmatch(line.removeprefix(indent))
            assert found, line
            numbers.append(int(found[2]))
            yield Node(int(found[2]), found[3], found[1] == "ok", found[4] or "", below)
            below = []
            if numbers[-1] == planned:
                break
    assert numbers == sorted(set(numbers))


def test_three_levels() -> None:
    mixed = script(
        "test-b.sh", Status.FAILED, case("one"), case("two", Status.FAILED, "-a\n+b"),
        case("three", Status.NOT_RUN, "the script ended before it"), message="case 'two' failed",
    )  # fmt: skip
    nodes = parse(ktap(run(kernel("6.1", script("test-a.sh", Status.OK, case("x"))), kernel("7.2", mixed))))
    assert [(node.number, node.name, node.ok) for node in nodes] == [(1, "6.1", True), (2, "7.2", False)]
    [failed] = nodes[1].below
    assert (failed.name, failed.ok) == ("test-b.sh", False)
    assert [(each.name, each.ok) for each in failed.below] == [
        ("one", True),
        ("two", False),
        ("three", False),
    ]
    assert failed.below[2].directive.startswith("ERROR it did not run")


def test_what_a_failed_case_wrote_stands_before_its_line() -> None:
    text = ktap(run(kernel("6.1", script("a", Status.FAILED, case("x", Status.FAILED, "-a\n\n+b\x07")))))
    lines = [line.strip() for line in text.splitlines()]
    place = lines.index("not ok 1 x")
    assert lines[place - 3 : place] == ["# -a", "#", "# +b?"]


def test_a_skipped_script_is_ok_with_the_directive() -> None:
    skipped = script(
        "test-k.sh", Status.SKIPPED, case("x", Status.SKIPPED, "no kprobes"), message="no kprobes"
    )
    [node] = parse(ktap(run(kernel("6.1", skipped))))
    assert node.ok
    assert (node.below[0].ok, node.below[0].directive) == (True, "SKIP no kprobes")
    assert (node.below[0].below[0].ok, node.below[0].below[0].directive) == (True, "SKIP no kprobes")


def test_a_died_script_is_an_error() -> None:
    died = script("test-k.sh", Status.DIED, case("x", Status.DIED), message="the guest is lost: panic")
    [node] = parse(ktap(run(kernel("6.1", died))))
    assert not node.ok
    assert node.below[0].directive == "ERROR the guest is lost: panic"
    assert node.below[0].below[0].directive == "ERROR no result"


def test_a_violated_check_fails_the_script_and_not_its_cases() -> None:
    text = ktap(run(kernel("6.1", script("a", Status.OK, case("x"), held=False))))
    [node] = parse(text)
    assert not node.ok
    assert not node.below[0].ok
    assert node.below[0].below[0].ok
    assert "# no event lost: violated: 3 events, 0 lost" in text


def test_an_interrupted_run_lacks_lines_of_its_plan() -> None:
    result = run(kernel("6.1", script("b", Status.OK, case("x")), planned=("a", "b")), error="interrupted")
    text = ktap(result)
    [node] = parse(text)
    assert not node.ok
    assert [(each.number, each.name) for each in node.below] == [(2, "b")]
    assert text.endswith("# ended early: interrupted\n")


@pytest.mark.parametrize(
    ("name", "shown"), [("a # b", "a \\# b"), ("a\\b", "a\\\\b"), ("two\nlines", "two lines")]
)
def test_names_that_would_end_a_description(name: str, shown: str) -> None:
    [node] = parse(ktap(run(kernel("6.1", script("a", Status.OK, case(name))))))
    assert (node.below[0].below[0].name, node.below[0].below[0].directive) == (shown, "")


def test_a_script_without_cases_has_no_empty_plan() -> None:
    text = ktap(run(kernel("6.1", script("a", Status.OK))))
    assert "1..0" not in text
    [node] = parse(text)
    assert node.below[0].ok
