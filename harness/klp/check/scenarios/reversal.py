# SPDX-License-Identifier: Apache-2.0
"""Transitions that somebody holds up: let go, or turned round, in each direction.

Whoever sleeps in a changed function holds its livepatch up; an author must expect it at any time. The task
sleeps in the function itself while the livepatch is being enabled, and in the livepatch's own one while it
is being disabled: Documentation/livepatch/livepatch.rst, 4. Consistency model.
"""

from __future__ import annotations

from klp.check.holding import Holder
from klp.check.scenario import scenario
from klp.check.stage import Stage
from klp.drive.steps import Moment

# klp_enable_patch() makes the first pass itself; a second one shows that the delayed work tries again.
_SEVERAL = 2


@scenario("held-up", "tasks asleep in each changed function hold enabling and disabling up, then let go")
def held_up(stage: Stage) -> None:
    """It is enabled once before: only then can the holder find out where its functions are."""
    holder = _prepared(stage)
    stage.load(wait=False)
    holder.await_held(_SEVERAL)
    holder.observe(Moment.BEFORE)
    holder.let_go()
    _settled(stage)
    stage.observe(Moment.ENABLED)
    holder.catch("new")
    stage.livepatch.disable(wait=False)
    holder.await_held(_SEVERAL)
    holder.observe(Moment.AFTER)
    holder.let_go()
    _gone(stage)
    stage.unload()
    stage.tear_down()


@scenario("reverse-enable", "enabling, held up by sleepers, is turned round; then enabled after all")
def reverse_enable(stage: Stage) -> None:
    """The sleeper stays where it is: what it sleeps in is what the reversal goes back to."""
    holder = _prepared(stage)
    stage.load(wait=False)
    holder.await_held()
    holder.observe(Moment.BEFORE)
    # The sleeper has not switched yet, so it is where the reversal leads: nothing holds that up.
    stage.livepatch.reverse()
    _gone(stage)
    stage.unload()
    holder.let_go()
    stage.load()
    stage.observe(Moment.ENABLED)
    _leave(stage)


@scenario("reverse-disable", "disabling, held up by sleepers, is turned round; then disabled after all")
def reverse_disable(stage: Stage) -> None:
    """The sleeper stays in the livepatch's own function, which is in force again."""
    stage.set_up()
    stage.load()
    holder = Holder(stage)
    holder.catch("new")
    stage.livepatch.disable(wait=False)
    holder.await_held()
    holder.observe(Moment.AFTER)
    stage.livepatch.reverse()
    _settled(stage)
    # klp_reverse_transition() turns `enabled` round as well (kernel/livepatch/transition.c).
    if not stage.livepatch.enabled:
        stage.fault("its disabling was turned round, and yet it is not enabled")
    stage.observe(Moment.ENABLED)
    holder.let_go()
    _leave(stage)


def _prepared(stage: Stage) -> Holder:
    """Have tasks asleep in what it will change, and nothing of it loaded."""
    stage.set_up()
    stage.load()
    holder = Holder(stage)
    holder.catch("old")
    stage.livepatch.disable()
    stage.unload()
    return holder


def _settled(stage: Stage) -> None:
    stage.livepatch.wait()
    stage.livepatch.look()


def _gone(stage: Stage) -> None:
    stage.livepatch.wait()
    stage.livepatch.wait_gone()
    stage.livepatch.look()
    stage.observe(Moment.AFTER)


def _leave(stage: Stage) -> None:
    stage.livepatch.disable()
    stage.observe(Moment.AFTER)
    stage.unload()
    stage.tear_down()
