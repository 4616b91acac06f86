# SPDX-License-Identifier: Apache-2.0
"""Kernels that fail, each in its own way: told at once by that way's name, and nobody else's loss."""

from __future__ import annotations

import dataclasses
import os
import signal

import pytest

from klp import progress
from klp.errors import (
    Category,
    GuestOutOfMemory,
    GuestPanicked,
    GuestSilent,
    GuestStalled,
    QemuGone,
    VmLost,
)
from klp.lab.warm import restored
from klp.modules.build import build
from klp.modules.sources import find_source
from klp.paths import RunLayout
from klp.waiting import wait_until

from .conftest import gone

pytestmark = pytest.mark.vm("6.12")

# The kernel's own patience, shortened; and the backtrace of a CPU that has its interrupts off.
_PATIENCE = (
    "kernel.hung_task_timeout_secs=2 kernel.hung_task_check_interval_secs=1 kernel.watchdog_thresh=2 "
    "kernel.softlockup_all_cpu_backtrace=1"
)
_RCU_PATIENCE = "/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout"
_GUEST_MODULE = "/run/klp_fault.ko"


@pytest.fixture(scope="module")
def fault_module(root, image, tmp_path_factory):
    source = find_source(str(root / "tests/faults/klp_fault.c"))
    [module] = build(source, image.kernel, tmp_path_factory.mktemp("fault"), progress.Silent())
    return module


@pytest.fixture
def fresh(bare, tmp_path_factory):
    """Restore another guest of the same snapshot, in a folder of its own."""

    def restore():
        layout = RunLayout(tmp_path_factory.mktemp("guest"))
        return restored(bare, layout)

    return restore


@pytest.fixture
def lose(fresh, fault_module):
    """Lose a guest to a fault and return how it was told; the next guest must not notice."""

    def strike(pids, how, fatal, sysctl, rcu_s):
        with fresh() as lab:
            pids.append(lab.machine.pid)
            lab.machine.fatal |= set(fatal)
            tune = f"sysctl -q -w {_PATIENCE} {sysctl} && echo {rcu_s} >{_RCU_PATIENCE}"
            lab.guest.run(tune).must("tuning the guest")
            lab.guest.put(fault_module.file, _GUEST_MODULE)
            try:
                lab.guest.run(["insmod", _GUEST_MODULE, f"how={how}"]).must("striking")
                wait_until(lab.machine.check_alive, what="loss", timeout_s=60, every_s=0.05)
            finally:
                assert lab.machine.console.quiet_s() < 2

    def run(how, *, fatal=(), sysctl="", rcu_s=60):
        pids = []
        with pytest.raises(VmLost) as caught:
            strike(pids, how, fatal, sysctl, rcu_s)
        [pid] = pids
        assert gone(pid)
        with fresh() as lab:
            assert lab.guest.run("cat /proc/sys/kernel/tainted").stdout.strip() == "0"
        return caught.value

    return run


@pytest.mark.parametrize(
    ("how", "kind", "categories", "options"),
    [
        ("panic", GuestPanicked, {Category.PANIC}, {}),
        ("oops", GuestPanicked, {Category.OOPS}, {}),
        # Which of the other CPU and RCU misses it first depends on what that CPU was doing.
        ("irqs_off", GuestStalled, {Category.SOFT_LOCKUP, Category.RCU_STALL}, {"rcu_s": 20}),
        ("preempt_off", GuestStalled, {Category.SOFT_LOCKUP}, {}),
        ("preempt_off", GuestStalled, {Category.RCU_STALL},
         {"sysctl": "kernel.soft_watchdog=0", "rcu_s": 3}),
        ("blocked", GuestStalled, {Category.HUNG_TASK}, {"fatal": {Category.HUNG_TASK}}),
        ("blocked", GuestStalled, {Category.HUNG_TASK}, {"sysctl": "kernel.hung_task_panic=1"}),
    ],
    ids=["panic", "oops", "irqs_off", "soft_lockup", "rcu_stall", "hung_task", "hung_task_panic"],
)  # fmt: skip
def test_a_fault_is_told_by_its_category(lose, how, kind, categories, options):
    error = lose(how, **options)
    assert type(error) is kind
    report = error.report
    assert report.category in categories
    assert report.function == f"klp_fault_{how}"
    assert report.modules == ("klp_fault",)
    assert any(report.function in frame for frame in report.trace)
    assert (
        f"{report.category.value} in klp_fault_{how} [klp_fault], fingerprint {report.fingerprint}"
        in error.message
    )
    assert not report.emulator_suspect


def test_a_guest_out_of_memory_is_told(lose):
    error = lose("memory")
    assert type(error) is GuestOutOfMemory
    assert error.report.category is Category.OUT_OF_MEMORY
    assert error.report.function  # of whoever asked last: not always the one who took it all


def test_an_oops_is_told_whole(lose):
    lines = lose("oops").report.lines
    assert "BUG: kernel NULL pointer dereference" in lines[0]
    for part in ("RIP: 0010:klp_fault_oops", "Call Trace:", "---[ end trace", "Kernel panic - not syncing"):
        assert any(part in line for line in lines), part


def test_a_hung_task_alone_costs_no_guest(fresh, fault_module):
    with fresh() as lab:
        lab.guest.run(f"sysctl -q -w {_PATIENCE}").must("tuning the guest")
        lab.guest.put(fault_module.file, _GUEST_MODULE)
        lab.guest.run(["insmod", _GUEST_MODULE, "how=blocked"]).must("striking")
        wait_until(lab.machine.survived, what="report", timeout_s=60, every_s=0.05)
        assert lab.guest.run("echo here").stdout == "here\n"
        [report] = lab.machine.survived()
    assert (report.category, report.function) == (Category.HUNG_TASK, "klp_fault_blocked")


def test_a_task_killed_for_memory_costs_no_guest(fresh):
    with fresh() as lab:
        hog = "echo 1000 >/proc/self/oom_score_adj; dd if=/dev/zero of=/dev/null bs=2G count=1; echo $?"
        lab.guest.run("sysctl -q -w vm.overcommit_memory=1").must("tuning the guest")
        assert lab.guest.run(hog).stdout == "137\n"
        assert lab.guest.run("echo here").stdout == "here\n"
        assert {each.category for each in lab.machine.survived()} == {Category.OOM_KILL}


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.3])
def test_a_killed_qemu_is_told(fresh, after_s):
    def kill():
        with fresh() as lab:
            lab.guest.run(f"sleep {after_s}")
            os.kill(lab.machine.pid, signal.SIGKILL)
            lab.guest.run("sleep 600")

    with pytest.raises(QemuGone, match="killed by signal 9") as caught:
        kill()
    assert caught.value.report.category is Category.QEMU_GONE
    assert caught.value.report.lines


def test_a_stopped_guest_is_silent_and_its_last_words_are_told(fresh):
    with fresh() as lab:
        lab.guest.run("echo last words >/dev/kmsg").must("speaking")
        wait_until(
            lambda: "last words" in lab.machine.console.text(), what="words", timeout_s=10, every_s=0.02
        )
        lab.guest.limits = dataclasses.replace(lab.guest.limits, channel=2)
        lab.machine.monitor.execute("stop")
        with pytest.raises(GuestSilent) as caught:
            lab.guest.run("true")
        lab.machine.check_alive()  # as far as QEMU and the console tell
        silent = lab.machine.silent(caught.value.message)
        pid = lab.machine.pid
    assert "last words" in silent.message
    assert silent.report.category is Category.SILENT
    assert gone(pid)
