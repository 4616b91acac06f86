# SPDX-License-Identifier: Apache-2.0
"""A kernel that breaks its promises, by tests/faults/klp_misbehave.c, and rules that tell which one."""

from __future__ import annotations

import errno

import pytest

from klp import CheckFailed
from tests.suite.edges import IDS, STATE_IDS, parameter

# 7.2 shows every livepatch's place in the stack, in which klp_misbehave is not: it hides (L1).
pytestmark = pytest.mark.klp_kernels(
    max="6.12", reason="a livepatch that hides has no place in 7.2's stack order"
)

_GID = "cat /proc/sys/kernel/overflowgid"
_WARNING = r"WARNING: .* at (kernel/livepatch/)?(transition|patch)\.c:\d+ klp_"


def fault(how, *breaks, parameters="", warns=None):
    """Return one fault, and the rules that its trace must show broken: these, and no others."""
    marks = [pytest.mark.klp_breaks(*breaks, reason=f"klp_misbehave does {how}")]
    if warns:
        marks.append(pytest.mark.klp_expects(warns, reason="the core notices by itself"))
    return pytest.param(f"how={how} {parameters}", marks=marks, id=f"{how}-{breaks[0]}")


def faults(*rows):
    return pytest.mark.parametrize("misbehaving", rows, indirect=True)


@pytest.fixture
def misbehaving(request, livepatch):
    """Load the module that breaks a promise, which is itself a livepatch; see that it did in the end."""
    faulty = livepatch("tests/faults", "klp_misbehave")
    faulty.load(request.param)
    yield faulty
    assert int(faulty.parameter("struck")) > 0


@pytest.fixture
def held(holder, fix, passes):
    """Have the transition of the holder's livepatch held up by a task that sleeps."""
    holder("sleepers=1", inside=1)
    fix.load(wait=False)
    passes(fix, 2)
    return fix


@pytest.fixture
def held_disabling(holder, hold_again, fix, passes):
    """The same, as it is being disabled."""
    holder("sleepers=1 hold=0", inside=0)
    fix.load()
    hold_again()
    fix.disable(wait=False)
    passes(fix, 2)
    return fix


@pytest.fixture
def layers(module, livepatch):
    """Two livepatches of one module, the first of them loaded."""
    module("patches/layers", "klp_layers").load()
    one, two = (livepatch("patches/layers", f"klp_layer_{name}") for name in ("one", "two"))
    one.load()
    return one, two


@pytest.fixture
def first(livepatch):
    """The livepatch that changes the state first."""
    return livepatch("patches/states", "klp_state")


@pytest.fixture
def following(livepatch):
    """The same livepatch once more, to follow upon the first."""
    return livepatch("patches/states", "klp_state_next")


@pytest.fixture
def attending(module, livepatch):
    """The livepatch with callbacks for vmlinux and for a module, which is loaded."""
    module("patches/callbacks", "klp_callbacks_target").load()
    return livepatch("patches/callbacks", "klp_callbacks")


@pytest.mark.parametrize(
    ("misbehaving", "case"),
    [
        pytest.param(*row.values, case, marks=row.marks, id=row.id)
        for row, case in [
            (fault("alloc_twice", "S1", parameters="times=1"), "double"),
            (fault("get_nothing", "S2"), "alloc"),
            (fault("get_nothing", "S2"), "read"),
            # Not in a race: who finds one before its maker has returned may have found another.
            (fault("get_other", "S3"), "again"),
            (fault("ctor_twice", "S4", parameters="times=1"), "load"),
            (fault("ctor_ignored", "S4", parameters="times=1"), "ctor"),
            (fault("dtor_dropped", "S5"), "dtor"),
            (fault("dtor_skipped", "S5"), "dtor"),
            (fault("dtor_twice", "S5"), "dtor"),
            (fault("free_none", "S6"), "free_all"),
            (fault("free_more", "S6"), "free_all"),
            (fault("free_alike", "S6"), "free_all"),
            (fault("free_nothing", "S7"), "alloc"),
            (fault("not_zeroed", "S8"), "alloc"),
        ]
    ],
    indirect=["misbehaving"],
)
@pytest.mark.usefixtures("misbehaving")
def test_shadow_variables(shadow_cases, case):
    shadow_cases(case, parameters=f"count=20 threads=2 {parameter('ids', IDS)}")


@faults(
    fault("switch_back", "T4", parameters="times=1"),
    fault("early_signals", "T7"),
    fault("switch_unseen", "T13"),
)
def test_tasks_that_are_held_up(misbehaving, held, let_go):
    let_go()
    held.wait()


@faults(
    fault("skip_tasks", "T4", "T6", "T13", warns=_WARNING),
)
def test_tasks_that_are_left_out(misbehaving, livepatch):
    livepatch("patches/version-banner").load()


@faults(fault("switch_blocked", "T5", "T13"))
def test_a_task_that_sleeps_in_what_is_patched(misbehaving, holder, fix, let_go):
    holder("sleepers=1", inside=1)
    fix.load()
    let_go()


@faults(fault("orphan", "T11", parameters="times=0"))
def test_children(misbehaving, guest, held, let_go):
    # Those that are gone at once, and no other: a child that lived on would be left behind, too (T4).
    guest.run("echo 4 >/sys/module/klp_misbehave/parameters/times; for i in 1 2 3 4; do /bin/true; done")
    let_go()
    held.wait()


@faults(fault("reverse_half", "T8", "L1"), fault("reverse_silent", "C8"))
def test_a_disabling_that_is_reversed(misbehaving, held_disabling):
    held_disabling.reverse()
    held_disabling.wait()


@faults(fault("force_unpinned", "T9"))
def test_force(misbehaving, held_disabling):
    held_disabling.force()
    held_disabling.wait_gone()


@faults(
    fault("post_unpatch_anyway", "C2", "C4"),
    fault("cancel_half", "C6", "C4", "L1", "T4", "T10"),
)
def test_a_livepatch_that_is_refused(misbehaving, attending):
    attending.load("target_errno=16", expect=errno.EBUSY)


@faults(fault("replaced_callbacks", "C7", "C1"))
def test_callbacks_of_what_is_replaced(misbehaving, holder, attending, fix):
    holder("hold=0")
    attending.load()
    fix.load("replace=1")


@faults(fault("replaced_kept", "L3"))
def test_functions_of_what_is_replaced(misbehaving, layers):
    layers[1].load("replace=1")


@faults(fault("below", "L2", "L5"))
def test_the_newest(misbehaving, layers):
    layers[1].load()
    with pytest.raises(CheckFailed, match="a=11 b=21"):
        layers[1].observe("cat /proc/klp_layers", "^a=12 b=21 c=32$", rules=("L2", "L5"))


@faults(fault("not_patched", "L5", "L1", parameters="times=1"))
def test_behaviour(misbehaving, livepatch):
    banner = livepatch("patches/version-banner")
    banner.load()
    with pytest.raises(CheckFailed, match="not 'livepatched'"):
        banner.observe("cat /proc/version", "livepatched")


@faults(fault("compatible", "V2"))
def test_a_lower_version_of_a_state(misbehaving, first, following):
    first.load("version=2")
    following.load("version=1")


@faults(fault("compatible", "V3"))
def test_a_cumulative_one_that_lacks_a_state(misbehaving, first, following):
    first.load("version=1")
    following.load("carry=0")


@faults(fault("incompatible", "V1"))
def test_a_new_state(misbehaving, first):
    first.load("version=1", expect=errno.EINVAL)


@faults(fault("incompatible", "V4", "V2", parameters="spare=1"))
def test_one_that_is_not_cumulative(misbehaving, first, following):
    first.load("version=1")
    following.load("replace=0 version=1", expect=errno.EINVAL)


@faults(fault("no_prev_state", "V5", "V6", "L5"))
def test_a_state_that_is_taken_over(misbehaving, first, following):
    first.load("version=1")
    following.load("version=2")
    following.disable()
    with pytest.raises(CheckFailed, match="1001"):
        following.observe(_GID, "^65534$", rules=("V6", "L5"))


@faults(fault("oldest_prev_state", "V5"))
def test_a_state_that_two_below_have(misbehaving, with_states):
    ids = parameter("ids", STATE_IDS[:1])
    for version, each in enumerate(with_states[:2], 1):
        each.load(f"{ids} versions={version}")
    with_states[2].load(f"{ids} versions=3 {parameter('look', STATE_IDS[:1])}")
    assert with_states[2].parameter("found") == "3/1"


@faults(fault("unloaded", "C3", warns=_WARNING))
def test_a_module_that_is_not_loaded(misbehaving, module):
    # Its object is patched already as it comes, so that the core refuses it.
    module("patches/holdups", "klp_holder").load("hold=0", expect=errno.EINVAL)


@faults(
    fault("init_twice", "T1", "T2", "C1", warns=_WARNING),
    fault("start_early", "T3"),
    fault("reverse_unstarted", "T10", "T3", "T8"),
    fault("post_patch_early", "T3", "T4", "C1"),
    fault("target_left", "T2", warns=_WARNING),
    fault("task_left", "T2", warns=_WARNING),
    fault("enabled_wrong", "L1"),
    fault("warns", "L6"),
)
def test_its_own_transition(misbehaving):
    pass


@faults(
    fault("state_left", "T6", "T2", warns=_WARNING),
    fault("pending_left", "T6", "T2", "T3"),
)
def test_the_transition_after_it(misbehaving, livepatch):
    livepatch("patches/version-banner").load()


@faults(fault("pinned", "L4"))
def test_a_livepatch_that_was_disabled(misbehaving):
    misbehaving.disable()
    misbehaving.unload(expect=errno.EAGAIN)
