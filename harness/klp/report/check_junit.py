# SPDX-License-Identifier: Apache-2.0
"""A check as JUnit XML: a suite for each kernel, in it a case for each scenario of each livepatch."""

from __future__ import annotations

import time
from xml.etree import ElementTree as Et

from klp.analysis.checked import CheckedKernel, CheckResult, ScenarioOutcome
from klp.analysis.evidence import Verdict
from klp.report.junit import add_problem, counted, document, speakable


def check_junit(result: CheckResult) -> bytes:
    """Return the whole result as an XML document.

    A scenario that the check did not come to is an error: left out, it would look as if all had passed.
    """
    top = Et.Element("testsuites", name="klp check")
    begun = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(result.begun_at))
    top.extend(_suite(result, kernel, begun) for kernel in result.kernels)
    return document(top)


def _suite(result: CheckResult, kernel: CheckedKernel, begun: str) -> Et.Element:
    own = [each for each in result.outcomes if each.kernel == kernel.name]
    seconds = sum(each.seconds for each in own)
    suite = Et.Element("testsuite", name=speakable(kernel.name), time=f"{seconds:.3f}", timestamp=begun)
    properties = Et.SubElement(suite, "properties")
    for key in ("release", "kernel_digest", "image_digest", "accelerator", "debug"):
        Et.SubElement(properties, "property", name=key, value=speakable(getattr(kernel, key)))
    suite.extend(_case(each) for each in own)
    for livepatch in result.livepatches:
        for scenario in result.scenarios:
            if not result.of(kernel.name, livepatch.name, scenario):
                case = _element(kernel.name, livepatch.name, scenario, 0.0)
                add_problem(case, "error", result.error or "the check ended before it", "")
                suite.append(case)
    counted(suite)
    return suite


def _element(kernel: str, livepatch: str, name: str, seconds: float) -> Et.Element:
    where = speakable(f"{kernel}.{livepatch}")
    return Et.Element("testcase", classname=where, name=speakable(name), time=f"{seconds:.3f}")


def _case(outcome: ScenarioOutcome) -> Et.Element:
    again = f" ({outcome.repetition})" if outcome.repetition > 1 else ""
    case = _element(outcome.kernel, outcome.livepatch, outcome.scenario + again, outcome.seconds)
    reason = outcome.reasons[0] if outcome.reasons else ""
    text = "\n".join([*outcome.reasons, *outcome.notes, f"again: {outcome.command}", outcome.folder])
    if outcome.verdict is Verdict.VIOLATED:
        add_problem(case, "failure", reason, text)
    elif outcome.lost:
        add_problem(case, "error", reason, text)
    elif outcome.verdict is Verdict.NOT_OBSERVED:
        Et.SubElement(case, "skipped", message=speakable(reason))
    return case
