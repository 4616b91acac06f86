# SPDX-License-Identifier: Apache-2.0
"""How each kind of task makes the transition (kernel/livepatch/transition.c)."""

from __future__ import annotations

import errno

import pytest

from klp import EARLIEST_SCHEDULER_SWITCH, stories


def account_of(accounts, name):
    """Return the account of the task called `name`."""
    [found] = [each for each in accounts.values() if each.comm.startswith(name)]
    return found


@pytest.mark.klp_rules("T1", "T2", "T3", "T4", "T5", "T6", "T7", "T13", "L1", "L4", "L5")
@pytest.mark.parametrize(
    ("parameters", "task", "function", "outlook"),
    [
        pytest.param(
            "sleepers=1",
            "klp_sleep/0",
            "klp_holder_sleep",
            "a kthread that returns when its event comes",
            marks=pytest.mark.everywhere,
            id="asleep",
        ),
        pytest.param(
            "stuck=1",
            "klp_stuck/0",
            "klp_holder_stuck",
            "a kthread that sleeps uninterruptibly",
            id="stuck",
        ),
    ],
)
def test_a_kthread_sleeping_in_a_patched_function_stays_behind(
    holder, fix, let_go, passes, accounts, switched, trace, parameters, task, function, outlook
):
    holder(parameters, inside=1)
    fix.load(wait=False)
    passes(fix, 2)
    held = account_of(accounts(1), task)
    assert held.path is None
    assert set(held.reasons) == {f"sleeping in {function}"}
    assert [each.comm for each in fix.pending()] == [task]
    assert outlook in stories(trace.history().legs[-1], left=True)[0]
    let_go()
    fix.wait()
    fix.look()
    fix.observe("cat /proc/klp_holder", "^version 1")
    assert account_of(switched(), task).path is not None
    fix.disable()
    fix.unload()


@pytest.mark.usefixtures("one_cpu")
@pytest.mark.klp_rules("T4", "T5", "T13")
def test_a_kthread_busy_in_a_patched_function_stays_behind(holder, fix, let_go, passes, accounts, switched):
    holder("spinners=1", inside=1)
    fix.load(wait=False)
    passes(fix, 2)
    held = account_of(accounts(1), "klp_spin/0")
    assert held.path is None
    assert held.reasons
    let_go()
    fix.wait()
    assert account_of(switched(), "klp_spin/0").path is not None


@pytest.mark.everywhere
@pytest.mark.usefixtures("one_cpu")
@pytest.mark.klp_rules("T4", "T13")
def test_a_polite_busy_kthread_switches_without_a_pause(guest, holder, fix, let_go, switched):
    """Preempted, it is no running task to a pass; running, it switches in the scheduler where it can."""
    holder("polite=1 busy_ms=10000", inside=1)
    fix.load()
    paths = {"first pass", "retry pass"}
    if guest.version >= EARLIEST_SCHEDULER_SWITCH:
        paths.add("scheduler")
    assert account_of(switched(), "klp_polite/0").path in paths
    let_go()


@pytest.mark.usefixtures("one_cpu")
@pytest.mark.klp_rules("T4", "T13")
def test_a_kthread_that_never_yields_holds_until_it_rests(guest, holder, fix, let_go):
    holder("busy=1 busy_ms=1000")
    fix.load(wait=False)
    fix.wait()
    let_go()


@pytest.mark.usefixtures("one_cpu")
@pytest.mark.klp_rules("T4", "T13")
def test_a_busy_user_task_switches_on_its_way_to_user_space(guest, livepatch, trace):
    pid = int(guest.run("sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null & echo $!").stdout)
    fix = livepatch("patches/version-banner")
    fix.load()
    [leg] = trace.history().legs
    [busy] = [each for each in leg.tasks if each.pid == pid]
    assert busy.path in ("exit", "first pass", "retry pass")
    guest.run(["kill", str(pid)])


@pytest.mark.klp_rules("T4", "T11", "T13")
def test_children_are_born_in_their_parents_state(guest, holder, fix, let_go, passes):
    holder("sleepers=1", inside=1)
    fix.load(wait=False)
    passes(fix, 1)
    guest.run("for i in 1 2 3 4 5 6 7 8; do /bin/true; done")
    let_go()
    fix.wait()


@pytest.mark.everywhere
@pytest.mark.klp_rules("T4", "T13")
def test_the_idle_task_of_an_offline_cpu_is_switched_in_place(guest, livepatch, trace):
    guest.run("echo 0 >/sys/devices/system/cpu/cpu1/online").must("taking a CPU offline")
    fix = livepatch("patches/version-banner")
    fix.load()
    [leg] = trace.history().legs
    assert [each.comm for each in leg.tasks if each.path == "offline"] == ["swapper/1"]
    guest.run("echo 1 >/sys/devices/system/cpu/cpu1/online").must("taking a CPU online")


@pytest.mark.klp_rules("T4", "T5", "T6", "T8", "T13")
def test_a_transition_is_reversed_in_both_directions(holder, fix, let_go, passes, trace):
    holder("sleepers=1", inside=1)
    fix.load(wait=False)
    passes(fix, 2)
    fix.reverse()
    fix.wait()
    fix.wait_gone()
    fix.unload()
    fix.load(wait=False)
    passes(fix, 2)
    let_go()
    fix.wait()
    assert [each.outcome for each in trace.transitions(fix)] == ["reversed", "complete", "complete"]


@pytest.mark.everywhere
@pytest.mark.klp_rules("T8", "C5", "C8")
def test_a_disabling_transition_is_reversed(holder, hold_again, fix, passes, trace):
    holder("sleepers=1 hold=0", inside=0)
    fix.load()
    hold_again()
    fix.disable(wait=False)
    passes(fix, 2)
    fix.reverse()
    fix.wait()
    assert fix.enabled
    assert trace.transitions(fix)[-1].target == 1


@pytest.mark.everywhere
@pytest.mark.klp_rules("T4", "T9", "T13")
def test_force_switches_what_is_left(holder, fix, passes, trace):
    holder("sleepers=1", inside=1)
    fix.load(wait=False)
    passes(fix, 2)
    fix.force()
    leg = trace.history().legs[-1]
    assert [each.comm for each in leg.tasks if each.path == "force"] == ["klp_sleep/0"]


@pytest.mark.klp_rules("T1")
def test_a_second_livepatch_is_refused_meanwhile(holder, fix, livepatch, let_go, passes):
    holder("sleepers=1", inside=1)
    fix.load(wait=False)
    passes(fix, 1)
    livepatch("patches/version-banner").load(expect=errno.EBUSY)
    let_go()
    fix.wait()


@pytest.mark.klp_rules("T4", "T7", "T13")
def test_tasks_are_signalled_after_fifteen_passes(guest, holder, fix, passes, trace):
    holder("sleepers=0", inside=0)
    reader = "cat /proc/klp_holder_wait >/dev/null 2>&1 </dev/null & echo $!"
    pid = int(guest.run(reader).stdout)
    fix.load(wait=False)
    passes(fix, 2)
    assert [each.pid for each in fix.pending()] == [pid]
    [told] = stories(trace.history().legs[-1], left=True)
    assert "a user's task that the kernel signals at the sixteenth pass" in told
    fix.wait()
    [leg] = trace.history().legs
    assert len(leg.signals) == 1
    assert "ended by the kernel's signal" in stories(leg)[0]
    [reading] = [each for each in leg.tasks if each.pid == pid]
    # The probe takes signals to be sent by the count of passes; by whom they reach they are seen.
    assert reading.reasons == {"sleeping in klp_holder_read": 16}
    assert reading.path == "exit"


@pytest.mark.klp_rules("T2", "T4", "T6", "T13")
def test_two_thousand_sleepers_are_all_accounted_for(holder, livepatch, trace):
    holder("sleepers=2000", inside=2000)
    fix = livepatch("patches/version-banner")
    fix.load()
    [leg] = trace.history().legs
    sleeping = [each for each in leg.tasks if each.comm.startswith("klp_sleep/")]
    assert len(sleeping) == 2000
    assert {each.path for each in sleeping} == {"first pass"}
