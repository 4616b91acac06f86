# SPDX-License-Identifier: Apache-2.0
"""When a livepatch's callbacks run, and what comes of one that refuses (callbacks.rst)."""

from __future__ import annotations

import errno

import pytest

_BOTH = ["vmlinux", "klp_callbacks_target"]
_FEATURES = "cat /sys/bus/platform/devices/klp_callbacks.?/features"
_SOUND, _BROKEN = "^(0x7\n){2}0x7$", "^(0xf\n){2}0xf$"


@pytest.fixture
def target(module):
    return module("patches/callbacks", "klp_callbacks_target")


@pytest.fixture
def attending(livepatch):
    """The livepatch with callbacks for vmlinux and for the module."""
    return livepatch("patches/callbacks", "klp_callbacks")


@pytest.fixture
def fails_with(guest):
    """Have a pre-patch callback of the livepatch, which is loaded, fail from now on; 0 for no failure."""

    def tell(parameter: str, number: int):
        file = f"/sys/module/klp_callbacks/parameters/{parameter}"
        guest.run(f"echo {number} >{file}").must("telling the callback")

    return tell


@pytest.fixture
def ran(trace):
    """Return every callback that ran: what it is, and of which object."""
    return lambda: [(each.kind, each.object) for _, each in trace.history().callbacks.calls]


def both(kind):
    return [(kind, name) for name in _BOTH]


@pytest.mark.everywhere
@pytest.mark.klp_rules("C1", "C2", "C3", "T1", "T3", "T6", "L4", "L5")
def test_all_four_run_for_each_object_in_their_order(target, attending, ran):
    target.load()
    attending.load()
    attending.observe("cat /proc/sys/kernel/overflow[ug]id", "^1234\n1234$")
    attending.observe(_FEATURES, _SOUND)
    assert ran() == both("pre_patch") + both("post_patch")
    attending.disable()
    assert ran()[4:] == both("pre_unpatch") + both("post_unpatch")
    attending.observe("cat /proc/sys/kernel/overflow[ug]id", "^65534\n65534$")
    attending.observe(_FEATURES, _BROKEN)
    attending.unload()


@pytest.mark.klp_rules("C1", "C2", "C3", "L1", "L5")
def test_those_of_a_module_run_when_it_comes_and_goes(target, attending, ran):
    attending.load()
    assert ran() == [("pre_patch", "vmlinux"), ("post_patch", "vmlinux")]
    target.load()
    attending.look()
    attending.observe(_FEATURES, _SOUND)
    target.unload()
    attending.look()
    kinds = ("pre_patch", "post_patch", "pre_unpatch", "post_unpatch")
    assert ran()[2:] == [(kind, "klp_callbacks_target") for kind in kinds]
    target.load()
    attending.disable()
    assert ran()[-4:] == both("pre_unpatch") + both("post_unpatch")


@pytest.mark.klp_rules("C1", "C3", "T4", "L5")
def test_a_module_that_comes_in_a_transition_waits_for_its_end(
    holder, target, attending, passes, let_go, ran
):
    holder("sleepers=1", inside=1)
    attending.load(wait=False)
    passes(attending, 1)
    target.load()
    assert ran() == both("pre_patch")
    let_go()
    attending.wait()
    assert ran()[2:] == both("post_patch")
    attending.observe(_FEATURES, _SOUND)


@pytest.mark.klp_rules("C4", "T10", "L5")
def test_a_livepatch_is_refused_by_its_first_callback(attending, ran, kernel_log):
    attending.load("vmlinux_errno=19", expect=errno.ENODEV)
    assert ran() == [("pre_patch", "vmlinux")]
    assert attending.state is None
    assert kernel_log.find("pre-patch callback failed for object 'vmlinux'")
    attending.observe("cat /proc/sys/kernel/overflowuid", "^65534$")


@pytest.mark.everywhere
@pytest.mark.klp_rules("C2", "C4", "C6", "T10", "L5")
def test_what_was_patched_before_the_refusal_gets_post_unpatch_alone(target, attending, ran):
    target.load()
    attending.load("target_errno=16", expect=errno.EBUSY)
    assert ran() == [*both("pre_patch"), ("post_unpatch", "vmlinux")]
    attending.observe("cat /proc/sys/kernel/overflowuid", "^65534$")
    attending.observe(_FEATURES, _BROKEN)
    attending.load("target_errno=0")
    attending.observe(_FEATURES, _SOUND)


@pytest.mark.klp_rules("C1", "C3", "C4", "L5")
def test_a_module_is_refused_by_its_callback(target, attending, fails_with, ran, kernel_log):
    attending.load()
    fails_with("target_errno", errno.ENODEV)
    target.load(expect=errno.ENODEV)
    assert ran()[2:] == [("pre_patch", "klp_callbacks_target")]
    assert kernel_log.find("refusing to load module 'klp_callbacks_target'")
    assert attending.enabled
    fails_with("target_errno", 0)
    target.load()
    attending.observe(_FEATURES, _SOUND)


@pytest.mark.klp_rules("C1", "C2", "T1", "T6")
def test_callbacks_that_sleep_change_nothing_but_the_time(target, attending, ran):
    target.load()
    attending.load("slow_ms=100")
    attending.disable()
    four = ("pre_patch", "post_patch", "pre_unpatch", "post_unpatch")
    assert ran() == [one for kind in four for one in both(kind)]


@pytest.mark.klp_rules("C2", "C5", "T8")
def test_a_reversed_livepatch_runs_no_pre_unpatch(holder, livepatch, passes, ran):
    holder("sleepers=1", inside=1)
    state = livepatch("patches/states", "klp_state")
    state.load(wait=False)
    passes(state, 1)
    state.reverse()
    state.wait()
    state.wait_gone()
    assert ran() == [("pre_patch", "vmlinux"), ("pre_patch", "klp_holder"), ("post_unpatch", "vmlinux")]


@pytest.mark.klp_rules("C1", "C7", "L3", "L5")
def test_those_of_a_replaced_livepatch_do_not_run(target, attending, holder, fix, ran):
    target.load()
    holder("hold=0")
    attending.load()
    fix.load("replace=1")
    attending.wait_gone()
    assert ran() == [*both("pre_patch"), *both("post_patch"), ("post_patch", "klp_holder")]
    attending.observe("cat /proc/sys/kernel/overflowuid", "^1234$")
    attending.unload()
