# SPDX-License-Identifier: Apache-2.0
"""What a memory debugger of the kernel's reported, in words: what was done, to whose object. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from klp.klog.memory import CodeSite, Fault, Found, MemoryReport

# What is another with each report of the same fault: the kernel's taint, addresses, offsets.
_VARIES = re.compile(r" \((?:Not t|T)ainted\b[^)]*\)| 0x[0-9a-f]{8,}|\+0x[0-9a-f]+/0x[0-9a-f]+")
_WHERE = {
    Fault.PAST_END: "past the end of",
    Fault.BEFORE_START: "before the start of",
    Fault.OUTSIDE: "outside of",
    Fault.AFTER_FREE: "into",
}
_FOUND = {
    Found.GIVEN: "found when it was given out anew",
    Found.FREED: "found when it was freed",
    Found.LOOKED_THROUGH: "found when its cache was looked through",
    Found.OTHER: "found later",
    Found.ACCESS: "",
}


def memory_fault(report: MemoryReport, livepatch: str) -> str:
    """Return a report in a line: what was done to which object, by whom, and where it came from."""
    source = f"(kernel log: {_VARIES.sub('', report.title)})"
    who = _who(report.found, livepatch)
    if report.fault in (Fault.FREED_TWICE, Fault.NOT_ALLOCATED):
        what = f"{_freed_wrongly(report.fault)}{f', by {who}' if who else ''}: {_object(report)}"
        return f"{_listed([what, *_life(report, livepatch)])} {source}"
    if report.fault not in _WHERE:
        return f"the kernel log has a report: {_VARIES.sub('', report.title)}"
    kind = "use after free" if report.fault is Fault.AFTER_FREE else "out of bounds"
    if report.moment is Found.ACCESS and who:
        verb = "read" if report.access == "read" else "wrote"
        where = "from" if (verb, report.fault) == ("read", Fault.AFTER_FREE) else _WHERE[report.fault]
        after = " after it was freed" if report.fault is Fault.AFTER_FREE else ""
        what = f"{kind}: {who} {verb} {where} {_object(report)}{after}"
        return f"{_listed([what, *_life(report, livepatch)])} {source}"
    what = f"{kind}: something wrote {_WHERE[report.fault]} {_object(report)}"
    what += " after it was freed" if report.fault is Fault.AFTER_FREE else ""
    return f"{_listed([what, *_life(report, livepatch), _when(report, who)])} {source}"


def _freed_wrongly(fault: Fault) -> str:
    if fault is Fault.FREED_TWICE:
        return "memory was freed twice"
    return "memory was freed that was never allocated so"


def _object(report: MemoryReport) -> str:
    if not report.cache:
        return "a page"
    size = f" ({report.size} bytes)" if report.size is not None else ""
    return f"an object of {report.cache}{size}"


def _life(report: MemoryReport, livepatch: str) -> list[str]:
    """Return by whom the object was allocated and freed, as far as that is part of the fault."""
    allocated, freed = (_who(stack, livepatch) for stack in (report.allocated, report.freed))
    words = [f"allocated by {allocated}"] if allocated else []
    if freed and report.fault in (Fault.AFTER_FREE, Fault.FREED_TWICE):
        words.append(f"freed {'first ' if report.fault is Fault.FREED_TWICE else ''}by {freed}")
    return words


def _when(report: MemoryReport, who: str) -> str:
    if report.moment is Found.GIVEN:
        return f"{_FOUND[report.moment]}{f' to {who}' if who else ''}"
    if report.moment is Found.FREED:
        return f"{_FOUND[report.moment]}{f' by {who}' if who else ''}"
    return _FOUND[report.moment]


def _who(stack: Sequence[CodeSite], livepatch: str) -> str:
    """Return the topmost function of the livepatch's on a stack, or else the topmost."""
    own = (each for each in stack if each.module == livepatch and each.function)
    return next((each.words for each in (*own, *stack)), "")


def _listed(parts: Sequence[str]) -> str:
    first, *more = parts
    return ", ".join([first, *more])
