# SPDX-License-Identifier: Apache-2.0
"""What a scenario of `klp check` is.

A scenario is a function of a `Stage`, made one by the decorator `scenario`, in a module that `registry`
lists. It drives the livepatch of the stage in a guest nobody has used, and ends in one of these ways:

- it returns: all that it did went well;
- it raises `stage.NotApplicable`: nothing of the kind can be tried on this livepatch or this kernel;
- it raises another `KlpError`, such as those of `LivepatchSubject`: the livepatch failed;
- `Stage.fault` tells what is wrong and lets it go on, so that one scenario can name several faults.

Nothing has to be unloaded or put back at the end: the guest goes with all that is in it. But what is to be
judged must have happened: a rule of the livepatch's end holds only if it was disabled and unloaded.

After it `perform` does the same for every scenario: it sees that the guest lives and that the kernel log
has no report (patch.toml's `expect` says which are no fault), judges every rule on the trace, and puts what
it found in the words of `klp.analysis.diagnosis`; `host` keeps the run folder. A scenario judges no rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from klp.check.stage import Stage

Drive = Callable[[Stage], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario.

    Attributes:
        name: in lower case with hyphens; ``--scenario`` takes it, and its folder is called so.
        summary: one line for ``klp check --list``.
        drive: the function.
        quick: whether it belongs to ``--quick``.
        cpus: how many CPUs its guest must have; None for what the settings say. Each other number costs
            a saved guest of its own, made when first needed: minutes.
        informed: whether it reads `Stage.objects`: what the livepatch changes, known from sysfs.
    """

    name: str
    summary: str
    drive: Drive
    quick: bool = False
    cpus: int | None = None
    informed: bool = False


def scenario(
    name: str, summary: str, *, quick: bool = False, cpus: int | None = None, informed: bool = False
) -> Callable[[Drive], Scenario]:
    """Make a scenario of a function; see `Scenario` for the arguments."""

    def made(drive: Drive) -> Scenario:
        return Scenario(name, summary, drive, quick=quick, cpus=cpus, informed=informed)

    return made
