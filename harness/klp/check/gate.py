# SPDX-License-Identifier: Apache-2.0
"""Which units of a check are not worth performing, after what came of those before them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from klp.analysis.checked import NOT_TRIED, ScenarioOutcome
from klp.analysis.diagnosis import DOES_NOT_END
from klp.analysis.evidence import Verdict
from klp.analysis.result import PatchedFunctions
from klp.check.plan import CheckUnit, Key
from klp.check.static import BUILD, STATIC_READ

_NO_END = f"{NOT_TRIED}its transition does not end: see `{{}}`"
_NOT_LOADED = f"{NOT_TRIED}it could not be loaded and enabled: see `{{}}`"
_NOT_BUILT = f"{NOT_TRIED}it could not be built: see `build`"
_NOT_FITTING = f"{NOT_TRIED}it is built for another kernel: see `static`"
_LOST = f"{NOT_TRIED}the guest was lost in `{{0}}`: see `{{0}}`"
# How the reason of a unit begins for which no guest was of use: one was lost before it, in a survey.
LOST_EARLY = f"{NOT_TRIED}the guest was lost as it was found out what it changes: "


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of one livepatch on one kernel.

    Attributes:
        built_for: the release that its module was built for; empty if it was not built.
        objects: what it changes; empty if it was never loaded.
        lost: why the guest was lost in which that was to be found out; empty where none was.
    """

    built_for: str = ""
    objects: tuple[PatchedFunctions, ...] = ()
    lost: str = ""


def why_not(
    unit: CheckUnit, found: Mapping[Key, ScenarioOutcome], learned: Learned, releases: Collection[str]
) -> str:
    """Return why a unit is not to be tried, in words; an empty string if it is.

    Args:
        found: the outcomes there are: those of `unit.first` among them.
        learned: of its livepatch on its kernel.
        releases: of all kernels of the check: a module that is for another of them is no fault.
    """
    if unit.scenario == BUILD:
        return ""
    if not learned.built_for:
        return _NOT_BUILT
    here = unit.kernel.release
    if learned.built_for != here:
        # A .ko fits one kernel only. In a check of several that is expected, once one of them is its own;
        # the vermagic of any other would be refused with ENOEXEC (check_modinfo, kernel/module/main.c).
        if learned.built_for in releases:
            return f"built for {learned.built_for}, and this kernel is {here}"
        return "" if unit.scenario == STATIC_READ else _NOT_FITTING
    if unit.scenario == STATIC_READ:
        return ""
    return (
        _left_out_by_author(unit)
        or _after_a_loss(unit, found, learned)
        or _after_its_life(unit, found, learned)
    )


def _left_out_by_author(unit: CheckUnit) -> str:
    """Say what patch.toml says is not for this livepatch, or for this kernel."""
    plan = unit.livepatch.plan
    if plan is None:
        return ""
    if plan.kernels and unit.kernel.name not in plan.kernels:
        return f"patch.toml says it is for {', '.join(plan.kernels)} only"
    return next((each.reason for each in plan.skip if each.scenario == unit.scenario), "")


def _after_a_loss(unit: CheckUnit, found: Mapping[Key, ScenarioOutcome], learned: Learned) -> str:
    """Say why it cannot be tried: whatever took the guest of a plain life would take this one's as well.

    Each scenario that loads it would lose a guest of its own, minutes and all, to say the same again.
    """
    lost = next((found[key] for key in unit.first if key in found and found[key].lost), None)
    if lost is not None:
        return _LOST.format(lost.scenario)
    return f"{LOST_EARLY}{learned.lost}" if learned.lost else ""


def _after_its_life(unit: CheckUnit, found: Mapping[Key, ScenarioOutcome], learned: Learned) -> str:
    """Say why it cannot be tried: in an earlier unit it could not be enabled, or stayed in transition."""
    for key in unit.first:
        before = found.get(key)
        # What `static` finds is a forecast from the file; whether the kernel does refuse it, `life`
        # tells.
        if before is None or before.verdict is not Verdict.VIOLATED or before.scenario == STATIC_READ:
            continue
        if any(each.startswith(DOES_NOT_END) for each in before.reasons):
            return _NO_END.format(before.scenario)
        # Sysfs showed its objects once it was enabled: so a fault found later in its life stops no other
        # scenario.
        if not learned.objects:
            return _NOT_LOADED.format(before.scenario)
    return ""
