# SPDX-License-Identifier: Apache-2.0
"""What the kernel reported, in words: an oops that took the guest, a warning in the log. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from klp.analysis.dying import broken_thing, whose
from klp.analysis.memory_faults import memory_fault
from klp.errors import CrashReport
from klp.klog.dialects import any_of
from klp.klog.memory import memory_report

_FRAME = re.compile(r"(?<!\? )\b([A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+ \[(\w+)")
# A bare address where a symbol should be, or a jump to a page that is not there: the code there has gone,
# and its symbols with it.
_NOWHERE = re.compile(
    rf"{any_of(lambda crash: crash.kernel_pc)}0x[0-9a-f]+|{any_of(lambda crash: crash.bad_fetch)}"
    rf"|{any_of(lambda crash: crash.erased_text)}"
)
_MEMORY_GONE = re.compile(any_of(lambda crash: crash.fault_in_modules))
# mm/vmalloc.c, mm/slub.c (the BUG needs CONFIG_SLAB_FREELIST_HARDENED, the rest slub_debug),
# mm/page_alloc.c.
_FREED_TWICE = re.compile(
    r"Trying to vfree\(\) (?:nonexistent|bad)|kernel BUG at mm/slub\.c|Bad page state|double[ -]free"
    r"|Object already free|Invalid object pointer|freeing.*free(?:d)? (?:slab|object)",
    re.IGNORECASE,
)
# No ORC data is left for code that is gone, so the frames below it are guesses, which the kernel marks by
# "?".
_UNRELIABLE = re.compile(r"\s\? ([\w.]+)\+0x")
_CUT = "[ cut here ]"


def crashed(
    report: CrashReport, livepatch: str, inside: Sequence[str] = (), said: Sequence[Sequence[str]] = ()
) -> str:
    """Return a guest's end in words.

    Args:
        inside: tasks that were in the livepatch's code just before it was unloaded, ``name[pid]``.
        said: see `klp.analysis.dying.dying_words`: what the kernel said before, and at its end.
    """
    if _after_its_end(report.lines, livepatch):
        return (
            f"code of {livepatch} ran after the module was gone: {_who(report, inside)} "
            f"({report.category.value}: {report.title})"
        )
    if _its_memory_after_its_end(report.lines, livepatch):
        user = report.function or "the kernel"
        return (
            f"memory of {livepatch} was used after the module was gone, by {user}: "
            "a timer, a work item, a list's entry or another object in its data was left behind "
            f"({report.category.value}: {report.title})"
        )
    twice = _freed_twice(report.lines, livepatch)
    if twice:
        return f"{twice}; the kernel died of it ({report.category.value}: {report.title})"
    for block in said:
        if found := broke(block, livepatch):
            return f"{found}; the kernel died of it ({report.category.value}: {report.title})"
    where = f" in {report.function}{_owner(report)}" if report.function else ""
    below = f", called by {livepatch}" if livepatch in report.modules and livepatch not in where else ""
    return f"the kernel died: {report.category.value}{where}{below}: {report.title}"


def _after_its_end(lines: Sequence[str], livepatch: str) -> bool:
    return _unloaded_last(lines, livepatch) and any(_NOWHERE.search(line) for line in lines)


def _its_memory_after_its_end(lines: Sequence[str], livepatch: str) -> bool:
    return _unloaded_last(lines, livepatch) and any(_MEMORY_GONE.search(line) for line in lines)


def _unloaded_last(lines: Sequence[str], livepatch: str) -> bool:
    # print_modules(), kernel/module/main.c: it remembers one module, so another rmmod since hides this one.
    unloaded = re.compile(rf"last unloaded: {re.escape(livepatch)}\b")
    return any(unloaded.search(line) for line in lines)


def _who(report: CrashReport, inside: Sequence[str]) -> str:
    if inside:
        return f"{', '.join(inside)} ran it before it was unloaded, and nothing stopped it"
    caller = next((found[1] for line in report.lines if (found := _UNRELIABLE.search(line))), "")
    by = f", called by {caller}" if caller else ""
    return (
        f"a kthread, a timer, a work item, a destructor or another pointer to code that it left behind{by}"
    )


def _owner(report: CrashReport) -> str:
    """Return the module of the function that died, as `` of M``; empty for the kernel's own."""
    for frame in report.trace:
        found = _FRAME.search(f" {frame}")
        if found and found[1].split(".")[0] == report.function:
            return f" of {found[2]}"
    return ""


def broke(block: Sequence[str], livepatch: str) -> str:
    """Return what a report says was broken, by whom, in the kernel's words; empty where it says nothing."""
    meaning, line = broken_thing(block)
    return f"{meaning}{whose(block, livepatch)}: {line}" if meaning else ""


def lost_after(block: Sequence[str], livepatch: str, end: str) -> str:
    """Return what a kernel reported before its guest was lost in a way that says nothing of it.

    Args:
        end: how the guest was lost, in words.
    """
    return f"{broke(block, livepatch) or reported(block, livepatch)}; then the guest was lost: {end}"


def reported(lines: Sequence[str], livepatch: str) -> str:
    """Return a report of the kernel log in one line: what it says, and where in the livepatch."""
    memory = memory_report(lines)
    if memory is not None:
        return memory_fault(memory, livepatch)
    texts = [line.strip() for line in lines if _CUT not in line] or [*lines]
    twice = _freed_twice(texts, livepatch)
    if twice:
        return f"{twice} (kernel log: {texts[0]})"
    own = _own_function(texts, livepatch)
    where = f", called by {own} of {livepatch}" if own and own not in texts[0] else ""
    warning = next((line for line in texts[1:] if line.startswith("WARNING: ")), "")
    return f"the kernel log has a report: {texts[0]}{f' ({warning})' if warning else ''}{where}"


def _freed_twice(lines: Sequence[str], livepatch: str) -> str:
    if not any(_FREED_TWICE.search(line) for line in lines):
        return ""
    own = _own_function(lines, livepatch)
    who = f", by {own} of {livepatch}" if own else ""
    if not own and any("klp_shadow_free" in line for line in lines):
        who = ", by a shadow variable's destructor"
    return f"memory was freed twice, or was never allocated{who}"


def _own_function(lines: Sequence[str], livepatch: str) -> str:
    """Return the topmost function of the livepatch's module in a report."""
    frames = (_FRAME.search(line) for line in lines)
    return next((found[1] for found in frames if found and found[2] == livepatch), "")
