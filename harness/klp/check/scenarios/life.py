# SPDX-License-Identifier: Apache-2.0
"""A livepatch's plain life: loaded, observed, disabled, unloaded; once, again, and many times."""

from __future__ import annotations

from klp.analysis.growth import Sample, growth
from klp.check.damage import count_all
from klp.check.memory import sample, settled, uncounted
from klp.check.scenario import scenario
from klp.check.stage import Stage
from klp.drive.steps import Moment

# Six samples either way, by which an object a cycle is told from chance (`klp.analysis.growth`). What is
# kept once weighs less the more cycles lie between them.
_CYCLES, _QUICK_CYCLES = 50, 6
_SAMPLES = 5


@scenario("life", "load, observe, disable, unload: what patch.toml says is seen before, enabled, after",
          quick=True)  # fmt: skip
def life(stage: Stage) -> None:
    """The first scenario: where it cannot be loaded, the others are not tried."""
    stage.live()


@scenario("enable-again", "disabled and unloaded, then loaded and enabled a second time", quick=True)
def enable_again(stage: Stage) -> None:
    """What the first life left behind is met by the second."""
    stage.set_up()
    for number in range(2):
        stage.tell(f"life {number + 1} of 2")
        stage.put_back()
        stage.load()
        stage.observe(Moment.ENABLED)
        stage.livepatch.disable()
        stage.observe(Moment.AFTER)
        stage.unload()
    stage.tear_down()


@scenario("cycles", f"{_CYCLES} loads and unloads ({_QUICK_CYCLES} with --quick): memory and shadow ledger "
          "compared", quick=True)  # fmt: skip
def cycles(stage: Stage) -> None:
    """What a life leaves behind adds up, so memory is compared between cycles.

    The first is left out: in it the kernel allocates what it then keeps for every later one.
    """
    if stage.case.debug and (cost := count_all(stage.guest)):
        stage.note(cost)
    stage.set_up()
    _cycle(stage)
    # At the start alone: on 7.x the first readings themselves have a cache grow, which would pass for a
    # leak.
    first = settled(stage.guest)
    if words := uncounted(first):
        stage.note(words)
    taken = [Sample(0, first)]
    wanted = _QUICK_CYCLES if stage.quick else _CYCLES
    for number in range(1, wanted):
        stage.tell(f"cycle {number + 1} of {wanted}")
        _cycle(stage)
        # Samples are spread evenly: a leak grows with the cycles, what only warms up does not.
        if number * _SAMPLES // (wanted - 1) > (number - 1) * _SAMPLES // (wanted - 1):
            taken.append(Sample(number, sample(stage.guest)))
    stage.tear_down()
    for words in growth(taken):
        stage.fault(words)


def _cycle(stage: Stage) -> None:
    """One life; what is changed is called in it, for that may be what takes memory."""
    stage.put_back()
    stage.load()
    stage.observe(Moment.ENABLED)
    stage.livepatch.disable()
    stage.unload()
