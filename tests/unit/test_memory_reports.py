# SPDX-License-Identifier: Apache-2.0
"""Reports of the kernel's memory debuggers, as real kernels wrote them: found, read, put into words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from klp.analysis.deaths import reported
from klp.analysis.diagnosis import Seen, diagnose
from klp.klog.lines import alarms
from klp.klog.memory import CodeSite, Fault, Found, MemoryReport, memory_report, telling
from klp.klog.reports import reports

DATA = Path(__file__).parents[1] / "data/memory-reports"
FILES = sorted(each.stem for each in DATA.glob("*.log"))
BAD = "livepatch_version_proc_show of klp_bad_"
ONCE, INIT = "faults_once of klp_faults", "klp_faults_init of klp_faults"
# File: what was done, how it was found, access, cache, size; who allocated it, who freed it.
READ = {
    "6.1-page-poison": (Fault.AFTER_FREE, Found.GIVEN, "write", "", None, "", ""),
    "6.1-slub-after-free": (Fault.AFTER_FREE, Found.GIVEN, "write", "kmalloc-32", None, BAD, BAD),
    "6.1-slub-invalid-free": (Fault.NOT_ALLOCATED, Found.FREED, "", "kmalloc-64", None, "", ""),
    "6.1-slub-looked-through": (
        Fault.PAST_END, Found.LOOKED_THROUGH, "write", "kmalloc-64", None, ONCE, "add_sysfs_param"),
    "6.1-slub-past-end": (
        Fault.PAST_END, Found.FREED, "write", "kmalloc-64", None, BAD, "ftrace_set_hash"),
    "6.12-kfence-before-start": (Fault.BEFORE_START, Found.ACCESS, "write", "kmalloc-64", 64, ONCE, ""),
    "6.12-kfence-corruption": (Fault.OUTSIDE, Found.FREED, "write", "kmalloc-64", 64, ONCE, ONCE),
    "6.12-kfence-freed-twice": (Fault.FREED_TWICE, Found.ACCESS, "", "kmalloc-64", 64, ONCE, ONCE),
    "6.12-kfence-invalid-free": (Fault.NOT_ALLOCATED, Found.ACCESS, "", "kmalloc-64", 64, ONCE, ""),
    "6.12-kfence-past-end-read": (Fault.PAST_END, Found.ACCESS, "read", "kmalloc-64", 64, ONCE, ""),
    "6.12-kfence-past-end-write": (Fault.PAST_END, Found.ACCESS, "write", "kmalloc-64", 64, ONCE, ""),
    "6.12-slub-aftermath": (Fault.AFTERMATH, Found.FREED, "", "kmalloc-32", None, "", ""),
    "6.12-slub-after-free": (Fault.AFTER_FREE, Found.GIVEN, "write", "kmalloc-32", None, BAD, BAD),
    "6.12-slub-before-start": (
        Fault.BEFORE_START, Found.FREED, "write", "kmalloc-64", None, ONCE, "detach_buf_split"),
    "6.12-slub-freed-twice": (Fault.FREED_TWICE, Found.FREED, "", "kmalloc-64", None, ONCE, ONCE),
    "6.12-slub-past-end": (
        Fault.PAST_END, Found.FREED, "write", "kmalloc-64", None, BAD, "load_elf_binary"),
    "7.2-kfence-after-free-read": (Fault.AFTER_FREE, Found.ACCESS, "read", "kmalloc-64", 64, ONCE, ONCE),
    "7.2-kfence-after-free-write": (Fault.AFTER_FREE, Found.ACCESS, "write", "kmalloc-64", 64, ONCE, ONCE),
    "7.2-page-poison": (Fault.AFTER_FREE, Found.GIVEN, "write", "", None, "", ""),
    "7.2-slub-after-free": (Fault.AFTER_FREE, Found.GIVEN, "write", "kmalloc-32", None, BAD, BAD),
    "7.2-slub-looked-through": (
        Fault.PAST_END, Found.LOOKED_THROUGH, "write", "kmalloc-64", None, ONCE, "add_sysfs_param"),
    "7.2-slub-past-end": (
        Fault.PAST_END, Found.FREED, "write", "kmalloc-64", None, BAD, "mas_store_prealloc"),
}  # fmt: skip
BEFORE = ("[    1.000000] livepatch: enabling patch 'klp_x'",)
AFTER = ("[   99.000000] livepatch: 'klp_x': patching complete",)


def lines(name: str) -> tuple[str, ...]:
    return tuple((DATA / f"{name}.log").read_text().splitlines())


def test_each_report_is_read() -> None:
    assert sorted(READ) == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_report_is_found_whole_and_alone(name: str) -> None:
    own = lines(name)
    assert reports((*BEFORE, *own, *AFTER)) == (own,)
    assert reports((*BEFORE, *own, *own, *AFTER)) == (own, own)


@pytest.mark.parametrize("name", FILES)
def test_what_it_says_is_read(name: str) -> None:
    fault, found, access, cache, size, allocated, freed = READ[name]
    report = memory_report(lines(name))
    assert report is not None
    assert (report.fault, report.moment, report.access) == (fault, found, access)
    assert (report.cache, report.size) == (cache, size)
    for stack, expected in ((report.allocated, allocated), (report.freed, freed)):
        assert bool(stack) == bool(expected)
        assert not stack or stack[0].words.startswith(expected)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "6.1-slub-past-end",
            "out of bounds: something wrote past the end of an object of kmalloc-64, allocated by "
            f"{BAD}out_of_bounds, found when it was freed by {BAD}out_of_bounds "
            "(kernel log: BUG kmalloc-64: Right Redzone overwritten)",
        ),
        (
            "7.2-slub-after-free",
            "use after free: something wrote into an object of kmalloc-32 after it was freed, allocated by "
            f"{BAD}use_after_free, freed by {BAD}use_after_free, found when it was given out anew to "
            "tomoyo_encode2 (kernel log: BUG kmalloc-32: Poison overwritten)",
        ),
        (
            "6.12-kfence-past-end-write",
            f"out of bounds: {ONCE} wrote past the end of an object of kmalloc-64 (64 bytes), allocated by "
            f"{ONCE} (kernel log: BUG: KFENCE: out-of-bounds write in faults_once [klp_faults])",
        ),
        (
            "7.2-kfence-after-free-read",
            f"use after free: {ONCE} read from an object of kmalloc-64 (64 bytes) after it was freed, "
            f"allocated by {ONCE}, freed by {ONCE} "
            "(kernel log: BUG: KFENCE: use-after-free read in faults_once [klp_faults])",
        ),
        (
            "6.12-slub-freed-twice",
            f"memory was freed twice, by {INIT}: an object of kmalloc-64, allocated by {ONCE}, "
            f"freed first by {ONCE} (kernel log: BUG kmalloc-64: Object already free)",
        ),
        (
            "6.1-slub-invalid-free",
            f"memory was freed that was never allocated so, by {INIT}: an object of kmalloc-64 "
            "(kernel log: BUG kmalloc-64: Invalid object pointer)",
        ),
        (
            "7.2-slub-looked-through",
            f"out of bounds: something wrote past the end of an object of kmalloc-64, allocated by {ONCE}, "
            "found when its cache was looked through "
            "(kernel log: BUG kmalloc-64: Right Redzone overwritten)",
        ),
        (
            "6.1-page-poison",
            "use after free: something wrote into a page after it was freed, found when it was given out "
            "anew to __tlb_remove_page_size (kernel log: pagealloc: memory corruption)",
        ),
    ],
)
def test_it_is_put_into_words(name: str, words: str) -> None:
    livepatch = "klp_bad_use_after_free" if "klp_bad_use_after" in words else "klp_bad_out_of_bounds"
    assert reported(lines(name), livepatch) == words


def test_the_livepatch_is_named_before_what_it_called() -> None:
    own = list(lines("7.2-slub-looked-through"))
    number = next(number for number, line in enumerate(own) if "Allocated in" in line)
    own.insert(number + 1, "[    9.000000]  kstrdup+0x10/0x20")
    words = reported(own, "klp_faults")
    assert "allocated by faults_once of klp_faults" in words
    assert "allocated by kstrdup" in reported(own, "klp_other")


def test_a_function_that_is_gone_is_called_so() -> None:
    gone = [line.replace("faults_once+0x17/0x120 [klp_faults]", "0xffffffffc0390017")
            for line in lines("6.12-slub-before-start")]  # fmt: skip
    assert "allocated by code that is no longer there" in reported(gone, "klp_bad")


def test_the_aftermath_is_not_told_again() -> None:
    first, later = lines("6.12-slub-after-free"), lines("6.12-slub-aftermath")
    assert telling((first, later, later)) == (first,)
    assert telling((later,)) == (later,)


def test_the_same_fault_is_told_once() -> None:
    once = lines("6.12-slub-past-end")
    again = [line.replace("pid=201", "pid=301").replace("load_elf_binary", "vfree") for line in once]
    assert telling((once, again)) == (once,)
    assert telling((once, lines("6.12-slub-after-free"))) == (once, lines("6.12-slub-after-free"))


def test_who_was_seen_at_it_comes_first() -> None:
    found, seen = lines("6.12-slub-past-end"), lines("6.12-kfence-past-end-write")
    assert telling((found, seen)) == (seen, found)


def test_a_warning_of_another_place_is_a_report_of_its_own() -> None:
    own = lines("6.1-slub-past-end")
    warning = ("------------[ cut here ]------------", "WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2",
               "---[ end trace 0000000000000000 ]---")  # fmt: skip
    assert reports((*own, *warning)) == (own, warning)


def test_a_diagnosis_names_it() -> None:
    found = (*[lines("7.2-slub-past-end")] * 3, lines("6.12-slub-aftermath"))
    [reason] = diagnose(Seen("klp_bad_out_of_bounds", reports=found))
    assert reason.startswith("out of bounds: something wrote past the end of an object of kmalloc-64")


def test_another_report_is_none_of_a_memory_debugger() -> None:
    assert memory_report(("BUG: kernel NULL pointer dereference, address: 0",)) is None
    assert memory_report(()) is None


@pytest.mark.parametrize("line", [
    "BUG kmalloc-64 (Tainted: G           OE K   ): Right Redzone overwritten",
    "BUG task_struct (Not tainted): Poison overwritten",
    "[Right Redzone overwritten] 0xffff8880061a9f80-0xffff8880061a9f80 @offset=3968. First byte 0x0",
    "pagealloc: memory corruption",
    "pagealloc: single bit error",
])  # fmt: skip
def test_their_first_lines_are_alarms(line: str) -> None:
    assert alarms((line,)) == (line,)


KASAN = """\
==================================================================
BUG: KASAN: slab-use-after-free in livepatch_foo+0x5b/0x120 [klp_bad]
Write of size 1 at addr ffff888003e51008 by task cat/254

CPU: 0 UID: 0 PID: 254 Comm: cat Tainted: G           OE K    7.2.0 #1
Call Trace:
 <TASK>
 dump_stack_lvl+0x44/0x5c
 print_report+0x10/0x20
 kasan_report+0x10/0x20
 livepatch_foo+0x5b/0x120 [klp_bad]
 seq_read_iter+0x11c/0x460
 </TASK>

Allocated by task 254:
 kasan_save_stack+0x10/0x20
 __kasan_kmalloc+0x10/0x20
 livepatch_foo+0x17/0x120 [klp_bad]
 seq_read_iter+0x11c/0x460

Freed by task 254:
 kasan_save_stack+0x10/0x20
 kfree+0x10/0x20
 livepatch_foo+0x57/0x120 [klp_bad]

The buggy address belongs to the object at ffff888003e51000
 which belongs to the cache kmalloc-64 of size 64
The buggy address is located 8 bytes inside of
 freed 64-byte region [ffff888003e51000, ffff888003e51040)
=================================================================="""


def test_kasan_is_read_by_its_source() -> None:
    own = tuple(KASAN.splitlines()[1:])  # as mm/kasan/report.c writes it: none was seen here
    assert reports((*KASAN.splitlines(), *AFTER)) == (own,)
    assert reported(own, "klp_bad") == (
        "use after free: livepatch_foo of klp_bad wrote into an object of kmalloc-64 (64 bytes) after it "
        "was freed, allocated by livepatch_foo of klp_bad, freed by livepatch_foo of klp_bad (kernel log: "
        "BUG: KASAN: slab-use-after-free in livepatch_foo [klp_bad])"
    )


WARNING = (
    "------------[ cut here ]------------",
    "WARNING: CPU: 1 PID: 12 at fs/x.c:1 f+0x1/0x2",
    "---[ end trace 0000000000000000 ]---",
)


@pytest.mark.parametrize("name", FILES)
def test_reports_of_two_kinds_are_two(name: str) -> None:
    own = lines(name)
    assert reports((*WARNING, *BEFORE, *own, *AFTER)) == (WARNING, own)
    assert reports((*own, *AFTER, *WARNING, "Call Trace:")) == (own, WARNING, ("Call Trace:",))


A, B, C = (CodeSite(name, "m") for name in "abc")
KNOWN = MemoryReport(
    "t", Fault.AFTER_FREE, Found.ACCESS, "write", "kmalloc-64", 64, found=(A, B), allocated=(B, C),
    freed=(C, A),
)  # fmt: skip


@pytest.mark.parametrize("stack", ["found", "allocated", "freed"])
def test_reports_of_one_fault_share_the_topmost_functions(stack: str) -> None:
    first, second = getattr(KNOWN, stack)
    assert replace(KNOWN, **{stack: (first, first)}).key == KNOWN.key
    assert replace(KNOWN, **{stack: (second, second)}).key != KNOWN.key


def test_reports_of_one_fault_may_differ_in_what_says_nothing_of_it() -> None:
    later = replace(KNOWN, moment=Found.FREED)
    assert replace(later, found=(C,)).key == later.key
    beyond = replace(KNOWN, fault=Fault.PAST_END)
    assert replace(beyond, freed=(B,)).key == beyond.key
    twice = replace(KNOWN, fault=Fault.FREED_TWICE)
    assert replace(twice, freed=(B,)).key != twice.key


@pytest.mark.parametrize(
    ("moment", "allocated", "freed", "follows"),
    [
        (Found.LOOKED_THROUGH, (), (), True),
        (Found.LOOKED_THROUGH, (A,), (), False),
        (Found.LOOKED_THROUGH, (), (A,), False),
        (Found.FREED, (), (), False),
    ],
)
def test_a_report_that_tells_of_nobody(
    moment: Found, allocated: tuple[CodeSite, ...], freed: tuple[CodeSite, ...], follows: bool
) -> None:
    report = replace(KNOWN, moment=moment, allocated=allocated, freed=freed)
    assert report.follows is follows
    assert replace(report, fault=Fault.AFTERMATH).follows


def test_a_second_object_is_a_second_report() -> None:
    what = "[Right Redzone overwritten] 0xffff8880061a9f80-0xffff8880061a9f80 @offset=3968. First byte 0x0"
    one, other = (f"BUG kmalloc-{size} (Not tainted): Poison overwritten" for size in (64, 32))
    assert reports((what, one, other)) == ((what, one), (other,))


def test_a_stack_that_is_its_caller_alone() -> None:
    report = memory_report((
        "BUG kmalloc-64 (Not tainted): Poison overwritten", "Allocated in f+0x1/0x2 [m] age=1 cpu=0 pid=1",
        " f+0x1/0x2 [m]", "Slab 0x1",
    ))  # fmt: skip
    assert report is not None
    assert report.allocated == (CodeSite("f", "m"),)


@pytest.mark.parametrize("name", FILES)
def test_a_stack_begins_right_below_its_heading(name: str) -> None:
    whole, bare = lines(name), tuple(line for line in lines(name) if not line.endswith(" <TASK>"))
    one, other = memory_report(whole), memory_report(bare)
    assert one is not None
    assert other is not None
    assert one.found == other.found
