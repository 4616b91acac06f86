# SPDX-License-Identifier: Apache-2.0
"""Modules that a livepatch changes: absent, coming, and going, in any order with the livepatch.

klp_module_coming() and klp_module_going() in kernel/livepatch/core.c do to one object what enabling and
disabling do to all, callbacks included.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from klp import arch
from klp.check.resident import fetched_module
from klp.check.scenario import scenario
from klp.check.stage import NotApplicable, Stage
from klp.drive.steps import Moment
from klp.drive.subject import ModuleSubject, Refused
from klp.model import Module
from klp.modules.failing import failing
from klp.modules.plan import module_name


@scenario("target-absent", "enabled and disabled while the modules that it changes are not there",
          informed=True)  # fmt: skip
def target_absent(stage: Stage) -> None:
    """Nothing of an absent module is patched, and none of its callbacks runs."""
    targets = _targets(stage)
    stage.set_up(without=_late(stage, targets))
    stage.load()
    for name in targets:
        _demand_patched(stage, name, patched=False)
    stage.livepatch.disable()
    stage.unload()
    stage.tear_down()


@scenario("target-comes-and-goes", "the modules that it changes come after it, go while it is enabled, and "
          "come again", informed=True)  # fmt: skip
def target_comes_and_goes(stage: Stage) -> None:
    """What is patched at load must be patched as well when the module comes later, as often as it comes."""
    targets = _targets(stage)
    late = _late(stage, targets)
    _demand_removable(stage, targets)
    stage.set_up(without=late)
    stage.load()
    coming = _come(stage, targets, late)
    stage.observe(Moment.ENABLED)
    _go(stage, targets, coming)
    coming = _come(stage, targets, late)
    stage.observe(Moment.ENABLED)
    stage.livepatch.disable()
    stage.observe(Moment.AFTER)
    stage.unload()
    for subject in reversed(coming):
        subject.unload()
    stage.tear_down()


@scenario("target-init-fails", "the modules that it changes come after it, and their init functions "
          "fail; then they come after all", informed=True)  # fmt: skip
def target_init_fails(stage: Stage) -> None:
    """A module is patched before its init function runs: if that fails, all of it must be taken back.

    load_module() calls klp_module_coming() first, and klp_module_going() where do_init_module() fails
    (kernel/module/main.c): the same callbacks as when a module goes that had lived.
    """
    targets = _targets(stage)
    late = _late(stage, targets)
    _demand_removable(stage, targets)
    copies = {name: _failing(stage, name) for name in targets}
    if not any(copies.values()):
        raise NotApplicable(f"{', '.join(targets)}: no init function that could fail")
    stage.set_up(without=late)
    stage.load()
    coming = _come(stage, targets, late, copies)
    stage.observe(Moment.ENABLED)
    stage.livepatch.disable()
    stage.observe(Moment.AFTER)
    stage.unload()
    for subject in reversed(coming):
        subject.unload()
    stage.tear_down()


def _failing(stage: Stage, name: str) -> Module | None:
    """Return a copy of a target whose init function fails; None if it has none."""
    kernel, folder = stage.kernel, stage.case.scratch
    module = stage.candidate.modules.get(name) or fetched_module(kernel, name, folder)
    return failing(module, arch.of(kernel.architecture), folder / "failing")


def _targets(stage: Stage) -> tuple[str, ...]:
    """Return the modules that it changes, in the order in which patch.toml loads them."""
    names = stage.target_modules
    if not names:
        raise NotApplicable("it changes nothing but vmlinux, which neither comes nor goes")
    # Such a symbol is resolved when the livepatch is loaded, and its module held from then on; one that is
    # reached by a relocation of the livepatch's own (.klp.rela) is resolved when the object comes.
    needed = [name for name in names if name in stage.candidate.livepatch.depends]
    if needed:
        listed = ", ".join(needed)
        raise NotApplicable(f"it uses symbols of {listed} directly, and cannot be loaded before that")
    order = [module_name(entry.module) for entry in stage.candidate.plan.load]
    return tuple(sorted(names, key=lambda name: order.index(name) if name in order else len(order)))


def _late(stage: Stage, targets: tuple[str, ...]) -> tuple[str, ...]:
    """Return the targets and what needs them: what is loaded after the livepatch."""
    late = list(targets)
    for entry in stage.candidate.plan.load:
        name = module_name(entry.module)
        built = stage.candidate.modules.get(name)
        needs = built.depends if built else stage.candidate.resident.get(name, ())
        if name not in late and {module_name(each) for each in needs} & set(late):
            late.append(name)
    return tuple(late)


def _demand_removable(stage: Stage, targets: tuple[str, ...]) -> None:
    """See that each target of the guest's kernel can go while nobody has livepatched it."""
    for name in targets:
        if name in stage.candidate.modules:
            continue
        subject = stage.module(name)
        try:
            if not subject.loaded:
                subject.load()
            subject.unload()
        except Refused as refused:
            raise NotApplicable(f"the guest cannot be without {name}: {refused.message}") from None


def _come(
    stage: Stage,
    targets: tuple[str, ...],
    late: tuple[str, ...],
    failing_first: Mapping[str, Module | None] | None = None,
) -> list[ModuleSubject]:
    """Load the targets and what needs them; return them in that order.

    Args:
        failing_first: copies of them of which each comes before the module itself, and fails.
    """
    copies = failing_first or {}
    planned = {module_name(entry.module): entry.parameters for entry in stage.candidate.plan.load}
    order = [*(name for name in planned if name in late), *(name for name in late if name not in planned)]
    coming = []
    for name in order:
        subject = stage.module(name)
        if copy := copies.get(name):
            _come_in_vain(stage, copy, planned.get(name, ""))
            subject = stage.module(name)  # shipped again, in the copy's place
        # If its functions cannot be patched now, it is the target whose load fails: klp_module_coming()
        # has the errno returned by init_module (prepare_coming_module, kernel/module/main.c).
        subject.load(planned.get(name, ""))
        coming.append(subject)
    for name in targets:
        _demand_patched(stage, name, patched=True)
    stage.livepatch.look()
    return coming


def _come_in_vain(stage: Stage, copy: Module, parameters: str) -> None:
    """Load a copy of a target whose init function fails; nothing of it may stay patched."""
    stage.case.plain(copy).load(parameters, expect=errno.ENODEV)
    found = _patched(stage, copy.name)
    if found:
        stage.fault(f"{copy.name} is patched, although its init function failed")
    stage.livepatch.look()


def _go(stage: Stage, targets: tuple[str, ...], coming: list[ModuleSubject]) -> None:
    for subject in reversed(coming):
        subject.unload()
    for name in targets:
        _demand_patched(stage, name, patched=False)
    stage.livepatch.look()


def _demand_patched(stage: Stage, name: str, *, patched: bool) -> None:
    """See what sysfs says of an object; kernels before 6.1 do not say whether it is patched."""
    found = _patched(stage, name)
    if found is not None and found is not patched:
        when = "it was loaded after the livepatch" if patched else "it is not loaded"
        stage.fault(f"{name} is {'' if found else 'not '}patched, although {when}")


def _patched(stage: Stage, name: str) -> bool | None:
    """Return what sysfs says of an object; None, with a fault where it shows none, if it does not say."""
    state = stage.livepatch.state
    found = next((each for each in state.objects if each.name == name), None) if state else None
    if found is None:
        stage.fault(f"sysfs shows no object {name} of it")
    return found.patched if found else None
