# SPDX-License-Identifier: Apache-2.0
"""What scenarios that hold a transition up wait for, and what they find when it goes through anyway."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from klp.analysis.legs import LegOutcome
from klp.check import holding
from klp.check.holding import Holder
from klp.check.stage import NotApplicable
from klp.drive.steps import Moment
from klp.drive.subject import Misbehaved
from klp.errors import CheckFailed
from klp.modules.plan import Observation

Task = tuple[str, int, tuple[str, ...]]
SLEEPER: Task = ("klp_hold/0", 2, ("sleeping in f",))


def leg(*tasks: Task, patch: str = "klp_x", outcome: LegOutcome = LegOutcome.UNFINISHED) -> Any:
    switches = tuple(SimpleNamespace(comm=comm, attempts=count, reasons=why) for comm, count, why in tasks)
    return SimpleNamespace(patch=patch, direction="patching", outcome=outcome, tasks=switches)


@dataclass
class Module:
    """patches/hold-anywhere in a guest: its parameters, one reading after the other."""

    refused: int = 0
    loaded: bool = True
    inside: Sequence[str] = ("2",)
    given: list[str] = field(default_factory=list)
    gone: bool = False
    name = "klp_hold_anywhere"

    def load(self, parameters: str, *, expect: int | None) -> int:
        self.given.append(parameters)
        return self.refused

    def parameter(self, name: str) -> str:
        if name == "count":
            return "2"
        first, *rest = self.inside
        self.inside = rest or [first]
        return first

    def unload(self) -> None:
        self.gone = True


@dataclass
class Stage:
    """A stage whose trace grows with each look."""

    module: Module
    traces: list[tuple[Any, ...]] = field(default_factory=lambda: [()])
    notes: list[str] = field(default_factory=list)
    known_objects: tuple[Any, ...] = ()
    livepatch = SimpleNamespace(name="klp_x")

    @property
    def case(self) -> Any:
        return SimpleNamespace(module=lambda word: self.module)

    @property
    def trace(self) -> Any:
        first, *rest = self.traces
        self.traces = rest or [first]
        return SimpleNamespace(history=lambda: SimpleNamespace(legs=first))

    def note(self, words: str) -> None:
        self.notes.append(words)


def holder(module: Module | None = None, *traces: tuple[Any, ...]) -> tuple[Holder, Stage]:
    stage = Stage(module or Module(), list(traces) or [()])
    return Holder(cast("Any", stage)), stage


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "_LOOK_S", 0.0)
    monkeypatch.setattr(holding, "_HELD_S", 0.05)


def test_all_that_are_wanted_are_caught() -> None:
    found, stage = holder(Module(inside=["0", "1", "2"]))
    found.catch("old")
    assert stage.module.given == ["patch=klp_x which=old"]
    assert stage.module.inside == ["2"]


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Module(refused=errno.EBUSY, loaded=False), "klp_hold_anywhere: could not be loaded"),
        (Module(inside=["1"]), "klp_hold_anywhere: no 2 tasks asleep within"),
    ],
)
def test_who_is_not_caught_is_told(module: Module, said: str) -> None:
    with pytest.raises(CheckFailed, match=said):
        holder(module)[0].catch("new")


def test_nothing_that_can_be_slept_in_is_no_fault() -> None:
    with pytest.raises(NotApplicable, match="none can be slept in"):
        holder(Module(refused=errno.ENOENT, loaded=False))[0].catch("new")


def test_a_pass_that_is_held_up_is_waited_for() -> None:
    before = leg(SLEEPER, outcome=LegOutcome.COMPLETE)
    found, stage = holder(
        None, (), (leg(SLEEPER, patch="klp_other"),), (before, leg()), (before, leg(("cat", 9, ()))),
        (before, leg(("klp_hold/0", 1, ("running",)))),
        (before, leg(SLEEPER, ("klp_hold/1", 2, ("running", "sleeping in g")))),
    )  # fmt: skip
    assert found.await_held(2) == ("f", "g")
    assert stage.notes == ["patching held up by tasks asleep in f, g"]


def test_so_many_passes_are_waited_for_as_are_wanted() -> None:
    once, twice = ("klp_hold/0", 1, ("sleeping in f",)), ("klp_hold/0", 2, ("sleeping in g",))
    assert holder(None, (leg(once),), (leg(twice),))[0].await_held(2) == ("g",)
    assert holder(None, (leg(once),), (leg(twice),))[0].await_held() == ("f",)
    never = ("klp_hold/0", 0, ("sleeping in f",))
    assert holder(None, (leg(never),), (leg(twice),))[0].await_held() == ("g",)


def test_one_that_has_ended_may_have_been_held_up_before() -> None:
    assert holder(None, (leg(SLEEPER, outcome=LegOutcome.COMPLETE),))[0].await_held(2) == ("f",)


def test_one_that_went_through_all_the_same_is_a_fault() -> None:
    found, _ = holder(None, (leg(("cat", 9, ()), outcome=LegOutcome.COMPLETE),))
    with pytest.raises(CheckFailed, match="patching went through although 2 tasks slept"):
        found.await_held()


def test_nobody_is_waited_for_for_ever() -> None:
    with pytest.raises(CheckFailed, match="no pass was held up by a task asleep in a function for 0"):
        holder(None, (leg(),))[0].await_held()


def test_they_are_let_go_with_their_module() -> None:
    found, stage = holder()
    found.let_go()
    assert stage.module.gone


def test_of_many_functions_a_few_are_named() -> None:
    many = tuple(f"sleeping in f{number}" for number in range(7))
    found, stage = holder(None, (leg(("klp_hold/0", 1, many)),))
    stage.known_objects = (SimpleNamespace(functions=("f",) * 9),)
    assert len(found.await_held()) == 7
    assert stage.notes == [
        "patching held up by tasks asleep in f0, f1, f2, f3, f4, … (7 of its 9 functions)"
    ]


class Observed:
    """Stands for a livepatch in a guest, where the author's command says the same each time."""

    name = "klp_x"

    def __init__(self, says: str) -> None:
        self.says = says

    def observe(self, command: str, pattern: str, *, other: Sequence[str], moment: str, **_: Any) -> str:
        if self.says not in (pattern, *other):
            raise Misbehaved(self.name, moment, command, pattern, self.says)
        return self.says


@pytest.mark.parametrize(
    ("settled", "says", "pending", "wrong"),
    [
        (Moment.BEFORE, "old", "", False),
        (Moment.BEFORE, "new", "", False),
        (Moment.BEFORE, "gone", "", True),
        (Moment.BEFORE, "neither", "", True),
        (Moment.AFTER, "gone", "", False),
        (Moment.AFTER, "old", "", True),
        (Moment.BEFORE, "neither", "neither", False),
        (Moment.BEFORE, "old", "neither", True),
    ],
)
def test_what_is_seen_while_it_is_held_up_is_that_of_one_side(
    settled: Any, says: str, pending: str, wrong: bool
) -> None:
    found, stage = holder()
    looks = (
        Observation("show", before="old", enabled="new", after="gone", pending=pending),
        Observation("other", enabled="new"),  # of the other side nobody said what it shows
    )
    changes: Any = stage
    changes.candidate = SimpleNamespace(plan=SimpleNamespace(observe=looks, rules=()))
    changes.livepatch, changes.misbehaved = Observed(says), []
    found.observe(settled)
    assert [(each.moment, each.output) for each in changes.misbehaved] == [("pending", says)] * wrong
