# SPDX-License-Identifier: Apache-2.0
"""`klp check` held to account: each bad livepatch's fault is named, and no good one gets a false alarm.

On the default kernel all are checked; on the others, too, with --everywhere.
"""

from __future__ import annotations

from collections import defaultdict

import msgspec
import pytest

from klp import settings
from klp.analysis.checked import CheckResult, ScenarioOutcome
from klp.analysis.evidence import Verdict
from klp.errors import ExitCode
from klp.images.names import known_kernels
from tests.verdicts import Expected, expected

# A transition that never ends is given up soon; others may take as long as a loaded host needs.
_HELD_UP_S, _DEADLINE_S = 20, 120
DEFAULT = settings.load().kernel
KERNELS = [DEFAULT, *(each for each in known_kernels() if each != DEFAULT)]


def _tried(*, bad: bool) -> list[object]:
    """Return a test's parameters: kernel, livepatch, scenario."""
    return [
        pytest.param(
            kernel, each, scenario,
            id=f"{kernel}-{each.name}-{scenario}",
            marks=[] if kernel == DEFAULT else [pytest.mark.elsewhere],
        )
        for kernel in KERNELS
        for each in expected() if bool(each.fault) == bad
        for scenario in each.scenarios
    ]  # fmt: skip


@pytest.fixture(scope="module")
def batches(request):
    """What this session tries, by `_batch`, so that one `klp check` does all that it can."""
    found = defaultdict(list)
    for item in request.session.items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if item.path == request.path and isinstance(params.get("each"), Expected):
            each = params["each"]
            found[_batch(params["kernel"], params["scenario"], each)].append(each)
    return found


def _batch(kernel: str, scenario: str, each: Expected) -> tuple[object, ...]:
    return kernel, scenario, bool(each.fault), each.held_up, each.debug


@pytest.fixture(scope="module")
def outcomes(klp, batches, tmp_path_factory):
    """Have a livepatch checked in a scenario on a kernel, with its batch; return its outcomes."""
    done = {}

    def checked(kernel: str, scenario: str, each: Expected) -> list[ScenarioOutcome]:
        key = _batch(kernel, scenario, each)
        if key not in done:
            done[key] = _check(
                klp, kernel, scenario, batches[key], tmp_path_factory.mktemp("check") / "run"
            )
        return done[key][each.word]

    return checked


def _check(klp, kernel, scenario, livepatches, out):
    deadline = _HELD_UP_S if any(each.held_up for each in livepatches) else _DEADLINE_S
    debug = ["--debug"] if livepatches[0].debug else []
    finished = klp(
        "check", *debug, *(each.word for each in livepatches), "--kernel", kernel, "--scenario", scenario,
        "--quick", "--deadline", deadline, "--out", out, "--json",
    )  # fmt: skip
    assert finished.returncode in (ExitCode.OK, ExitCode.CHECK_FAILED), finished.stderr
    result = msgspec.json.decode(finished.stdout, type=CheckResult)
    assert result.complete
    words = {each.name: each.word for each in result.livepatches}
    found = defaultdict(list)
    for each in result.outcomes:
        found[words[each.livepatch]].append(each)
    return found


def _story(outcome: ScenarioOutcome) -> str:
    return "\n".join([f"{outcome.scenario} of {outcome.livepatch}: {outcome.verdict}", *outcome.reasons])


@pytest.mark.parametrize(("kernel", "each", "scenario"), _tried(bad=True))
def test_the_fault_of_a_bad_one_is_named(outcomes, kernel, each, scenario):
    found = [one for one in outcomes(kernel, scenario, each) if one.scenario == scenario]
    assert len(found) == 1
    [outcome] = found
    assert outcome.verdict is Verdict.VIOLATED, _story(outcome)
    assert each.named_by(outcome.reasons[0]), _story(outcome)


@pytest.mark.parametrize(("kernel", "each", "scenario"), _tried(bad=False))
def test_a_good_one_gets_no_false_alarm(outcomes, kernel, each, scenario):
    found = outcomes(kernel, scenario, each)
    assert found
    for outcome in found:
        assert outcome.verdict is Verdict.HELD, _story(outcome)
