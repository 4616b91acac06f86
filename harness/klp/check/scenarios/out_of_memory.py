# SPDX-License-Identifier: Apache-2.0
"""Memory that runs out at one moment of a livepatch's life, and at another the next time.

patches/no-memory has the kernel's side of it: what is allocated with the livepatch's code on the stack,
or by klp_enable_patch() as it is loaded, is counted, and one of those allocations fails. Distributions
build their kernels without fault injection (CONFIG_FAULT_INJECTION), which would do the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from klp.check.scenario import scenario
from klp.check.scenarios.cpus import cpus_of
from klp.check.stage import NotApplicable, Stage
from klp.drive.steps import Moment
from klp.drive.subject import not_enabled
from klp.guest.errnos import name_of

# A life takes an emulated guest three seconds.
_LIVES, _QUICK_LIVES = 12, 4


class _Shortage:
    """Has the nth allocation fail that is made for the livepatch."""

    def __init__(self, stage: Stage) -> None:
        self._guest = stage.guest
        self._module = stage.case.module("no-memory")
        self._module.load(f"module={stage.livepatch.name}")

    def begin(self, nth: int) -> None:
        """Count anew, and have one fail; none if `nth` is 0."""
        self._put("nth", str(nth))
        self.go_on()

    def go_on(self) -> None:
        """Go on counting."""
        self._put("armed", "1")

    def pause(self) -> None:
        """Count nothing for a while, and have nothing fail."""
        self._put("armed", "0")

    def counted(self) -> tuple[int, tuple[int, ...]]:
        """Return how many allocations there were, and which the livepatch's own code asked for."""
        own = self._module.parameter("own")
        return int(self._module.parameter("count")), tuple(cpus_of(own)) if own else ()

    @property
    def failed(self) -> str:
        """The function that asked for the allocation that failed; empty if none did."""
        return self._module.parameter("failed")

    def end(self) -> None:
        """Be gone."""
        self._module.unload()

    def _put(self, parameter: str, value: str) -> None:
        path = f"/sys/module/{self._module.name}/parameters/{parameter}"
        self._guest.run(f"echo {value} >{path}").must("choosing an allocation to fail")


@scenario("out-of-memory", "an allocation fails in its load, its transition or a callback, another in each "
          "of several lives")  # fmt: skip
def out_of_memory(stage: Stage) -> None:
    """It must be loaded whole or refused whole, and leave nothing behind."""
    stage.set_up()
    shortage = _Shortage(stage)
    _live(stage, shortage, 0)
    count, own = shortage.counted()
    if not count:
        raise NotApplicable("nothing is allocated in its life, so that nothing can fail")
    numbers = chosen_numbers(count, own, _QUICK_LIVES if stage.quick else _LIVES)
    lives = []
    for nth in numbers:
        stage.tell(f"allocation {nth} of {count} fails")
        lives.append(_live(stage, shortage, nth))
    failed = [life for life in lives if life.failed]
    if not failed:
        raise NotApplicable("no allocation could be made to fail")
    refused = sum(life.refused for life in failed)
    mine = f", {len(own)} of them by its own code" if own else ""
    stage.note(
        f"{count} allocations in its life{mine}; {len(failed)} failed, each in a life of its own: refused "
        f"{refused} times, enabled all the same {len(failed) - refused} times"
    )
    shortage.end()
    stage.tear_down()


def chosen_numbers(count: int, own: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Return which allocations are to fail: those of the livepatch's own code first, others spread evenly.

    Args:
        count: how many there are, numbered from 1.
        own: which of them the livepatch's own code asks for.
        most: how many are wanted at most.
    """
    first = own[:most]
    others = [each for each in range(1, count + 1) if each not in own]
    room = min(most - len(first), len(others))
    return (*first, *(others[place * len(others) // room] for place in range(room)))


@dataclass(frozen=True, slots=True)
class _Life:
    """A life in which an allocation was to fail: who asked for it, if it did; whether it was refused."""

    failed: str
    refused: bool


def _live(stage: Stage, shortage: _Shortage, nth: int) -> _Life:
    """Take the livepatch through a life in which an allocation fails; in none if `nth` is 0."""
    stage.put_back()
    plain = _as_before(stage)
    shortage.begin(nth)
    got = stage.load(expect=None)
    # What is observed calls the new functions, whose commands may then fail as well.
    shortage.pause()
    if got:
        failed = shortage.failed
        _refused(stage, got, nth, failed)
        if plain:
            stage.observe(Moment.REFUSED)
        return _Life(failed, refused=True)
    if not stage.livepatch.state:
        raise not_enabled(stage.livepatch.name)
    stage.observe(Moment.ENABLED)
    shortage.go_on()
    stage.livepatch.disable()
    shortage.pause()
    stage.observe(Moment.AFTER)
    stage.unload()
    return _Life(shortage.failed, refused=False)


def _as_before(stage: Stage) -> bool:
    """Whether all is as before the first life: what a life does on purpose may stay when it has ended."""
    return all(
        re.search(each.before, stage.guest.run(each.command).stdout.strip())
        for each in stage.candidate.plan.observe
        if each.before
    )


def _refused(stage: Stage, got: int, nth: int, failed: str) -> None:
    """See that a load which was refused left nothing, and was refused for the allocation that failed."""
    if not failed:
        stage.fault(f"its load was refused with {name_of(got)} although no allocation failed")
    if stage.livepatch.state or stage.livepatch.loaded:
        stage.fault(
            f"its load was refused with {name_of(got)} as allocation {nth} failed, and it is there all the "
            "same"
        )
