# SPDX-License-Identifier: Apache-2.0
"""Livepatches upon each other, instead of each other, of modules that come and go (livepatch.rst, 5)."""

from __future__ import annotations

import errno

import pytest

_SHOWN = "cat /proc/klp_layers"
_LEFT = "cat /proc/klp_left"


@pytest.fixture
def layer(module, livepatch):
    """Load the module with three functions, and return its livepatches by their names."""
    module("patches/layers", "klp_layers").load()
    return lambda name: livepatch("patches/layers", f"klp_layer_{name}")


@pytest.fixture
def part(module):
    """Return one of the two modules that one livepatch changes."""
    return lambda name: module("patches/several-objects", name)


@pytest.fixture
def several(livepatch):
    """The livepatch of vmlinux and two modules."""
    return livepatch("patches/several-objects")


@pytest.mark.everywhere
@pytest.mark.klp_rules("L1", "L2", "L4", "L5")
def test_the_newest_wins_and_uncovers_the_one_below(layer):
    one, two = layer("one"), layer("two")
    one.load()
    one.observe(_SHOWN, "^a=11 b=21 c=30$")
    two.load()
    two.observe(_SHOWN, "^a=12 b=21 c=32$", rules=("L2", "L5"))
    two.disable()
    two.observe(_SHOWN, "^a=11 b=21 c=30$", rules=("L2", "L5"))
    one.disable()
    one.observe(_SHOWN, "^a=10 b=20 c=30$")
    two.unload()
    one.unload()


@pytest.mark.klp_rules("L1", "L2", "L4", "L5")
def test_the_lower_one_can_go_first(layer):
    one, two = layer("one"), layer("two")
    one.load()
    two.load()
    one.disable()
    one.unload()
    two.observe(_SHOWN, "^a=12 b=20 c=32$", rules=("L2", "L5"))
    one.load()
    one.observe(_SHOWN, "^a=11 b=21 c=32$", rules=("L2", "L5"))


@pytest.mark.klp_rules("L1", "L2", "L3", "L4", "L5")
def test_a_cumulative_one_keeps_adds_and_drops_functions(layer):
    one, two = layer("one"), layer("two")
    one.load()
    two.load("replace=1")
    one.wait_gone()
    two.observe(_SHOWN, "^a=12 b=20 c=32$")
    one.unload()
    one.load("replace=1")
    two.wait_gone()
    one.observe(_SHOWN, "^a=11 b=21 c=30$")
    one.disable()
    one.observe(_SHOWN, "^a=10 b=20 c=30$")


@pytest.mark.klp_rules("L1", "L2", "L3", "L4", "L5")
def test_an_empty_cumulative_one_takes_all_back(layer):
    one, two, none = layer("one"), layer("two"), layer("none")
    one.load()
    two.load()
    none.load()
    one.wait_gone()
    two.wait_gone()
    none.observe(_SHOWN, "^a=10 b=20 c=30$", rules=("L3", "L5"))
    one.unload()
    two.unload()


@pytest.mark.klp_rules("L5")
def test_an_enabled_one_cannot_be_removed(layer):
    one = layer("one")
    one.load()
    one.unload(expect=errno.EAGAIN)
    one.observe(_SHOWN, "^a=11 b=21 c=30$")


@pytest.mark.klp_rules("L1", "L4", "L5")
def test_one_livepatch_changes_several_objects_as_they_come_and_go(part, several):
    left, right = part("klp_left"), part("klp_right")
    left.load()
    several.load()
    several.observe("cat /proc/cmdline /proc/loadavg", "^(livepatched by klp_several\n?){2}$")
    several.observe(_LEFT, "^-10$")
    right.load()
    several.look()
    several.observe("cat /proc/klp_right", "^-20$")
    left.unload()
    several.look()
    left.load()
    several.observe(_LEFT, "^-10$", moment="its module came again")
    several.disable()
    several.observe(f"{_LEFT} /proc/klp_right", "^11\n20$")
    several.unload()
