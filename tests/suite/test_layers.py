# SPDX-License-Identifier: Apache-2.0
"""Livepatches upon each other, instead of each other, of modules that come and go (livepatch.rst, 5)."""

from __future__ import annotations

import errno

import pytest

_SHOWN = "cat /proc/klp_layers"
_LEFT = "cat /proc/klp_left"

# What klp_layers' functions answer: by themselves, and how much more by each livepatch that changes them.
_FUNCTIONS = {"a": 10, "b": 20, "c": 30}
_CHANGED = {"one": "ab", "two": "ac", "three": "abc"}


def answers(*stack: str) -> str:
    """Return the pattern of what is shown with these livepatches upon each other, the newest last."""
    more = dict.fromkeys(_FUNCTIONS, 0)
    for name in stack:
        more |= dict.fromkeys(_CHANGED[name], 1 + list(_CHANGED).index(name))
    return "^" + " ".join(f"{name}={base + more[name]}" for name, base in _FUNCTIONS.items()) + "$"


@pytest.fixture
def layer(module, livepatch):
    """Load the module with three functions, and return its livepatches by their names."""
    module("patches/layers", "klp_layers").load()
    return lambda name: livepatch("patches/layers", f"klp_layer_{name}")


@pytest.fixture
def three(layer):
    """Three livepatches upon each other, all enabled."""
    stack = [layer(name) for name in _CHANGED]
    for each in stack:
        each.load()
    return stack


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


@pytest.mark.klp_rules("L1", "L2", "L5")
@pytest.mark.parametrize("going", ["two three one", "one two three"], ids=["middle", "oldest"])
def test_of_three_any_can_go_first(layer, three, going):
    left = list(_CHANGED)
    three[-1].observe(_SHOWN, answers(*left), rules=("L2", "L5"))
    for name in going.split():
        left.remove(name)
        layer(name).disable()
        layer(name).observe(_SHOWN, answers(*left), rules=("L2", "L5"))


@pytest.mark.klp_rules("T5", "L2", "L5")
def test_the_one_below_runs_until_a_task_switches(three, held_in, passes):
    # All but the task that is held have switched, the reader among them.
    with held_in("patch=klp_layer_three which=new"):
        three[-1].disable(wait=False)
        passes(three[-1], 2)
        below = answers("one", "two")
        three[-1].observe(_SHOWN, below, moment="being disabled", rules=("L2", "L5"))
    three[-1].wait_gone()


@pytest.mark.klp_rules("T4", "T5")
def test_who_sleeps_in_the_one_below_holds_up_the_next(layer, held_in, passes, switched):
    one, two, three = (layer(name) for name in _CHANGED)
    one.load()
    two.load()
    with held_in("function=klp_layer_two:livepatch_layers_a"):
        three.load(wait=False)
        passes(three, 2)
        [held] = [each for each in switched().values() if each.comm == "klp_hold/0"]
        assert set(held.reasons) == {"sleeping in klp_layers_a"}
        assert held.path is None
    three.wait()


@pytest.mark.klp_rules("C4", "L1", "L5")
def test_a_module_that_the_third_refuses_is_left_by_all(guest, module, livepatch):
    target = module("patches/layers", "klp_layers")
    for name in _CHANGED:
        top = livepatch("patches/layers", f"klp_layer_{name}")
        top.load("fail=19" if name == "three" else "")
    target.load(expect=errno.ENODEV)
    top.look()
    guest.run("echo 0 >/sys/module/klp_layer_three/parameters/fail").must("telling the callback")
    target.load()
    top.look()
    top.observe(_SHOWN, answers(*_CHANGED))


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
def test_an_empty_cumulative_one_takes_all_back(layer, three):
    none = layer("none")
    none.load()
    for each in three:
        each.wait_gone()
    none.observe(_SHOWN, answers(), rules=("L3", "L5"))
    for each in three:
        each.unload()


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
