# SPDX-License-Identifier: Apache-2.0
"""`klp check` held to account: each bad livepatch's fault is named, and no good one gets a false alarm.

On the default kernel all are checked; on the others, too, with --everywhere.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from klp import settings
from klp.analysis.checked import CheckResult, ScenarioOutcome
from klp.analysis.evidence import Verdict
from klp.errors import ExitCode
from klp.images.names import known_kernels
from tests.verdicts import Expected, expected, expected_bare

# A transition that never ends is given up soon; others may take as long as a loaded host needs.
_HELD_UP_S, _DEADLINE_S = 20, 120
DEFAULT = settings.load().kernel
BAD = [each for each in expected() if each.fault]
# As they are found in one scenario each, and not by the way.
UNSEEN = [replace(each, scenarios=("life",)) for each in BAD if each.unseen]
GOOD = [each for each in expected() if not each.fault]
KERNELS = [DEFAULT, *(each for each in known_kernels() if each != DEFAULT)]


def _tried(livepatches: Sequence[Expected]) -> list[object]:
    """Return a test's parameters: kernel, livepatch, scenario."""
    return [
        pytest.param(
            kernel, each, scenario,
            id=f"{kernel}-{each.name}-{scenario}",
            marks=[] if kernel == DEFAULT else [pytest.mark.elsewhere],
        )
        for kernel in KERNELS
        for each in livepatches
        for scenario in each.scenarios
    ]  # fmt: skip


# Of one without a patch.toml that is told already.
WITHOUT_PLAN = tuple(each for each in expected_bare() if (Path(each.word) / "patch.toml").is_file())


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
    return kernel, scenario, bool(each.fault), each.held_up, each.bare, each.debug


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
        return done[key][each.name if each.bare else each.word]

    return checked


def _check(klp, kernel, scenario, livepatches, out):
    paths = [_without_plan(each, out.parent) if each.bare else each.word for each in livepatches]
    deadline = _HELD_UP_S if any(each.held_up for each in livepatches) else _DEADLINE_S
    debug = ["--debug"] if livepatches[0].debug else []
    finished = klp(
        "check", *debug, *paths, "--kernel", kernel, "--scenario", scenario,
        "--quick", "--deadline", deadline, "--out", out, "--json",
    )  # fmt: skip
    assert finished.returncode in (ExitCode.OK, ExitCode.CHECK_FAILED), finished.stderr
    result = msgspec.json.decode(finished.stdout, type=CheckResult)
    assert result.complete
    # The name is the folder's; of livepatches that share their sources, the word is what they share.
    bare = livepatches[0].bare
    words = {each.name: each.name if bare else each.word for each in result.livepatches}
    found = defaultdict(list)
    for each in result.outcomes:
        found[words[each.livepatch]].append(each)
    return found


def _without_plan(each: Expected, folder: Path) -> str:
    """Return the folder of a copy of a livepatch's sources, as an author leaves it who writes no plan."""
    copy = folder / each.name
    shutil.copytree(each.word, copy, ignore=shutil.ignore_patterns("patch.toml"))
    return str(copy)


def _story(outcome: ScenarioOutcome) -> str:
    return "\n".join([f"{outcome.scenario} of {outcome.livepatch}: {outcome.verdict}", *outcome.reasons])


def _is_named(outcomes, kernel, each, scenario):
    found = [one for one in outcomes(kernel, scenario, each) if one.scenario == scenario]
    assert len(found) == 1
    [outcome] = found
    assert outcome.verdict is Verdict.VIOLATED, _story(outcome)
    assert each.named_by(outcome.reasons[0]), _story(outcome)


@pytest.mark.parametrize(("kernel", "each", "scenario"), _tried(BAD))
def test_the_fault_of_a_bad_one_is_named(outcomes, kernel, each, scenario):
    _is_named(outcomes, kernel, each, scenario)


@pytest.mark.parametrize(("kernel", "each", "scenario"), _tried(WITHOUT_PLAN))
def test_the_fault_of_a_bad_one_is_named_without_its_plan(outcomes, kernel, each, scenario):
    _is_named(outcomes, kernel, each, scenario)


@pytest.mark.parametrize(("kernel", "each", "scenario"), _tried(UNSEEN))
def test_the_plain_life_of_a_bad_one_shows_nothing_of_what_another_scenario_is_for(
    outcomes, kernel, each, scenario
):
    [outcome] = [one for one in outcomes(kernel, scenario, each) if one.scenario == scenario]
    assert outcome.verdict is Verdict.HELD, _story(outcome)


@pytest.mark.parametrize(("kernel", "each", "scenario"), _tried(GOOD))
def test_a_good_one_gets_no_false_alarm(outcomes, kernel, each, scenario):
    found = [one for one in outcomes(kernel, scenario, each) if one.scenario == scenario]
    # Of several that share their sources, one may change a module that is not there: it is not observed.
    assert [one for one in found if one.verdict is Verdict.HELD], [_story(one) for one in found]
    for outcome in found:
        assert outcome.verdict is not Verdict.VIOLATED, _story(outcome)
