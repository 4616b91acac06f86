# SPDX-License-Identifier: Apache-2.0
"""Other livepatches: below it, on top of it, and in its place.

The others are patches/companion, which goes on in the originals' bodies, whatever functions it is given,
and a copy of the livepatch itself. Documentation/livepatch/livepatch.rst, 5. Livepatch life-cycle, and
cumulative-patches.rst say what must come of it.
"""

from __future__ import annotations

import errno

from klp.analysis.history import History
from klp.check.scenario import scenario
from klp.check.stage import NotApplicable, Stage
from klp.drive.steps import Moment
from klp.drive.subject import LivepatchSubject, Misbehaved
from klp.guest.errnos import name_of
from klp.modules.plan import module_name
from klp.modules.rename import renamed

# What patches/companion has room for.
_FUNCTIONS, _OBJECTS = 16, 8
_ELSEWHERE = "vmlinux:version_proc_show,1"


@scenario("on-top", "enabled and disabled on top of another livepatch of the same functions",
          informed=True)  # fmt: skip
def on_top(stage: Stage) -> None:
    """The newest livepatch wins: what is seen of it is the same as without another one below.

    klp_ftrace_handler (kernel/livepatch/patch.c) goes on in the function on top of the stack.
    """
    stage.set_up()
    companion = stage.case.livepatch("companion")
    companion.load(_same_functions(stage))
    stage.load()
    stage.observe(Moment.ENABLED)
    if _cumulative(stage):
        companion.wait_gone()
        companion.unload()
        stage.note("it replaced the other livepatch, being cumulative")
    stage.livepatch.disable()
    stage.observe(Moment.AFTER)
    stage.unload()
    if companion.loaded:
        companion.disable()
        companion.unload()
    stage.tear_down()


@scenario("underneath", "another livepatch of the same functions comes on top of it and goes; then it is "
          "disabled below one", informed=True)  # fmt: skip
def underneath(stage: Stage) -> None:
    """What is on top uncovers it again when disabled, and does not keep it from being disabled below.

    Since 5.1 livepatches are disabled in any order; before, only the one on top could be.
    """
    stage.set_up()
    stage.load()
    companion = stage.case.livepatch("companion")
    functions = _covering(stage)
    companion.load(functions)
    _demand_enabled(stage, "while another livepatch was laid on top of it")
    companion.disable()
    companion.unload()
    stage.observe(Moment.ENABLED)
    companion.load(functions)
    stage.livepatch.disable()
    stage.unload()
    stage.observe(Moment.AFTER)
    companion.disable()
    companion.unload()
    stage.observe(Moment.AFTER)
    stage.tear_down()


@scenario("replaced-by-itself", "a copy under another name takes its place, or is stacked on it if not "
          "cumulative")  # fmt: skip
def replaced_by_itself(stage: Stage) -> None:
    """Its own next version would take its place in the same way."""
    stage.set_up()
    stage.load()
    stage.observe(Moment.ENABLED)
    cumulative = _cumulative(stage)
    if not cumulative:
        _demand_stackable(stage)
    # Under another name, for the kernel has one module of a name: a second load is refused with EEXIST.
    copy = stage.case.patch(renamed(stage.candidate.livepatch, stage.case.scratch))
    copy.load(stage.candidate.plan.parameters)
    if cumulative:
        stage.livepatch.wait_gone()
    stage.observe(Moment.ENABLED)
    if not cumulative:
        stage.note("it is not cumulative: its copy was stacked on it")
        stage.livepatch.disable()
        stage.observe(Moment.ENABLED)
    stage.unload()
    stage.observe(Moment.ENABLED)
    copy.disable()
    stage.observe(Moment.AFTER)
    if not stage.stays:
        copy.unload()
    stage.tear_down()


@scenario("replaced-by-empty", "a cumulative livepatch that changes nothing takes its place")
def replaced_by_empty(stage: Stage) -> None:
    """The way to be rid of every livepatch at once: the original code is back in one transition."""
    stage.set_up()
    stage.load()
    stage.observe(Moment.ENABLED)
    callbacks = _has_callbacks(stage)
    empty = stage.case.livepatch("companion")
    got = empty.load("replace=1", expect=None)
    # The errno alone does not tell: klp_enable_patch() has EINVAL for much else. The probes saw what
    # klp_is_patch_compatible (kernel/livepatch/state.c) answered.
    if got == errno.EINVAL and _incompatible(stage):
        stage.note("refused: the empty livepatch does not carry the system states that it has installed")
        _leave(stage)
        return
    if got:
        stage.fault(f"an empty cumulative livepatch in its place is refused with {name_of(got)}")
        return
    stage.livepatch.wait_gone()
    if callbacks:
        # cumulative-patches.rst, Limitations: those of the replaced livepatch are ignored.
        stage.note("replaced; what its callbacks set up stays, for they do not run when it is replaced")
        return
    stage.observe(Moment.AFTER)
    stage.unload()
    empty.disable()
    empty.unload()
    stage.observe(Moment.AFTER)
    stage.tear_down()


@scenario("downgrade", "the older version that patch.toml loads before it takes its place again")
def downgrade(stage: Stage) -> None:
    """The way back from an update: either refused, and nothing changes, or all is as the older one has it.

    The older version knows nothing of the newer one. What that has set up outside of the code, it can
    only leave: system states are how the kernel refuses that (klp_is_patch_compatible).
    """
    stage.set_up()
    stage.load()
    stage.observe(Moment.ENABLED)
    older = _replaced(stage)
    older.unload()
    stage.loaded.remove(older)
    got = older.load(_parameters(stage, older.name), expect=None)
    if got == errno.EINVAL and _incompatible(stage):
        stage.note(f"{older.name} is refused: it does not fit the system states that are installed")
        _leave(stage)
        return
    if got:
        stage.fault(f"{older.name}, the older version, is refused in its place with {name_of(got)}")
        return
    stage.livepatch.wait_gone()
    _demand_as_before(stage, older)
    stage.unload()
    if not stage.faults:
        _demand_as_before(stage, older)
    older.disable()
    if not stage.faults:  # what was not taken back by then is told, and stays
        stage.observe(Moment.AFTER)
    older.unload()
    stage.tear_down()


def _parameters(stage: Stage, name: str) -> str:
    """Return the parameters with which patch.toml loads a module."""
    return next(each.parameters for each in stage.candidate.plan.load if module_name(each.module) == name)


def _replaced(stage: Stage) -> LivepatchSubject:
    """Return the older version: what was loaded last of the cumulative livepatches that it replaced."""
    below = [each for each in stage.loaded if isinstance(each, LivepatchSubject)]
    if not below:
        raise NotApplicable("patch.toml loads no livepatch before it that would be its older version")
    if not _cumulative(stage):
        raise NotApplicable("it is not cumulative (klp_patch.replace), so that it took nobody's place")
    older = below[-1]
    if not _cumulative(stage, older.name):
        raise NotApplicable(
            f"{older.name} is not cumulative (klp_patch.replace): it would not take its place, but be "
            "stacked on it"
        )
    return older


def _demand_as_before(stage: Stage, older: LivepatchSubject) -> None:
    """See that the author's commands show what they showed when the older version was there alone."""
    for each in stage.candidate.plan.observe:
        if each.before:
            try:
                stage.livepatch.observe(each.command, each.before, moment=Moment.BEFORE)
            except Misbehaved as wrong:
                stage.fault(
                    f"not as with {older.name} alone, which has taken its place again: {each.command} says "
                    f"{wrong.output!r}, not {each.before!r}"
                )


def _leave(stage: Stage) -> None:
    stage.observe(Moment.ENABLED)
    stage.livepatch.disable()
    stage.observe(Moment.AFTER)
    stage.unload()
    stage.tear_down()


def _same_functions(stage: Stage) -> str:
    """Return the companion's parameters for the functions that the livepatch changes."""
    objects = [each for each in stage.objects if each.functions][:_OBJECTS]
    words = [f"{each.object}:{function}" for each in objects for function in each.functions]
    if not words:
        stage.note("it changes no function, so that the other livepatch changes another one")
        words = [_ELSEWHERE]
    if len(words) > _FUNCTIONS:
        stage.note(f"the other livepatch changes {_FUNCTIONS} of its {len(words)} functions")
    return "functions=" + "+".join(words[:_FUNCTIONS])


def _covering(stage: Stage) -> str:
    """Return the companion's parameters such that it may hide the livepatch while that is enabled.

    With callbacks or shadow variables, data may have been changed so that the original code cannot live
    with it: then the companion changes another function.
    """
    if _keeps_data(stage):
        stage.note("it has callbacks or shadow variables, so the other livepatch changes another function")
        return f"functions={_ELSEWHERE}"
    return _same_functions(stage)


def _demand_enabled(stage: Stage, when: str) -> None:
    if not stage.livepatch.enabled:
        stage.fault(f"it was disabled {when}")


def _demand_stackable(stage: Stage) -> None:
    if _keeps_data(stage):
        raise NotApplicable(
            "it is not cumulative (klp_patch.replace), so its copy would not replace it; and it has "
            "callbacks or shadow variables, which a copy stacked on it would have a second time"
        )


def _cumulative(stage: Stage, livepatch: str = "") -> bool:
    """Whether one replaces other livepatches, as its transition told; sysfs tells since 6.11 only."""
    legs = stage.trace.history().legs
    return any(leg.replace for leg in legs if leg.patch == (livepatch or stage.livepatch.name))


def _has_callbacks(stage: Stage) -> bool:
    return bool(stage.trace.history().callbacks.of(stage.livepatch.name))


def _keeps_data(stage: Stage) -> bool:
    history: History = stage.trace.history()
    return bool(history.callbacks.of(stage.livepatch.name)) or bool(history.ledger.allocated)


def _incompatible(stage: Stage) -> bool:
    decisions = stage.trace.history().states.decisions
    # The last one, for the livepatch's own load was decided on as well.
    return bool(decisions) and not decisions[-1][1].compatible
