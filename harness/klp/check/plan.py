# SPDX-License-Identifier: Apache-2.0
"""What a check has to do, as frozen units, before anything is built or booted. Pure.

A unit has all that it takes to perform it, on this machine or another: it can be pickled. `klp.check.host`
performs one; `klp.check.engine` says which may be performed when, and collects what came of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from klp import paths
from klp.analysis.checked import CheckedKernel, ScenarioOutcome
from klp.analysis.evidence import Verdict
from klp.check.candidate import Wanted
from klp.check.registry import OPENER, SCENARIOS
from klp.check.static import STATIC
from klp.model import Image
from klp.paths import CheckLayout
from klp.settings import Settings

# Kernel, livepatch, scenario, repetition: see `klp.analysis.checked.ScenarioOutcome`.
Key = tuple[str, str, str, int]


@dataclass(frozen=True, slots=True)
class TargetKernel:
    """A kernel to be checked on, ready to be booted.

    Attributes:
        accelerator: kvm or tcg.
        label: what its folder is called, unlike that of any other kernel of the check.
        debug: by what it looks for faults in memory; empty if it does not.
    """

    image: Image
    accelerator: str
    label: str
    debug: str = ""

    @property
    def name(self) -> str:
        """What the user called it."""
        return self.image.kernel.name

    @property
    def release(self) -> str:
        """``uname -r`` of it."""
        return self.image.kernel.release

    @property
    def summary(self) -> CheckedKernel:
        """What check.json says of it."""
        return CheckedKernel(
            name=self.name, release=self.release, kernel_digest=self.image.kernel.digest,
            image_digest=self.image.digest, accelerator=self.accelerator, debug=self.debug,
        )  # fmt: skip


def targets(images: Sequence[tuple[Image, str]]) -> tuple[TargetKernel, ...]:
    """Return the kernels of a check, of their images and accelerators, in the same order.

    A build tree is labelled by its release, which two trees may share: then the second is numbered.
    """
    names = [each.kernel.release if "/" in each.kernel.name else each.kernel.name for each, _ in images]
    labels = paths.numbered(names)
    return tuple(TargetKernel(*each, label) for each, label in zip(images, labels, strict=True))


@dataclass(frozen=True, slots=True)
class CheckOrder:
    """What is asked for.

    Attributes:
        livepatches, kernels: what is checked, and on what.
        scenarios: names, in order.
        quick: whether scenarios are to take a first look only.
        repeat: how often each is run.
    """

    livepatches: tuple[Wanted, ...]
    kernels: tuple[TargetKernel, ...]
    scenarios: tuple[str, ...]
    quick: bool = False
    repeat: int = 1


@dataclass(frozen=True, slots=True)
class CheckUnit:
    """One scenario of one livepatch on one kernel, for any machine to perform.

    Attributes:
        repetition: from 1; 0 for a survey, which has no outcome: it tells what the livepatch changes.
        first: the units that must have been performed before.
        quick: whether to take a first look only.
        settings: of its guest, with the kernel's name and as many CPUs as the scenario wants.
        folder: the check's own.
    """

    kernel: TargetKernel
    livepatch: Wanted
    scenario: str
    repetition: int
    first: tuple[Key, ...]
    quick: bool
    settings: Settings
    folder: Path

    @property
    def key(self) -> Key:
        """What tells it apart in its check."""
        return (self.kernel.name, self.livepatch.name, self.scenario, self.repetition)

    @property
    def layout(self) -> CheckLayout:
        """The check's folder."""
        return CheckLayout(self.folder)

    @property
    def survey(self) -> bool:
        """Whether it is there to tell what the livepatch changes, and nothing else."""
        return self.repetition == 0

    @property
    def guest(self) -> tuple[str, int]:
        """What kind of guest it takes: guests of one kind come from one saved guest."""
        return (self.kernel.name, self.settings.cpus)


def planned_units(order: CheckOrder, settings: Settings, folder: Path) -> tuple[CheckUnit, ...]:
    """Return all that there is to do, in the order in which it is shown.

    Args:
        settings: of the guests; kernel and number of CPUs are set for each unit.
        folder: the check's own.
    """
    return tuple(_units(order, settings, folder))


def _units(order: CheckOrder, settings: Settings, folder: Path) -> Iterator[CheckUnit]:
    for livepatch in order.livepatches:
        for kernel in order.kernels:
            for number, scenario in enumerate(order.scenarios):
                cpus = SCENARIOS[scenario].cpus if scenario in SCENARIOS else None
                changes = {"kernel": kernel.name, **({"cpus": cpus} if cpus else {})}
                own = msgspec.structs.replace(settings, **changes)
                before = _openers(order.scenarios[:number])
                first = tuple((kernel.name, livepatch.name, name, 1) for name in before)
                for repetition in range(1, (1 if scenario in STATIC else order.repeat) + 1):
                    yield CheckUnit(
                        kernel, livepatch, scenario, repetition, first, order.quick, own, folder
                    )


def _openers(scenarios: Sequence[str]) -> list[str]:
    """Return those that decide whether what comes after them can be tried: no guest, and a plain life."""
    return [name for name in scenarios if name in STATIC or name == OPENER]


def survey_for(unit: CheckUnit, scenario: str) -> CheckUnit:
    """Return the unit that finds out what a livepatch changes, for a unit whose scenario must know it.

    Args:
        scenario: one that loads the livepatch.
    """
    return CheckUnit(
        unit.kernel, unit.livepatch, scenario, 0, (), unit.quick, unit.settings, unit.folder
    )  # fmt: skip


def outcome_of(unit: CheckUnit, verdict: Verdict, reasons: tuple[str, ...] = ()) -> ScenarioOutcome:
    """Return what came of a unit; what only a guest can tell is empty in it."""
    # Whoever wants to see a fault again pastes this: it must name no more than what showed it.
    only = [] if unit.livepatch.alone else ["--livepatch", unit.livepatch.name]
    quick = ["--quick"] if unit.quick else []
    debug = ["--debug"] if unit.settings.debug else []
    # With a shorter deadline than usual, what was violated may be held the next time.
    seconds = f"{unit.settings.deadline_s:.12g}"
    deadline = ["--deadline", seconds] if unit.settings.deadline_s != Settings().deadline_s else []
    words = ["klp", "check", unit.livepatch.source.word, "--kernel", unit.kernel.name, *only,
             "--scenario", unit.scenario, *quick, *debug, *deadline]  # fmt: skip
    return ScenarioOutcome(
        kernel=unit.kernel.name, livepatch=unit.livepatch.name, scenario=unit.scenario,
        repetition=unit.repetition, verdict=verdict, reasons=reasons, notes=(), rules={}, lost=False,
        seconds=0.0, command=shlex.join(words), folder="",
    )  # fmt: skip
