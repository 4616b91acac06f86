# SPDX-License-Identifier: Apache-2.0
"""What a kernel said before it was lost is put down to a livepatch where it is its doing, and else not."""

from __future__ import annotations

import pytest

from klp.analysis.diagnosis import Seen, diagnose
from klp.analysis.dying import dying_words
from klp.errors import Category, CrashReport
from klp.klog import crash

FIX = "klp_fix"
LOADED = f"Modules linked in: {FIX}(OEK) ext4 virtio_blk"
UNLOADED = f"Modules linked in: ext4 virtio_blk [last unloaded: {FIX}(OEK)]"
ENDED = "the guest is lost: QEMU exited 1"


def warned(words: str, *frames: str, modules: str = LOADED, where: str = "lib/kobject.c:734") -> list[str]:
    """A warning as the kernel prints one."""
    return [
        "[   12.000001] ------------[ cut here ]------------",
        f"[   12.000002] {words}.",
        f"[   12.000003] WARNING: CPU: 0 PID: 300 at {where} f+0x5d/0x70",
        f"[   12.000004] {modules}",
        "[   12.000005] Call Trace:",
        "[   12.000006]  <TASK>",
        *(f"[   12.000007]  {frame}" for frame in frames),
        "[   12.000008]  </TASK>",
        "[   12.000009] ---[ end trace 0000000000000000 ]---",
    ]


KOBJECT = "kobject: '(null)' (00000000d1c1a4b1): is not initialized, yet kobject_put() is being called"
LIST = "list_del corruption. prev->next should be ffff88800310f0a8, but was dead000000000100"
TIMER = (
    "ODEBUG: free active (active state 0) object: 00000000a1b2 object type: timer_list hint: "
    f"livepatch_tick+0x0/0x20 [{FIX}]"
)
REFCOUNT = "refcount_t: underflow; use-after-free."
SLAB = "BUG kmalloc-64 (Tainted: G           OE K   ): Right Redzone overwritten"


def told(lines: list[str], end: str = ENDED) -> tuple[str, ...]:
    return diagnose(Seen(FIX, said=dying_words(lines, FIX), end=end))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (warned(KOBJECT, "klp_free_patch_finish+0x10/0x40"),
         "a kobject was used that is not set up, or not any more, in klp_free_patch_finish of the "
         f"livepatch core: {KOBJECT}"),
        (warned(KOBJECT, f"livepatch_show+0x10/0x40 [{FIX}]", "seq_read+0x1/0x2"),
         f"not set up, or not any more, by livepatch_show of {FIX}: {KOBJECT}"),
        (warned(KOBJECT, "klp_ftrace_handler+0x1/0x2", "kfree+0x1/0x2"), f", while {FIX} was loaded: ko"),
        (warned("kobject (00000000d1): tried to init an initialized object, something is seriously wrong."),
         "a kobject was set up a second time, while"),
        (warned(LIST, "process_one_work+0x1/0x2", modules=UNLOADED),
         f"a list was corrupted, after {FIX} was unloaded: {LIST}"),
        (warned(TIMER), f"freed or used in the wrong state, by livepatch_tick of {FIX}: ODEBUG"),
        (warned(REFCOUNT, modules=UNLOADED), f"count went wrong, after {FIX} was unloaded: ref"),
        (warned("sysfs: cannot create duplicate filename '/kernel/klp_fix_state'"), "in sysfs was taken"),
        (warned(SLAB), "memory was used wrongly, while"),
        ([f"kobject: kobject_add_internal failed for x with -EEXIST in '{FIX}'"], "in sysfs was taken"),
        (warned("BUG: KFENCE: out-of-bounds write in livepatch_show+0x1/0x2 [klp_fix]"), "memory was used"),
        (warned("something odd", f"livepatch_show+0x10/0x40 [{FIX}]"), "the kernel log has a report: some"),
    ],
)  # fmt: skip
def test_what_was_broken_is_told_of_the_livepatch(lines: list[str], words: str) -> None:
    [line] = told(["[   11.0] random: crng reseeded", *lines, "[   13.0] EXT4-fs (vda): mounted"])
    assert words in line
    assert line.endswith(f"; then the guest was lost: {ENDED}")


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["livepatch: enabling patch 'klp_fix'", "klp_fix: tainting kernel with TAINT_LIVEPATCH"],
        # Broken, but the livepatch was not there: of the kernel, or of another.
        warned(KOBJECT, modules="Modules linked in: ext4 virtio_blk"),
        warned(LIST, modules="Modules linked in: klp_fixed(OEK) [last unloaded: klp_fix_2(OEK)]"),
        ["list_add double add: new=ffff888003, prev=ffff888003, next=ffff888004."],
        # By a module of klp's own, which happened to be there with it.
        warned(LIST, "hold_release+0x10/0x20 [klp_hold]"),
        # A host that starves its guest: whoever is at hand is told of.
        ["watchdog: BUG: soft lockup - CPU#0 stuck for 61s! [cat:300]", LOADED, "Call Trace:",
         f" livepatch_show+0x1/0x2 [{FIX}]"],
        ["INFO: task cat:300 blocked for more than 122 seconds.", "Call Trace:",
         f" livepatch_show+0x1/0x2 [{FIX}]"],
        # A guess of the unwinder.
        warned("something odd", f"? livepatch_show+0x10/0x40 [{FIX}]"),
        warned("something odd", "klp_ftrace_handler+0x1/0x2"),
    ],
)  # fmt: skip
def test_what_others_did_is_not(lines: list[str]) -> None:
    assert dying_words(lines, FIX, foreign=("klp_hold",)) == ()


LIST_DEATH = [
    f"[   20.1] {LIST}.",
    "[   20.2] ------------[ cut here ]------------",
    "[   20.3] kernel BUG at lib/list_debug.c:62!",
    "[   20.4] Oops: invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
    f"[   20.5] {UNLOADED}",
    "[   20.6] RIP: 0010:__list_del_entry_valid_or_report+0xc1/0xd0",
    "[   20.7] Call Trace:",
    "[   20.8]  <TASK>",
    "[   20.9]  process_one_work+0x1/0x2",
    "[   20.9]  </TASK>",
    "[   21.0] ---[ end trace 0000000000000000 ]---",
]


def report(lines: list[str]) -> CrashReport:
    return crash.parse_report(Category.OOPS, lines, emulated=False)


def test_a_kernel_that_dies_of_a_list_has_said_which() -> None:
    died = report(LIST_DEATH[2:])
    [line] = diagnose(Seen(FIX, crash=died, said=dying_words(LIST_DEATH, FIX), end=ENDED))
    assert line == (
        f"a list was corrupted, after {FIX} was unloaded: {LIST}; the kernel died of it "
        "(oops: kernel BUG at lib/list_debug.c:62!)"
    )
    [bare] = diagnose(Seen(FIX, crash=died))
    assert bare.startswith("the kernel died: oops in __list_del_entry_valid_or_report: kernel BUG")


def test_a_death_that_has_its_own_words_is_told_in_them() -> None:
    oops = [
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        f"RIP: 0010:livepatch_show+0x10/0x30 [{FIX}]",
        LOADED,
    ]
    [line] = diagnose(Seen(FIX, crash=report(oops), said=dying_words(oops, FIX), end=ENDED))
    assert line.startswith(f"the kernel died: oops in livepatch_show of {FIX}")
