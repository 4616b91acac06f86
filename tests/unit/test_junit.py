# SPDX-License-Identifier: Apache-2.0
"""JUnit XML: one suite a script, counts that are right, and nothing in it that XML cannot hold."""

from __future__ import annotations

from xml.etree import ElementTree as Et

from klp.analysis.result import check
from klp.analysis.selftests import CaseResult, KernelResult, ScriptResult, SelftestsResult, Status
from klp.report.junit import selftests_junit


def case(name: str, status: Status = Status.OK, detail: str = "") -> CaseResult:
    return CaseResult(name=name, status=status, seconds=1.5, detail=detail)


def script(
    name: str, status: Status, *cases: CaseResult, message: str = "", held: bool = True
) -> ScriptResult:
    return ScriptResult(
        name=name, status=status, exit_status=None, seconds=2.0, message=message, cases=cases,
        report=("Oops: 0000", "end"), checks=(check("kernel log clean", held, "WARNING: x"),), folder="k/s",
    )  # fmt: skip


def suites(*scripts: ScriptResult, planned: tuple[str, ...] = (), error: str | None = None) -> Et.Element:
    kernel = KernelResult(
        name="6.12", release="6.12.1-amd64", kernel_digest="0", image_digest="1", accelerator="tcg",
        modules={}, planned=planned or tuple(each.name for each in scripts), scripts=scripts,
    )  # fmt: skip
    result = SelftestsResult(
        schema=1, klp="0", qemu="7", begun_at=0.0, ended_at=1.0, kernels=(kernel,), error=error
    )
    return Et.fromstring(selftests_junit(result))


def counts(element: Et.Element) -> tuple[str | None, ...]:
    return tuple(element.get(name) for name in ("tests", "failures", "errors", "skipped"))


def test_every_outcome_has_its_element() -> None:
    top = suites(
        script(
            "test-a.sh", Status.FAILED, case("fine"), case("bad", Status.FAILED, "-a\n+b"),
            case("late", Status.NOT_RUN, "the script ended before it"), message="case 'bad' failed",
        ),
        script("test-b.sh", Status.SKIPPED, case("gone", Status.SKIPPED, "no probes"), message="no probes"),
    )  # fmt: skip
    first, second = top.findall("testsuite")
    assert first.get("name") == "6.12.test-a"
    fine, bad, late, whole = first.findall("testcase")
    assert (fine.get("name"), fine.get("classname"), fine.get("time")) == ("fine", "6.12.test-a", "1.500")
    assert list(fine) == []
    assert bad.findtext("failure") == "-a\n+b"
    assert late.find("error") is not None
    assert whole.find("error").get("message") == "case 'bad' failed"
    assert [each.find("skipped").get("message") for each in second.findall("testcase")] == ["no probes"] * 2
    assert (counts(first), counts(second)) == (("4", "1", "2", "0"), ("2", "0", "0", "2"))
    assert counts(top) == ("6", "1", "2", "2")
    assert first.find("properties/property[@name='release']").get("value") == "6.12.1-amd64"


def test_a_lost_guest_has_the_kernels_report() -> None:
    top = suites(script("test-a.sh", Status.DIED, case("x", Status.DIED), message="the guest is lost"))
    error = top.findall("testsuite/testcase")[-1].find("error")
    assert (error.get("message"), error.text) == ("the guest is lost", "Oops: 0000\nend")


def test_a_violated_check_is_a_failure() -> None:
    top = suites(script("test-a.sh", Status.OK, case("x"), held=False))
    failed = top.findall("testsuite/testcase")[-1]
    assert failed.get("name") == "kernel log clean"
    assert failed.find("failure").get("message") == "WARNING: x"
    assert counts(top) == ("2", "1", "0", "0")


def test_what_xml_cannot_hold_is_replaced() -> None:
    text = '\x00\x1b[31m<b>&"]]>\ud800\ufffe\U0001f427\t\n'
    top = suites(script("test-a.sh", Status.FAILED, case(f"n\x07{text}", Status.FAILED, text)))
    failed = top.find("testsuite/testcase")
    assert failed.findtext("failure") == '\ufffd\ufffd[31m<b>&"]]>\ufffd\ufffd\U0001f427\t\n'
    assert failed.get("name").startswith("n\ufffd\ufffd\ufffd[31m<b>&")


def test_a_script_that_the_run_did_not_come_to() -> None:
    top = suites(
        script("test-a.sh", Status.OK, case("x")), planned=("test-a.sh", "test-b.sh"), error="interrupted"
    )
    assert [each.get("name") for each in top] == ["6.12.test-a", "6.12.test-b"]
    assert counts(top[1]) == ("1", "0", "1", "0")
