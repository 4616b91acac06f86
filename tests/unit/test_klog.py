# SPDX-License-Identifier: Apache-2.0
"""What in a kernel log is an alarm, and what of it tells of transitions."""

from __future__ import annotations

import pytest

from klp.errors import CheckFailed
from klp.klog.canary import after, new_canary
from klp.klog.expected import Expected, missing, reasons, unexpected
from klp.klog.lines import alarms, without_stamp
from klp.klog.reports import reports
from klp.klog.transitions import logged_counts

# From kernel/panic.c, lib/bug.c, arch/x86/mm/fault.c, kernel/rcu, kernel/locking, kernel/hung_task.c, …
ALARMS = [
    "WARNING: CPU: 1 PID: 12 at kernel/livepatch/transition.c:300 klp_try_switch_task+0x1/0x2",
    "BUG: kernel NULL pointer dereference, address: 0000000000000000",
    "BUG: sleeping function called from invalid context at mm/slab.h:1",
    "BUG: scheduling while atomic: insmod/1/0x2",
    "Oops: 0002 [#1] PREEMPT SMP NOPTI",
    "Oops: int3: 0000 [#1] PREEMPT SMP NOPTI",
    "general protection fault, probably for non-canonical address 0xdead: 0000 [#1]",
    "Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1]",
    "Call Trace:",
    "INFO: task kworker/0:1:12 blocked for more than 120 seconds.",
    "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
    "rcu: INFO: rcu_preempt self-detected stall on CPU",
    "WARNING: possible circular locking dependency detected",
    "WARNING: suspicious RCU usage",
    "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [insmod:1]",
    "UBSAN: array-index-out-of-bounds in fs/x.c:1:2",
    "BUG: KASAN: slab-use-after-free in klp_shadow_get+0x1/0x2",
    "refcount_t: underflow; use-after-free.",
    "kernel BUG at kernel/livepatch/core.c:12!",
]  # fmt: skip
HARMLESS = [
    "livepatch: enabling patch 'livepatch_sample'",
    "livepatch: 'livepatch_sample': starting patching transition",
    "livepatch: 'livepatch_sample': patching complete",
    "livepatch_sample: tainting kernel with TAINT_LIVEPATCH",
    "livepatch_sample: module verification failed: signature and/or required key missing - tainting kernel",
    "livepatch: signaling remaining tasks",
    "livepatch: pre_patch_callback: vmlinux",
    "debug: nothing",
    "rcu: Hierarchical SRCU implementation.",
    "NMI watchdog: Perf NMI watchdog permanently disabled",
    # A livepatch that logs what it mends, with its name before it, or without.
    "klp_fix: mends: kernel Oops in version_proc_show",
    "klp_fix: spurious WARNING: bad banner",
    "klp_fix: BUG: kernel NULL pointer dereference, address: 0000000000000000",
    "klp_fix: no more Oops: 0002 [#1] PREEMPT SMP",
    "klp_fix: ends UBSAN: array-index-out-of-bounds in fs/x.c",
    "klp_fix: refcount_t: underflow; use-after-free.",
    "klp_fix: Call Trace: is what you saw before it",
    "BUG: in version_proc_show is mended",
    "WARNING: this machine was livepatched",
    "Oops: sorry, said the banner",
    "kernel BUG at boot is mended",
]


@pytest.mark.parametrize("stamp", ["", "[    1.234567] ", "[12345.678901] "])
@pytest.mark.parametrize("line", ALARMS)
def test_an_alarm_is_heard(line: str, stamp: str) -> None:
    assert alarms(("[    1.0] before", stamp + line, "after")) == (stamp + line,)


@pytest.mark.parametrize("line", HARMLESS)
def test_what_is_said_in_passing_is_none(line: str) -> None:
    assert alarms((f"[    1.234567] {line}",)) == ()


def test_alarms_keep_their_order() -> None:
    bug, warning = (
        "BUG: scheduling while atomic: insmod/1/0x2",
        "WARNING: CPU: 1 PID: 12 at fs/x.c:1 f+0x1/0x2",
    )
    assert alarms(("x", bug, "y", warning, bug)) == (bug, warning, bug)


@pytest.mark.parametrize("more", ["CPU: 0 UID: 0 PID: 1 Comm: cat", "Modules linked in: x", "Call Trace:"])
def test_what_anybody_may_say_is_an_alarm_with_what_only_the_kernel_shows(more: str) -> None:
    first = "[    1.0] BUG: a word that no list has"
    assert first in alarms((first, "[    1.0] in_atomic(): 1", f"[    1.0] {more}"))
    assert first not in alarms((first, *["[    1.0] klp_fix: a line"] * 9, f"[    1.0] {more}"))
    assert reports((first, "[    1.0] klp_fix: a line")) == ()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("[    0.000000] Linux version", "Linux version"),
        ("[12345.678901] a [1.0] b", "a [1.0] b"),
        ("[    1.0]   indented", "  indented"),
        ("no stamp", "no stamp"),
    ],
)
def test_stamps(line: str, text: str) -> None:
    assert without_stamp(line) == text


LOG = (
    "[    1.0] livepatch: enabling patch 'klp_a'",
    "[    1.1] livepatch: 'klp_a': starting patching transition",
    "[    1.2] livepatch: 'klp_a_b': starting patching transition",
    "[    1.3] livepatch: 'klp_a': patching complete",
    "[    2.1] livepatch: 'klp_a': starting unpatching transition",
    "[    2.2] livepatch: 'klp_a': reversing transition from unpatching to patching",
    "[    2.3] livepatch: 'klp_a': starting patching transition",
    "[    2.4] livepatch: 'klp_a': patching complete",
    "[    3.0] klp: 'klp_a': unpatching complete",
)


def test_the_log_is_counted_for_one_livepatch() -> None:
    assert logged_counts(LOG, "klp_a") == {
        "patching started": 2, "unpatching started": 1, "patching complete": 2,
        "unpatching complete": 0,
    }  # fmt: skip
    assert logged_counts(LOG, "klp_a_b")["patching started"] == 1
    assert not any(logged_counts(LOG, "klp").values())
    assert set(logged_counts((), "klp_a").values()) == {0}


@pytest.mark.parametrize(("between", "heard"), [(0, True), (7, True), (8, False)])
def test_how_far_off_the_kernel_shows_what_only_it_shows(between: int, heard: bool) -> None:
    first = "BUG: a word that no list has"
    assert (first in alarms((first, *["a line"] * between, "CPU: 0 UID: 0 PID: 1"))) is heard


def test_what_the_kernel_showed_before_it_does_not_count() -> None:
    assert alarms(("Modules linked in: x", "WARNING: this machine was livepatched")) == ()


def test_a_canary_is_looked_for_from_the_first_line_on() -> None:
    canary = new_canary("a run")
    assert new_canary("a run") != canary
    assert len(canary.token) == len("klp: a run []") + 12
    written = f"[    1.0] {canary.token}"
    assert after(canary, ("before", written, "one", "two")) == ("one", "two")
    assert after(canary, (written,)) == ()
    with pytest.raises(CheckFailed, match="overflowed"):
        after(canary, ("one", "two"))


REPORT = (
    "[    1.0] BUG: sleeping function called from invalid context at mm/slab.h:1",
    "[    1.0] Call Trace:",
)


def test_which_reports_were_expected() -> None:
    log = ("[    0.5] a line", *REPORT, "[    2.0] a line", "[    3.0] kernel BUG at fs/x.c:1!")
    sleeping, other = Expected("invalid context", "it sleeps"), Expected("no such", "never")
    assert unexpected(log, (sleeping, other)) == (("[    3.0] kernel BUG at fs/x.c:1!",),)
    assert reasons(log, (sleeping, other)) == dict.fromkeys(REPORT, "it sleeps")
    assert missing(log, (sleeping, other)) == (other,)


def test_an_empty_log_has_no_reports() -> None:
    assert reports(()) == alarms(()) == ()


def test_every_line_from_the_cut_to_the_end_belongs_to_a_warning() -> None:
    cut, end = "------------[ cut here ]------------", "---[ end trace 0000000000000000 ]---"
    warning = (cut, "WARNING: CPU: 1 PID: 12 at fs/x.c:1 f+0x1/0x2", "odd words", "and more of them", end)
    assert reports((*warning, "odd words")) == (warning,)
    # Whatever there was before it.
    other = ("BUG: scheduling while atomic: insmod/1/0x2",)
    assert reports((*other, "odd words", *warning, "Call Trace:")) == (other, warning, ("Call Trace:",))
