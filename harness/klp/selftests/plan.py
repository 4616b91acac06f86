# SPDX-License-Identifier: Apache-2.0
"""What a run of the selftests has to do, as frozen units: one for each script of each kernel. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from klp.paths import RunLayout, SelftestsLayout
from klp.selftests.build import Bundle, Script, Selftests
from klp.vm.request import MachineRequest


@dataclass(frozen=True, slots=True)
class KernelSelftests:
    """The selftests of one kernel, built.

    Attributes:
        label: what its folder is called.
        request: the machine that they are run on.
    """

    label: str
    request: MachineRequest
    selftests: Selftests
    bundle: Bundle


@dataclass(frozen=True, slots=True)
class Choices:
    """What a user can say about a run.

    Attributes:
        jobs: how many guests at once; as many as the host holds where None.
        traced: whether probes watch each script.
        deadline_s: seconds a script may take; by accelerator where None.
    """

    jobs: int | None = None
    traced: bool = True
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class ScriptUnit:
    """One script on one kernel, for any machine to perform.

    Attributes:
        kernel: what the kernel's folder is called, unlike that of any other kernel of the run.
        request: the machine that it is run on.
        traced: whether probes watch it.
        deadline_s: seconds it may take; by accelerator where None.
        folder: the run's own.
    """

    script: Script
    bundle: Bundle
    kernel: str
    request: MachineRequest
    traced: bool
    deadline_s: float | None
    folder: Path

    @property
    def layout(self) -> SelftestsLayout:
        """The run's folder."""
        return SelftestsLayout(self.folder)

    @property
    def own(self) -> RunLayout:
        """The folder of this script."""
        return self.layout.script(self.kernel, self.script.name)

    @property
    def output(self) -> Path:
        """The file with what this script writes."""
        return self.layout.output(self.kernel, self.script.name)


def script_units(
    kernels: Sequence[KernelSelftests], folder: Path, choices: Choices
) -> tuple[ScriptUnit, ...]:
    """Return all that there is to do, kernel by kernel, in the order of each one's Makefile."""
    return tuple(
        ScriptUnit(
            script, each.bundle, each.label, each.request, choices.traced, choices.deadline_s, folder
        )
        for each in kernels
        for script in each.selftests.scripts
    )  # fmt: skip
