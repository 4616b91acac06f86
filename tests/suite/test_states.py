# SPDX-License-Identifier: Apache-2.0
"""What becomes of a system state that livepatches change (system-state.rst)."""

from __future__ import annotations

import errno

import pytest

from tests.suite.edges import STATE_IDS, VERSIONS, parameter

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


def carrying(states):
    """Return the parameters of a livepatch of patches/many-states that carries these."""
    return f"{parameter('ids', tuple(states))} {parameter('versions', tuple(states.values()))}"


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


@pytest.mark.klp_rules("V1", "V2", "V4", "V5")
@pytest.mark.parametrize("replace", [0, 1])
def test_of_several_below_the_newest_that_has_a_state_answers(with_states, replace):
    # The first has them all, each further one those of the ids that are left: each answers for some.
    below = [
        {each: 10 * turn + place for place, each in enumerate(STATE_IDS) if place >= 2 * (turn - 1)}
        for turn in (1, 2, 3)
    ]
    own = {each: 100 + place for place, each in enumerate(STATE_IDS) if replace or place % 2}
    *lower, top = with_states
    for patch, states in zip(lower, below, strict=True):
        patch.load(carrying(states))
    nobodys = STATE_IDS[0] ^ 1 << 40  # equal to the first in its low half
    look = (*reversed(STATE_IDS), nobodys)
    top.load(f"{carrying(own)} replace={replace} {parameter('look', look)}")
    newest = {each: version for states in below for each, version in states.items()}
    pairs = [f"{own.get(each, '-')}/{newest.get(each, '-')}" for each in look]
    assert top.parameter("found") == " ".join(pairs)


@pytest.mark.klp_rules("V2", "V4")
def test_each_version_is_compared_as_a_whole(with_states):
    one, two, three, _ = with_states
    ids = STATE_IDS[: len(VERSIONS) - 1]
    lower, higher = (dict(zip(ids, each, strict=True)) for each in (VERSIONS[:-1], VERSIONS[1:]))
    one.load(carrying(lower))
    two.load(carrying(higher))
    for each in ids:
        three.load(carrying(higher | {each: lower[each]}), expect=errno.EINVAL)
    three.load(carrying(higher))


@pytest.mark.klp_rules("V2", "V3")
def test_a_cumulative_one_must_carry_each_state_of_each_below(with_states):
    one, two, three, _ = with_states
    states = dict.fromkeys(STATE_IDS[:4], 1)
    one.load(carrying(dict.fromkeys(STATE_IDS[:3], 1)))
    two.load(carrying(dict.fromkeys(STATE_IDS[1:4], 1)))
    for each in states:
        fewer = {other: version for other, version in states.items() if other != each}
        three.load(f"replace=1 {carrying(fewer)}", expect=errno.EINVAL)
    three.load(f"replace=1 {carrying(states)}")
    for patch in (one, two):
        patch.wait_gone()
