# SPDX-License-Identifier: Apache-2.0
"""What a livepatch is expected to do: the `patch.toml` of patches/, and lists of such plans."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

from klp import paths
from klp.model import Module
from klp.modules.modinfo import pins_itself
from klp.modules.named import check_named
from klp.modules.patchfile import SourcePatch
from klp.modules.sources import ModuleSource, SourceFolder, UpstreamSamples
from klp.sourcepatch.layers import MakeTable
from klp.toml import read_toml

_PLAN_FILE = "patch.toml"
# Why a livepatch stays whose author said nothing of it.
_PINNED = "its init function takes a reference of its own module, and nothing puts it back"

RuleId = Annotated[str, msgspec.Meta(pattern=r"^[A-Z][0-9]+$")]
# As sysfs and lsmod show it: Kbuild turns hyphens into underscores (KBUILD_MODNAME).
ModuleName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_]+$")]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class LogPhase(StrEnum):
    """A part of a livepatch's life in which its log lines are looked for."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    UNLOADED = "unloaded"


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A TOML table in which an unknown key is an error: a misspelt one would be a check never made."""


def _check_parameters(text: str) -> None:
    """Refuse parameters that insmod cannot be given, such as ``label='don't'``: a quote is left open."""
    try:
        shlex.split(text)
    except ValueError as error:
        raise ValueError(f"parameters: {str(error).lower()} in {text!r}") from None


class LoadedBefore(_Table, frozen=True):
    """A module, or another livepatch, that is loaded before the livepatch under test.

    Attributes:
        parameters: as insmod takes them: ``k=v k=v``.
    """

    module: ModuleName
    parameters: str = ""

    def __post_init__(self) -> None:
        _check_parameters(self.parameters)


class Observation(_Table, frozen=True):
    """A command in the guest, and the regular expression found (`re.search`) in what it prints.

    Attributes:
        before: expected before the livepatch is loaded; an empty expression is not checked.
        enabled: expected once its transition is complete.
        after: expected once it is disabled.
        pending: expected while its transition is held up; where that is left out, what is expected on
            either side of it.
    """

    command: Text
    before: str = ""
    enabled: str = ""
    after: str = ""
    pending: str = ""

    def __post_init__(self) -> None:
        for key in ("before", "enabled", "after", "pending"):
            _check_expression(key, getattr(self, key))
        if not (self.before or self.enabled or self.after):
            raise ValueError(f"{self.command}: before, enabled and after are all empty")

    def in_between(self, settled: str) -> tuple[str, ...]:
        """Return what may be seen while a transition is held up; nothing where the author does not say.

        Args:
            settled: what is expected on the other side of it than enabled: `before`, or `after`.
        """
        if self.pending:
            return (self.pending,)
        return (settled, self.enabled) if settled and self.enabled else ()


class LogLine(_Table, frozen=True):
    """A line that the kernel log must gain in a phase.

    Attributes:
        when: `enabled` is from the livepatch's loading until it is being disabled, `disabled` from
            there until its module is being removed, `unloaded` from there until every module of
            `PatchPlan.load` is gone too, the last one loaded first.
        pattern: found (`re.search`) in one line.
    """

    when: LogPhase
    pattern: Text

    def __post_init__(self) -> None:
        _check_expression("pattern", self.pattern)


class ExpectedReport(_Table, frozen=True):
    """A report of the kernel that the livepatch, or its target, causes on purpose.

    Attributes:
        pattern: found (`re.search`) in a line of it.
        reason: why it is no fault.
    """

    pattern: Text
    reason: Text

    def __post_init__(self) -> None:
        _check_expression("pattern", self.pattern)


class Skip(_Table, frozen=True):
    """A scenario of `klp check` that is not for this livepatch, and why."""

    scenario: Text
    reason: Text


class Workload(_Table, frozen=True):
    """A command in the guest that calls what the livepatch changes; for the scenario `exercise`.

    Attributes:
        may_fail: whether it may end with an exit status other than 0.
    """

    command: Text
    may_fail: bool = False


class _Expectations(_Table, frozen=True, kw_only=True):
    """What may stand in a plan of any kind; `PatchPlan` explains each."""

    rules: tuple[RuleId, ...] = ()
    kernels: tuple[Text, ...] = ()
    parameters: str = ""
    load: tuple[LoadedBefore, ...] = ()
    observe: tuple[Observation, ...] = ()
    log: tuple[LogLine, ...] = ()
    settle: Seconds = 0.0
    expect: tuple[ExpectedReport, ...] = ()
    skip: tuple[Skip, ...] = ()
    workload: tuple[Workload, ...] = ()
    stays: str = ""


class PatchPlan(_Expectations, frozen=True, kw_only=True):
    """What one livepatch proves, and how to see it.

    Attributes:
        name: the plan's own name.
        summary: one line.
        rules: ids of the rules that its run lets be judged.
        kernels: names of the kernels it is for; empty means all.
        livepatch: the module under test; empty where the plan is of plain modules only.
        parameters: of the livepatch, as insmod takes them.
        load: what is loaded before it, in this order.
        observe: what is looked at before, during and after.
        log: what the kernel log must say.
        settle: seconds to wait at most, once the livepatch is enabled, for the lines of that phase: a
            livepatch may log from a timer or a thread.
        expect: reports in the kernel log that are no fault; for `klp check`.
        skip: scenarios of `klp check` that are not for it.
        workload: what calls the functions that it changes; for `klp check`.
        stays: why its module stays loaded for good, on purpose, so that nobody is to unload it; empty where
            it can be unloaded, or where its module tells that by itself (`as_built`). It can be disabled
            either way.
    """

    name: Text
    summary: Text
    livepatch: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_]*$")] = ""

    def is_for(self, kernel: str) -> bool:
        """Whether it is for a kernel of that name."""
        return not self.kernels or kernel in self.kernels

    def __post_init__(self) -> None:
        if not (self.livepatch or self.load):
            raise ValueError(f"{self.name}: names no livepatch, and no module to load")
        _check_parameters(self.parameters)
        if self.stays and not self.livepatch:
            raise ValueError(f"{self.name}: stays is said of a livepatch, and it names none")
        if self.stays and any(each.when is LogPhase.UNLOADED for each in self.log):
            raise ValueError(f"{self.name}: it stays, so that no log line comes when it is unloaded")


class _PlanList(_Table, frozen=True):
    """A file of several plans, each a ``[[plan]]``."""

    plan: tuple[PatchPlan, ...]


def read_plan(file: Path) -> PatchPlan:
    """Read a `patch.toml`.

    Raises:
        SettingsError: it cannot be read, has an unknown key, or a regular expression that is none.
    """
    return read_toml(file, PatchPlan)


def read_plans(file: Path) -> tuple[PatchPlan, ...]:
    """Read a file of ``[[plan]]`` tables.

    Raises:
        SettingsError: as `read_plan`.
    """
    return read_toml(file, _PlanList).plan


def plans_of(
    source: ModuleSource, beside: Sequence[ModuleSource] = (), *, or_of_the_kernel: bool = False
) -> tuple[PatchPlan, ...]:
    """Return the plans that stand beside the sources; none where the author wrote none.

    Args:
        beside: other sources whose modules a plan may load.
        or_of_the_kernel: whether it may load the kernel's own modules as well.

    Raises:
        SettingsError: as `read_plan`; or it names a module that is not built.
    """
    match source:
        case UpstreamSamples():
            return read_plans(paths.SAMPLE_PLANS)
        case SourceFolder(folder=folder) if (folder / _PLAN_FILE).is_file():
            plan = read_plan(folder / _PLAN_FILE)
            check_named(folder / _PLAN_FILE, filter(None, [plan.livepatch]), [source])
            loads = [each.module for each in plan.load]
            check_named(folder / _PLAN_FILE, loads, [source, *beside], or_of_the_kernel=or_of_the_kernel)
            return (plan,)
        case SourcePatch():
            return (_plan_beside(source),)
        case _:
            return ()


class _BesidePatch(_Expectations, frozen=True, kw_only=True):
    """The TOML file beside a source patch: a `PatchPlan` without names, which follow from the patch's."""

    summary: str = ""
    make: MakeTable = MakeTable()


def _plan_beside(source: SourcePatch) -> PatchPlan:
    """Return the plan of a source patch: the livepatches that it replaces are loaded before it."""
    beside = read_toml(source.companion, _BesidePatch) if source.companion else _BesidePatch()
    given = {name: getattr(beside, name) for name in beside.__struct_fields__ if name != "make"}
    given["summary"] = beside.summary or f"from {source.name}"
    *earlier, own = source.layers
    given["load"] = (*(LoadedBefore(module=each.module) for each in earlier), *beside.load)
    return PatchPlan(name=Path(source.name).stem, livepatch=own.module, **given)


def plain_plan(livepatch: Module, modules: Iterable[Module], word: str) -> PatchPlan:
    """Return the plan of a livepatch whose author wrote none: what else was built is loaded before it.

    Args:
        modules: all that its sources gave; those that are livepatches themselves are left out.
        word: what the user called the sources.
    """
    others = tuple(
        LoadedBefore(module=each.name)
        for each in modules
        if each.name != livepatch.name and not each.livepatch
    )
    name = livepatch.name.replace("_", "-")
    return PatchPlan(name=name, summary=f"from {word}", livepatch=livepatch.name, load=others)


def as_built(plan: PatchPlan, livepatch: Module) -> PatchPlan:
    """Return a plan with what the livepatch's module tells and its author did not say: that it stays."""
    unloaded = any(each.when is LogPhase.UNLOADED for each in plan.log)
    if plan.stays or unloaded or not pins_itself(livepatch.file):
        return plan
    return msgspec.structs.replace(plan, stays=_PINNED)


def module_name(word: str) -> str:
    """Return a module's name as the kernel shows it, for a file name or for the name with hyphens."""
    return word.removesuffix(".ko").replace("-", "_")


def _check_expression(key: str, expression: str) -> None:
    try:
        re.compile(expression)
    except re.error as error:
        raise ValueError(f"{key}: no regular expression: {error} in {expression!r}") from None
