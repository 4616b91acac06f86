# SPDX-License-Identifier: Apache-2.0
"""A check as JUnit XML: a suite for each kernel, in it a case for each scenario of each livepatch.

One case more of each livepatch says whether all of its functions were seen to run.
"""

from __future__ import annotations

import time
from xml.etree import ElementTree as Et

from klp.analysis.checked import GUEST_LOST, CheckedKernel, CheckResult, ScenarioOutcome
from klp.analysis.evidence import Verdict
from klp.analysis.exercised import Exercised
from klp.report.junit import add_problem, counted, document, speakable

EVERY_FUNCTION = "every new function ran"


def check_junit(result: CheckResult, *, strict: bool = False) -> bytes:
    """Return the whole result as an XML document.

    A scenario that the check did not come to is an error: left out, it would look as if all had passed.

    Args:
        strict: what was to be seen and was not is a failure, and not merely skipped.
    """
    top = Et.Element("testsuites", name="klp check")
    begun = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(result.begun_at))
    top.extend(_suite(result, kernel, begun, strict=strict) for kernel in result.kernels)
    return document(top)


def _suite(result: CheckResult, kernel: CheckedKernel, begun: str, *, strict: bool) -> Et.Element:
    own = [each for each in result.outcomes if each.kernel == kernel.name]
    seconds = sum(each.seconds for each in own)
    suite = Et.Element("testsuite", name=speakable(kernel.name), time=f"{seconds:.3f}", timestamp=begun)
    properties = Et.SubElement(suite, "properties")
    for key in ("release", "kernel_digest", "image_digest", "accelerator", "debug"):
        Et.SubElement(properties, "property", name=key, value=speakable(getattr(kernel, key)))
    Et.SubElement(properties, "property", name="verdict", value=result.words)
    for line in result.headlines:
        Et.SubElement(properties, "property", name="headline", value=speakable(line))
    suite.extend(_ran(each, strict=strict) for each in result.exercised if each.kernel == kernel.name)
    suite.extend(_case(each, strict=strict) for each in own)
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


def _ran(ran: Exercised, *, strict: bool) -> Et.Element:
    """Return the case that says whether a livepatch's functions all ran."""
    case = _element(ran.kernel, ran.livepatch, EVERY_FUNCTION, 0.0)
    lines = [f"{each.name} never ran: {each.unknown}" for each in ran.never_ran]
    if ran.seen and ran.applies:
        Et.SubElement(case, "system-out").text = speakable(ran.told())
    elif strict and ran.applies:
        add_problem(case, "failure", ran.told(), "\n".join(lines))
    else:
        Et.SubElement(case, "skipped", message=speakable("; ".join([ran.told(), *lines])))
    return case


def _case(outcome: ScenarioOutcome, *, strict: bool) -> Et.Element:
    again = f" ({outcome.repetition})" if outcome.repetition > 1 else ""
    case = _element(outcome.kernel, outcome.livepatch, outcome.scenario + again, outcome.seconds)
    reason = outcome.reasons[0] if outcome.reasons else ""
    text = "\n".join([*outcome.reasons, *outcome.notes, f"again: {outcome.command}", outcome.folder])
    if outcome.verdict is Verdict.VIOLATED:
        add_problem(case, "failure", reason, text)
    elif outcome.lost:
        add_problem(case, "error", f"{GUEST_LOST}: {reason}", text)
    elif strict and outcome.verdict is Verdict.NOT_OBSERVED and not outcome.inapplicable:
        add_problem(case, "failure", reason, text)
    elif outcome.verdict is Verdict.NOT_OBSERVED:
        Et.SubElement(case, "skipped", message=speakable(reason))
    return case
