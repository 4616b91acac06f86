# SPDX-License-Identifier: Apache-2.0
"""Control lives, and what a livepatch's life leaves behind beyond theirs.

A control life is that of patches/companion, which goes on in the original's body: what changes about the
system meanwhile, no livepatch has changed. `LifeWatch` puts one before the life that is watched, and
another behind it where something was left: what that shows as well is no fault.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from klp.analysis.inventory import (
    Alteration,
    Inventory,
    Variation,
    confirmed,
    differences,
    lasting,
    learned,
    put_back,
    unexplained,
)
from klp.check.inventory import Inventories
from klp.check.stage import Stage
from klp.check.variations import Variations
from klp.modules.plan import module_name
from klp.waiting import DeadlineMissed, wait_until

_FUNCTION, _CALL = "vmlinux:version_proc_show,1", "cat /proc/version"
# What goes by itself is gone in this time: frees after a grace period (kfree_rcu holds some back for 5 s),
# workers that end, what listens to device events. One that stays so long, stays.
_SETTLES_S, _LOOK_S = 8.0, 0.5


def control_life(stage: Stage) -> None:
    """Let a livepatch live that changes nothing: loaded, called, disabled, unloaded.

    Raises:
        CheckFailed, TransitionStuck: not even that one could.
    """
    companion = stage.case.livepatch("companion")
    companion.load(f"functions={_FUNCTION}")
    stage.guest.run(_CALL)
    companion.disable()
    companion.unload()


def below(stage: Stage) -> bool:
    """Whether patch.toml has livepatches loaded before the one under check: those it may replace."""
    modules = stage.candidate.modules
    names = (module_name(each.module) for each in stage.candidate.plan.load)
    return any(name in modules and modules[name].livepatch for name in names)


class LifeWatch:
    """Sees what is left of a life: `begin` before it, `end` after it; `Stage.unload` in between.

    Attributes:
        variation: what is known to vary by itself, from this guest and from those before it.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._inventories = Inventories(stage.guest)
        self._kept = Variations(stage.case.cache, stage.guest.lab.image)
        self.variation: Variation = self._kept.known()
        self._before: Inventory = Inventory({})
        self._first: Inventory | None = None

    @property
    def unread(self) -> str:
        """What no inventory could look at, in words; empty where that is nothing."""
        why = f" ({'; '.join(self._inventories.unread)})" if self._inventories.unread else ""
        names = ", ".join(self._before.unread)
        return f"the inventory has no {names}{why}" if names else ""

    def look_first(self) -> None:
        """Take an inventory before the livepatches below are loaded; only where there are some.

        Raises:
            CheckFailed, VmLost: none could be taken.
        """
        self._first = self._inventories.take()

    def begin(self, control: Callable[[Stage], None] = control_life) -> None:
        """Learn from a control life, and take the inventory that a later one is held against.

        Args:
            control: lives it, with what the life that is watched does besides.

        Raises:
            CheckFailed, TransitionStuck, VmLost: it could not be lived, or no inventory be taken.
        """
        self._before = self._inventories.take()
        self._learn(control)
        stage = self._stage
        stage.before_unload = lambda: self._inventories.remember(stage.livepatch.module)

    def end(self, control: Callable[[Stage], None] = control_life) -> tuple[Alteration, ...]:
        """Return what the life has left changed or behind, and no control life has.

        Raises:
            CheckFailed, TransitionStuck, VmLost: as `begin`.
        """
        left, after = self.settled(self._before)
        if not left:
            return ()
        # What was left is there by now: what this control life shows besides came about by itself.
        before, self._before = self._before, after
        self._learn(control, before)
        left = unexplained(confirmed(left, differences(before, self._before)), self.variation)
        return put_back(left, self._first) if self._first else left

    def _learn(self, control: Callable[[Stage], None], first: Inventory | None = None) -> None:
        """Live a control life; learn what it has changed, and take that for the state before a life."""
        control(self._stage)
        _, after = self.settled(self._before)
        self.variation |= self._kept.add(learned(self._before, after, first))
        self._before = after

    def settled(self, before: Inventory) -> tuple[tuple[Alteration, ...], Inventory]:
        """Look until nothing is different that is not known to vary, for some seconds; return what stays.

        Raises:
            CheckFailed, VmLost: no inventory could be taken.
        """
        after = self._inventories.take()
        left = unexplained(differences(before, after), self.variation)

        def look() -> bool:
            nonlocal left, after
            if left:
                after = self._inventories.take()
                left = lasting(left, unexplained(differences(before, after), self.variation))
            return not left

        with suppress(DeadlineMissed):
            wait_until(look, what="end of what goes by itself", timeout_s=_SETTLES_S, every_s=_LOOK_S)
        return left, after
