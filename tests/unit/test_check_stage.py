# SPDX-License-Identifier: Apache-2.0
"""What a scenario takes for misbehaviour when it looks at what the author's commands say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from klp.check.stage import Stage
from klp.drive.steps import Moment
from klp.drive.subject import Misbehaved
from klp.modules.plan import Observation


class Livepatch:
    """Stands for one in a guest, where each command says the same."""

    def observe(self, command: str, pattern: str, **more: Any) -> str:
        if pattern != "right":
            raise Misbehaved("klp_x", more["moment"], command, pattern, "right")
        return "right"


@pytest.fixture
def stage() -> Stage:
    found = object.__new__(Stage)
    plan = SimpleNamespace(observe=(Observation("show", before="wrong", after="right"),), rules=())
    found.candidate = SimpleNamespace(plan=plan)  # type: ignore[assignment]
    found.livepatch = Livepatch()  # type: ignore[assignment]
    found.misbehaved, found._heard = [], {}
    return found


def test_a_refused_load_is_held_to_what_was_before_it(stage: Stage) -> None:
    stage.observe(Moment.AFTER)
    assert stage.misbehaved == []
    stage.observe(Moment.REFUSED)
    [wrong] = stage.misbehaved
    assert (wrong.moment, wrong.command) == ("refused", "show")


def test_what_was_not_looked_at_before_it_tells_nothing(stage: Stage) -> None:
    stage.observe(Moment.REFUSED)
    assert stage.misbehaved == []


def test_a_moment_without_a_pattern_is_not_looked_at(stage: Stage) -> None:
    stage.observe(Moment.ENABLED)
    assert stage._heard == {}
