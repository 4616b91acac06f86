# SPDX-License-Identifier: Apache-2.0
"""What becomes of a system state that livepatches change (system-state.rst)."""

from __future__ import annotations

import errno

import pytest

_GID = "cat /proc/sys/kernel/overflowgid"
_BEFORE, _FIRST, _NEXT = "^65534$", "^1001$", "^1002$"


@pytest.fixture
def first(livepatch):
    """The livepatch that changes the state first."""
    return livepatch("patches/states", "klp_state")


@pytest.fixture
def following(livepatch):
    """The same livepatch once more, to follow upon the first."""
    return livepatch("patches/states", "klp_state_next")


def shows(patch, pattern):
    """Hold the system's state against what the documentation says."""
    patch.observe(_GID, pattern, rules=("V6", "L5"))


@pytest.mark.klp_rules("V1", "V5", "V6", "L5")
def test_a_state_is_changed_and_restored(first):
    shows(first, _BEFORE)
    first.load("version=1")
    shows(first, _FIRST)
    first.disable()
    shows(first, _BEFORE)
    first.unload()


@pytest.mark.everywhere
@pytest.mark.klp_rules("V2", "V3", "V5", "V6", "C7", "L3", "L5")
def test_a_state_is_taken_over_with_what_was_saved(first, following, kernel_log):
    first.load("version=1")
    following.load("version=2")
    first.wait_gone()
    shows(following, _NEXT)
    assert kernel_log.find("klp_state_next: took over the state, version 1$")
    first.unload()
    following.disable()
    shows(following, _BEFORE)
    assert kernel_log.find("klp_state_next: restored overflowgid 65534$")


@pytest.mark.klp_rules("V6", "C5", "T8", "L5")
def test_a_state_is_as_it_was_after_a_reversed_first_change(holder, first, passes, kernel_log):
    holder("sleepers=1", inside=1)
    first.load(wait=False)
    passes(first, 1)
    first.reverse()
    first.wait()
    first.wait_gone()
    shows(first, _BEFORE)
    assert kernel_log.find("klp_state: freed the state$")


@pytest.mark.klp_rules("V2", "V5", "V6", "C5", "T8", "L5")
def test_a_state_stays_with_its_owner_after_a_reversed_take_over(
    holder, first, following, passes, kernel_log
):
    holder("sleepers=1 hold=0")
    first.load("version=1 hold=1")
    following.load("version=2", wait=False)
    passes(following, 1)
    following.reverse()
    following.wait()
    following.wait_gone()
    shows(following, _FIRST)
    assert first.enabled
    assert kernel_log.find("klp_state_next: left the state to its former owner$")


@pytest.mark.klp_rules("V6", "C4", "C6", "T10", "L5")
def test_a_state_is_cleaned_up_when_enabling_fails(holder, first, kernel_log):
    holder("hold=0")
    first.load("fail=19", expect=errno.ENODEV)
    shows(first, _BEFORE)
    assert kernel_log.find("klp_state: freed the state$")


@pytest.mark.klp_rules("V2", "L5")
def test_a_lower_version_is_refused(first, following):
    first.load("version=2")
    following.load("version=1", expect=errno.EINVAL)
    assert first.enabled
    assert not following.loaded
    shows(first, _NEXT)


@pytest.mark.klp_rules("V3", "L5")
def test_a_cumulative_one_that_lacks_a_state_is_refused(first, following):
    first.load("version=1")
    following.load("carry=0", expect=errno.EINVAL)
    assert first.enabled
    shows(first, _FIRST)


@pytest.mark.klp_rules("V4", "L2", "L5")
@pytest.mark.parametrize(
    ("carried", "shown"),
    [
        pytest.param("carry=0", _FIRST, id="lack"),
        pytest.param("version=2", _NEXT, marks=pytest.mark.everywhere, id="touch"),
    ],
)
def test_one_that_is_not_cumulative_may_lack_or_touch_a_state(first, following, carried, shown):
    first.load("version=1")
    following.load(f"replace=0 {carried}")
    assert first.enabled
    shows(following, shown)
    following.disable()
    shows(first, _FIRST)
