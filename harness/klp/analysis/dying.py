# SPDX-License-Identifier: Apache-2.0
"""What a kernel said of broken objects, lists and memory before it was lost, and whose they were. Pure.

A guest may be lost without a fatal report, or by one in whose trace no livepatch stands: the kernel said
before it what was broken. It is told of a livepatch only where the report itself places it: a frame or a
name of its own, or its module loaded or just unloaded as the kernel found the damage. What a host, QEMU or
another module did leaves no such words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest

from klp.klog.lines import without_stamp
from klp.klog.reports import reports

# What the kernel prints as it finds data broken, and what that means; formats of 6.1 to 7.2. The first that
# a line fits counts.
_BROKEN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        # lib/kobject.c: kobject_get(), kobject_put(), kobject_init(), kobject_cleanup().
        (r"kobject: '[^']*' \(\S+\): is not initialized, yet kobject_(?:get|put)\(\) is being called",
         "a kobject was used that is not set up, or not any more"),
        (r"kobject: '[^']*' \(\S+\): tried to init an initialized object"
         r"|kobject \(\S+\): tried to init an initialized object",
         "a kobject was set up a second time"),
        # lib/kobject.c: kobject_add_internal(); fs/sysfs/dir.c: sysfs_warn_dup().
        (r"kobject_add_internal failed for \S+|sysfs: cannot create duplicate filename",
         "a name in sysfs was taken twice"),
        # lib/list_debug.c; with CONFIG_BUG_ON_DATA_CORRUPTION a kernel dies of it.
        (r"list_(?:add|del) (?:corruption|double add)|hlist_\w+ corruption", "a list was corrupted"),
        # lib/debugobjects.c: debug_print_object().
        (r"ODEBUG: \S+ .*object type: ", "an object was freed or used in the wrong state"),
        # lib/refcount.c.
        (r"refcount_t: ", "a reference count went wrong"),
        # mm/kfence/report.c, mm/kasan/report.c, mm/slub.c: slab_bug().
        (r"BUG: (?:KFENCE|KASAN): |BUG [\w.:-]+ \((?:Not tainted|Tainted)", "memory was used wrongly"),
        # mm/slub.c: cache_from_obj(), free_large_kmalloc(); mm/page_alloc.c: bad_page(); mm/vmalloc.c.
        (r"cache_from_obj: Wrong slab cache|Bad page state in process|Trying to vfree\(\) "
         r"|virt_to_cache: Object is not a Slab page|Object already free",
         "memory was freed twice, or was never allocated"),
        (r"BUG: spinlock \S+ .*on CPU#|DEBUG_LOCKS_WARN_ON", "a lock was used that is not set up"),
    )
)  # fmt: skip
# Of these the host may be the cause: a guest that it starves tells them of whoever is at hand.
_STALL = re.compile(r"INFO: task |rcu: INFO|watchdog: ")
# A frame that the unwinder vouches for: without "? " before it.
_FRAME = re.compile(
    r"(?<!\? )\b(?P<function>[A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[(?P<module>\w+))?"
)
# print_modules(), kernel/module/main.c: "Modules linked in: a(OEK) b [last unloaded: c(OEK)]".
_LINKED = "Modules linked in:"
# What every call of a changed function passes through.
_EVERY_CALL = "klp_ftrace_handler"


def broken_thing(lines: Sequence[str]) -> tuple[str, str]:
    """Return what a report says was broken: what that means, and the kernel's line; empty where nothing."""
    for line in lines:
        text = without_stamp(line).strip()
        for pattern, words in _BROKEN:
            if pattern.search(text):
                return words, text.removesuffix(".")
    return "", ""


def dying_words(
    lines: Sequence[str], livepatch: str, foreign: Collection[str] = ()
) -> tuple[tuple[str, ...], ...]:
    """Return the reports in a lost guest's console that are of a livepatch's doing, each with its lines.

    Args:
        lines: of the console, since the guest was handed to the scenario.
        foreign: modules that were loaded beside it and are not its author's.
    """
    texts = [without_stamp(line).rstrip() for line in lines]
    return tuple(each for each in _blocks(texts) if _is_of(each, livepatch, foreign))


def _blocks(texts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield every report, and every line on something broken that stands outside of one.

    Before it dies of a list (CHECK_DATA_CORRUPTION), the kernel prints what is wrong, and the report, which
    begins only after that line, says no more than where: the two are one.
    """
    found = reports(texts)
    inside = {line for block in found for line in block}
    before: dict[str, str] = {}
    for line, following in zip_longest(texts, texts[1:], fillvalue=""):
        if line not in inside and broken_thing((line,))[0]:
            if following in inside:
                before[following] = line
            else:
                yield (line,)
    for block in found:
        yield (before[block[0]], *block) if block[0] in before else block


def _is_of(block: Sequence[str], livepatch: str, foreign: Collection[str]) -> bool:
    modules = [found["module"] for line in block for found in _FRAME.finditer(line) if found["module"]]
    if livepatch in modules:
        return not any(_STALL.search(line) for line in block)
    if not broken_thing(block)[0] or (modules and modules[0] in foreign):
        return False
    named = re.compile(rf"'{re.escape(livepatch)}'|/{re.escape(livepatch)}\b")
    return any(named.search(line) or _linked(line, livepatch) for line in block)


def _linked(line: str, livepatch: str) -> bool:
    """Whether a report's list of modules has the livepatch: loaded, or the last to be unloaded."""
    _, _, modules = line.partition(_LINKED)
    return re.search(rf"\b{re.escape(livepatch)}\b", modules) is not None


def whose(block: Sequence[str], livepatch: str) -> str:
    """Return in words where a report places a livepatch, to follow what was broken."""
    frames = [found for line in block for found in _FRAME.finditer(line)]
    own = next((each["function"] for each in frames if each["module"] == livepatch), "")
    if own:
        return f", by {own} of {livepatch}"
    unloaded = re.compile(rf"last unloaded: {re.escape(livepatch)}\b")
    if any(unloaded.search(line) for line in block):
        return f", after {livepatch} was unloaded"
    core = (each["function"] for each in frames if each["function"].startswith("klp_"))
    first = next((each for each in core if each != _EVERY_CALL), "")
    return f", in {first} of the livepatch core" if first else f", while {livepatch} was loaded"
