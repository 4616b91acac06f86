# SPDX-License-Identifier: Apache-2.0
"""What a scenario takes for misbehaviour when it looks at what the author's commands say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from klp.analysis.refusal_facts import RefusalFacts
from klp.check.stage import Stage
from klp.drive.steps import Moment
from klp.drive.subject import Misbehaved, Refused
from klp.modules.plan import LoadedBefore, Observation, PatchPlan


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


class Driver:
    """Stands for a module of the kernel whose device the guest does not have."""

    name, loaded = "driver", False

    def load(self, parameters: str) -> None:
        raise Refused(
            "driver: load failed", subject="driver", action="load", errno=19, said="", hint="",
            facts=RefusalFacts(),
        )  # fmt: skip


def setting_up(stage: Stage, implied: frozenset[str]) -> None:
    plan = PatchPlan(name="x", summary="x", livepatch="klp_x", load=(LoadedBefore(module="driver"),))
    stage.candidate = SimpleNamespace(plan=plan, implied=implied, modules={})  # type: ignore[assignment]
    stage.module = lambda _name: Driver()  # type: ignore[assignment, method-assign, return-value]
    stage.loaded, stage.notes, stage._part, stage._tell = [], [], "", lambda _words: None
    stage.livepatch = SimpleNamespace(name="klp_x")  # type: ignore[assignment]
    stage.set_up()


def test_what_nobody_asked_for_and_cannot_be_loaded_is_noted(stage: Stage) -> None:
    setting_up(stage, frozenset({"driver"}))
    assert stage.notes == ["driver: load failed: what is changed in driver was not tried"]
    assert stage.loaded == []


def test_what_the_author_asked_for_and_cannot_be_loaded_is_an_error(stage: Stage) -> None:
    with pytest.raises(Refused):
        setting_up(stage, frozenset())
