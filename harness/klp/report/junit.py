# SPDX-License-Identifier: Apache-2.0
"""The selftests' results as JUnit XML, as Jenkins and GitLab read it: a suite for each script.

Written with the standard library: the packages for it save the counts alone, and none keeps out the
control characters that a kernel log may hold and XML may not.
"""

from __future__ import annotations

import re
import time
from xml.etree import ElementTree as Et

from klp.analysis.evidence import Verdict
from klp.analysis.selftests import CaseResult, KernelResult, ScriptResult, SelftestsResult, Status

# What XML 1.0 has no way to say (production [2] Char).
_UNSPEAKABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TALLIES = {"failures": "failure", "errors": "error", "skipped": "skipped"}


def selftests_junit(result: SelftestsResult) -> bytes:
    """Return the whole result as an XML document."""
    top = Et.Element("testsuites", name="klp selftests")
    begun = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(result.begun_at))
    for kernel in result.kernels:
        for script in kernel.scripts:
            top.append(_suite(kernel, script, begun))
        ran = {script.name for script in kernel.scripts}
        top.extend(_left_out(kernel.name, name) for name in kernel.planned if name not in ran)
    return document(top)


def document(top: Et.Element) -> bytes:
    """Return a whole XML document, its counts filled in."""
    counted(top)
    Et.indent(top)
    text: str = Et.tostring(top, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()


def speakable(text: str) -> str:
    """Return a text without the characters that XML has no way to say."""
    return _UNSPEAKABLE.sub("\ufffd", text)


def _suite(kernel: KernelResult, script: ScriptResult, begun: str) -> Et.Element:
    name = f"{kernel.name}.{script.name.removesuffix('.sh')}"
    suite = Et.Element("testsuite", name=speakable(name), time=f"{script.seconds:.3f}", timestamp=begun)
    properties = Et.SubElement(suite, "properties")
    for key in ("release", "kernel_digest", "image_digest", "accelerator"):
        Et.SubElement(properties, "property", name=key, value=speakable(getattr(kernel, key)))
    Et.SubElement(properties, "property", name="folder", value=speakable(script.folder))
    for case in script.cases:
        suite.append(_case(name, case))
    suite.extend(_of_the_script(name, script))
    counted(suite)
    return suite


def _left_out(kernel: str, script: str) -> Et.Element:
    """Return a suite for a script that the run did not come to."""
    name = f"{kernel}.{script.removesuffix('.sh')}"
    suite = Et.Element("testsuite", name=speakable(name), time="0.000")
    element = Et.SubElement(
        suite, "testcase", classname=speakable(name), name=speakable(script), time="0.000"
    )
    add_problem(element, "error", "the run ended before it", "")
    counted(suite)
    return suite


def _case(suite: str, case: CaseResult) -> Et.Element:
    seconds = case.seconds or 0.0
    element = Et.Element(
        "testcase", classname=speakable(suite), name=speakable(case.name), time=f"{seconds:.3f}"
    )
    if case.status is Status.FAILED:
        add_problem(element, "failure", "not ok", case.detail)
    elif case.status is Status.SKIPPED:
        Et.SubElement(element, "skipped", message=speakable(case.detail))
    elif case.status is not Status.OK:
        add_problem(element, "error", case.status.value, case.detail)
    return element


def _of_the_script(suite: str, script: ScriptResult) -> list[Et.Element]:
    """Return cases for what no case of the script tells: its own end, and each violated check."""
    own = []
    if script.message:
        element = Et.Element(
            "testcase", classname=speakable(suite), name=speakable(script.name), time="0.000"
        )
        if script.status is Status.SKIPPED:
            Et.SubElement(element, "skipped", message=speakable(script.message))
        else:
            add_problem(element, "error", script.message, "\n".join(script.report))
        own.append(element)
    for check in script.checks:
        if check.verdict is Verdict.VIOLATED:
            element = Et.Element(
                "testcase", classname=speakable(suite), name=speakable(check.name), time="0.000"
            )
            add_problem(element, "failure", check.evidence, "")
            own.append(element)
    return own


def add_problem(element: Et.Element, kind: str, message: str, text: str) -> None:
    """Give a case its `failure` or `error`."""
    Et.SubElement(element, kind, message=speakable(message), type=kind).text = speakable(text)


def counted(element: Et.Element) -> None:
    """Set the counts of a suite, or of all suites, from the cases below it."""
    element.set("tests", str(len(list(element.iter("testcase")))))
    for attribute, kind in _TALLIES.items():
        element.set(attribute, str(len(list(element.iter(kind)))))
