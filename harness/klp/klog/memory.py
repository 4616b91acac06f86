# SPDX-License-Identifier: Apache-2.0
"""What a kernel's memory debuggers report: SLUB, KFENCE, KASAN, page poisoning; wording of 6.1 to 7.2.

SLUB and page poisoning look at memory when it is given out or taken back, and tell where that was; KFENCE
and KASAN see most accesses as they happen, and tell who it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from klp.klog.dialects import any_of
from klp.klog.lines import without_stamp

# mm/slub.c: slab_bug(). What is wrong stands behind it, or, where that is "Object corrupt" (since 6.15, and
# in stable kernels since), in a line before it: "[Right Redzone overwritten] 0xffff…".
_SLUB = re.compile(r"BUG (\S+) \((?:Not t|T)ainted\b[^)]*\): (.+)")
_SLUB_BEFORE = re.compile(r"\[([\w ]+ overwritten)\] 0x")
# mm/kfence/report.c, mm/kasan/report.c, mm/page_poison.c.
_SANITIZER = re.compile(r"BUG: (KFENCE|KASAN): (.+?) in ((?:[\w.$]+\+)?0x\S+(?: \[\w+[^\]]*\])?)")
_POISON = re.compile(r"pagealloc: (?:memory corruption|single bit error)")
_RULE = re.compile(r"={60,}$")
# What belongs to a report of SLUB's or page poisoning's beside what belongs to any.
_OWN_LINE = re.compile(
    r"$|-{60,}$|={60,}$|Allocated in |Freed in |Slab 0x|Object (?:0x|  )|(?:Redzone|Padding|Bytes b4) "
    r"|FIX \S+: |\[[\w ]+ overwritten\] 0x|0x[0-9a-f]+-0x[0-9a-f]+ @offset=|Disabling lock debugging"
    r"|[0-9a-f]{8,16}: (?:[0-9a-f]{2} )|page(?::| last |_type| dumped )|flags: 0x|raw: |head: "
)
_WARNED = re.compile(r"WARNING: .*\bmm/(?:slub|slab_common|page_alloc)\.c:")

_FRAME = re.compile(
    r"\s*(?:\[<[0-9a-f]+>\])?\s*(\? )?(?:([\w.$]+)\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[(\w+)[^\]]*\])?"
    r"|(0x[0-9a-f]{6,}))$"
)
_SIZE = re.compile(r"kfence-#\d+: .*, size=(\d+), cache=(\S+)")
_KASAN_CACHE = re.compile(r"which belongs to the cache (\S+) of size (\d+)")
_TRACK = re.compile(r"(allocated|freed) (?:by task |in )", re.IGNORECASE)
_SLUB_TRACK = re.compile(r"(?:Allocated|Freed) in (.+?) age=")
_CALL_TRACE = re.compile(any_of(lambda crash: crash.call_trace))
_LEFT = re.compile(r"\d+B left of kfence|bytes to the left of|bytes before|Left Redzone")
# A function of the allocator's own says nothing about who called it.
_ALLOCATOR = re.compile(
    r"dump_stack\w*|print_\w+|object_err|slab_\w+|__slab_\w+|___slab_\w+|check_\w+|\w*_debug_\w+|on_freelist"
    r"|free_to_partial_list|discard_slab|get_\w*partial\w*|_*get_free_pages\w*|k[vz]?m?alloc\w*|__k[vz]?malloc\w*|\w*kmem_cache_\w+"
    r"|k[v]?free\w*|__?k[v]?free\w*|new_slab|allocate_slab|validate_\w+|kasan_\w+|__kasan_\w+|kfence_\w+"
    r"|___?cache_free|krealloc\w*|rcu_free_sheaf\w*|__kernel_unpoison_pages|\w*alloc_frozen\w*|__alloc_\w+"
    r"|alloc_pages\w*|get_page_from_freelist|prep_new_page|post_alloc_hook|\w*free_object\w*|__pcs_\w+"
    r"|refill_\w+|__asan_\w+|\w*folio_alloc\w*"
)


class Fault(StrEnum):
    """What was done to memory, as the field calls it."""

    PAST_END = "out of bounds"
    BEFORE_START = "out of bounds, before the start"
    OUTSIDE = "out of bounds, on either side"
    AFTER_FREE = "use after free"
    FREED_TWICE = "double free"
    NOT_ALLOCATED = "invalid free"
    AFTERMATH = "aftermath"
    OTHER = "other"


class Found(StrEnum):
    """When it was found."""

    ACCESS = "as it happened"
    GIVEN = "when it was given out anew"
    FREED = "when it was freed"
    LOOKED_THROUGH = "when its cache was looked through"
    OTHER = "later"


@dataclass(frozen=True, slots=True)
class CodeSite:
    """A function on a stack; `function` is empty where its code has gone, `module` for the kernel's own."""

    function: str
    module: str

    @property
    def words(self) -> str:
        """``F of M``, or ``F``."""
        if not self.function:
            return "code that is no longer there"
        return f"{self.function} of {self.module}" if self.module else self.function


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """One report.

    Attributes:
        title: the line that says what is wrong, with the line before it where that says more.
        fault, moment: what was done, and when it was found.
        access: ``write``, ``read``, or empty where it is not told.
        cache, size: of the object; empty, and None, where they are not told.
        found: the stack by which it was found, topmost first, without the allocator's own functions.
        allocated, freed: the stacks of the object's life; empty where they are not told.
    """

    title: str
    fault: Fault
    moment: Found
    access: str
    cache: str
    size: int | None
    found: tuple[CodeSite, ...]
    allocated: tuple[CodeSite, ...]
    freed: tuple[CodeSite, ...]

    @property
    def key(self) -> object:
        """What reports of the same fault share; that of what was just seen at it is its own."""
        freed = self.freed[:1] if self.fault in (Fault.AFTER_FREE, Fault.FREED_TWICE) else ()
        at_it = self.found[:1] if self.moment is Found.ACCESS else ()
        return (self.fault, self.access, self.cache, self.allocated[:1], freed, at_it)

    @property
    def follows(self) -> bool:
        """Whether it tells no more than that there is damage, of which another report must have told."""
        unknown = self.moment is Found.LOOKED_THROUGH and not self.allocated and not self.freed
        return self.fault is Fault.AFTERMATH or unknown


def debugger_speaks(text: str) -> bool:
    """Whether a line, without its stamp, begins a memory debugger's report."""
    return any(each.match(text) for each in (_SLUB, _SLUB_BEFORE, _SANITIZER, _POISON))


def goes_on(report: Sequence[str], text: str, after: str) -> bool:
    """Whether a line belongs to a memory debugger's report that is not ended, by its own words.

    Args:
        report: the lines of it so far; of another kind of report no line belongs by these words.
        after: the text of the line after it.
    """
    first = without_stamp(report[0])
    if _SANITIZER.match(first):
        return True
    if not debugger_speaks(first):
        return False
    if _SLUB.match(text):  # the second line of a report that began with what is wrong
        return _SLUB_BEFORE.match(first) is not None and not _named(report)
    if "[ cut here ]" in text:
        return _WARNED.match(after) is not None
    return not debugger_speaks(text) and _OWN_LINE.match(text) is not None


def ends(report: Sequence[str], text: str) -> bool:
    """Whether a line is the last one of a memory debugger's report."""
    return _SANITIZER.match(without_stamp(report[0])) is not None and _RULE.match(text) is not None


def memory_report(lines: Sequence[str]) -> MemoryReport | None:
    """Read a report, of which these are all lines; None if it is not a memory debugger's."""
    texts = [without_stamp(line) for line in lines]
    if not texts or not debugger_speaks(texts[0]):
        return None
    title, what = _title(texts)
    cache, size = _object(texts)
    found, moment = _found(texts)
    accessed = _accessed(texts)
    return MemoryReport(
        title=title,
        fault=_fault(what, texts),
        moment=moment,
        access=next((each for each in ("write", "read") if re.search(each, accessed, re.I)), ""),
        cache=cache,
        size=size,
        found=found,
        allocated=_track("allocated", texts),
        freed=_track("freed", texts),
    )


def telling(reports: Iterable[Sequence[str]]) -> tuple[Sequence[str], ...]:
    """Return the reports without those that say again what another says; who was seen at it comes first.

    A slab in which SLUB found damage is taken out of use: each object of it that is freed later is told,
    whoever frees it. And what is written with each call is found with each, by whoever comes next.
    """
    found: dict[object, Sequence[str]] = {}
    seen: list[MemoryReport] = []
    for each in reports:
        report = memory_report(each)
        if report is None:
            found[tuple(each)] = each
        elif not (seen and report.follows):
            found.setdefault(report.key, each)
            seen.append(report)
    at_it = {report.key for report in seen if report.moment is Found.ACCESS}
    return tuple(each for _, each in sorted(found.items(), key=lambda pair: pair[0] not in at_it))


def _named(report: Sequence[str]) -> bool:
    return any(_SLUB.match(without_stamp(line)) for line in report)


def _title(texts: Sequence[str]) -> tuple[str, str]:
    """Return a report's title, and the words in it that say what is wrong."""
    before, named = _SLUB_BEFORE.match(texts[0]), next(filter(None, map(_SLUB.match, texts)), None)
    if named is None:
        return texts[0].strip(), texts[0]
    what = before[1] if before else named[2]
    return f"{named[0].rpartition(named[2])[0]}{what}".strip(), what


def _fault(what: str, texts: Sequence[str]) -> Fault:
    kinds = (
        (r"Left Redzone", Fault.BEFORE_START),
        (r"Redzone|[Pp]adding", Fault.PAST_END),
        (r"Poison|use-after-free|pagealloc|use after free", Fault.AFTER_FREE),
        (r"already free|double-free", Fault.FREED_TWICE),
        (r"Invalid object pointer|outside of slab|non-slab|invalid-free", Fault.NOT_ALLOCATED),
        (
            r"Slab disabled|Wrong object count|object[s]? remaining|Not a valid slab|counter is",
            Fault.AFTERMATH,
        ),
        (r"memory corruption", Fault.OUTSIDE),
        (r"out-of-bounds", Fault.BEFORE_START if any(map(_LEFT.search, texts)) else Fault.PAST_END),
    )
    if "invalid free" in what:  # KFENCE says so of both
        return Fault.FREED_TWICE if _track("freed", texts) else Fault.NOT_ALLOCATED
    return next((kind for words, kind in kinds if re.search(words, what, re.I)), Fault.OTHER)


def _accessed(texts: Sequence[str]) -> str:
    """Return the words of a report that say whether it was a read or a write."""
    if _SANITIZER.match(texts[0]):
        kasan = (text for text in texts if re.match(r"(?:Read|Write) of size", text))
        return next(kasan, texts[0].partition(" in ")[0]).replace("corruption", "write")
    return "write" if "overwritten" in _title(texts)[1] or _POISON.match(texts[0]) else ""


def _object(texts: Sequence[str]) -> tuple[str, int | None]:
    for text in texts:
        if found := _SIZE.match(text):
            return found[2], int(found[1])
        if found := _KASAN_CACHE.search(text):
            return found[1], int(found[2])
        if found := _SLUB.match(text):
            return found[1], None
    return "", None


def _places(texts: Iterable[str]) -> Iterator[CodeSite]:
    """Yield the frames that begin a text, up to the first line that is none, without those with a "?"."""
    for text in texts:
        if re.match(r"\s*</?(?:TASK|IRQ|NMI)>", text):
            continue
        found = _FRAME.match(text)
        if found is None:
            return
        if not found[1]:
            yield CodeSite(found[2] or "", found[3] or "")


def _track(which: str, texts: Sequence[str]) -> tuple[CodeSite, ...]:
    """Return the stack by which the object was allocated, or freed."""
    for number, text in enumerate(texts):
        found = _TRACK.match(text)
        if found is None or found[1].lower() != which:
            continue
        caller = _SLUB_TRACK.match(text)
        first = tuple(_places([caller[1]] if caller else []))
        stack = tuple(_places(texts[number + 1 :]))
        # The stack may be without the caller: set_track_prepare() of 6.1 leaves out one frame too many when
        # an object is freed, and a kernel without CONFIG_STACKDEPOT has no stack at all.
        return _callers(stack if set(first) <= set(stack) else (*first, *stack))
    return ()


def _found(texts: Sequence[str]) -> tuple[tuple[CodeSite, ...], Found]:
    """Return the stack by which it was found, and when that was."""
    if _SANITIZER.match(texts[0]):
        stack = _sanitizer_stack(texts)
        corrupt = "memory corruption" in texts[0]
        return _callers(stack), Found.FREED if corrupt else Found.ACCESS
    at = next((number for number, text in enumerate(texts) if _CALL_TRACE.match(text)), len(texts))
    stack = tuple(_places(texts[at + 1 :]))
    names = [each.function for each in stack[:12]]
    return _callers(stack), _moment(names)


def _moment(names: Sequence[str]) -> Found:
    kinds = (
        (r"validate_\w+", Found.LOOKED_THROUGH),
        (r"alloc_debug_processing|alloc_consistency_checks|__kernel_unpoison_pages", Found.GIVEN),
        (r"free_to_partial_list|free_debug_processing|\w*kv?free\w*|kmem_cache_free", Found.FREED),
        (r"\w*alloc\w*", Found.GIVEN),
    )
    for words, moment in kinds:
        if any(re.fullmatch(words, name.split(".")[0]) for name in names):
            return moment
    return Found.OTHER


def _sanitizer_stack(texts: Sequence[str]) -> tuple[CodeSite, ...]:
    """Return the first stack: with KFENCE it follows the line of the access, with KASAN it is the trace."""
    stacks = (tuple(_places(texts[number:])) for number in range(len(texts)))
    return next(filter(None, stacks), ())


def _callers(stack: Sequence[CodeSite]) -> tuple[CodeSite, ...]:
    """Return a stack from the first function on that is not the allocator's."""
    for number, each in enumerate(stack):
        if not _ALLOCATOR.fullmatch(each.function.split(".")[0]) or each.module:
            return tuple(stack[number:])
    return ()
