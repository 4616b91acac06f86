# SPDX-License-Identifier: Apache-2.0
"""What a kernel says when it fails, read from console lines; wording of 6.1 to 7.2.

What only one architecture's kernel says comes from `klp.arch`.

Which function and which frames matter is decided as syzkaller (pkg/report) and the netdev CI (nipa)
do: frames the kernel marks as unreliable do not count, nor do those that every report of a kind
shares (the reporting itself, the scheduler under a blocked task, the way into the kernel).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from klp.errors import Category, CrashReport
from klp.klog.dialects import any_of
from klp.klog.lines import without_stamp

# A guest with one of these is lost. The others are told, and go on: a run may hold a task
# uninterruptibly on purpose, and a task that was killed for its memory leaves a kernel that works.
FATAL = frozenset(Category) - {Category.HUNG_TASK, Category.OOM_KILL}
# More than any report seen (a soft lockup with the backtraces of all CPUs: 150); a console that never
# falls silent must not make one without end.
LONGEST = 500

_PANICS = frozenset({Category.PANIC, Category.OOPS, Category.OUT_OF_MEMORY})
_STALLS = frozenset({Category.SOFT_LOCKUP, Category.HARD_LOCKUP, Category.RCU_STALL})
_TOP_FRAMES = 5

_PANIC = "Kernel panic - not syncing: "
# The first that matches counts: PANIC, which all panics match, is what is left when no other category does.
_BEGINNINGS = (
    (Category.OUT_OF_MEMORY, re.compile(f"{_PANIC}(?:Out of memory|System is deadlocked on memory)")),
    (Category.SOFT_LOCKUP, re.compile(f"watchdog: BUG: soft lockup|{_PANIC}softlockup:")),
    (Category.HARD_LOCKUP, re.compile(
        f"(?:NMI )?watchdog: (?:BUG: hard lockup|.*detected hard LOCKUP)|{_PANIC}Hard LOCKUP")),
    (Category.RCU_STALL, re.compile(
        f"rcu: INFO: rcu_\\w+ (?:self-detected stall|detected (?:expedited )?stalls)|{_PANIC}RCU Stall")),
    (Category.HUNG_TASK, re.compile(f"INFO: task .* blocked .*for more than|{_PANIC}hung_task:")),
    (Category.OOPS, re.compile(rf"kernel BUG at \S+:\d+!|{any_of(lambda crash: crash.oops)}")),
    (Category.OOM_KILL, re.compile(r"(?!\s)[^\[\]]* invoked oom-killer: gfp_mask=")),
    (Category.PANIC, re.compile(_PANIC)),
)  # fmt: skip
_BREAKPOINT = re.compile(rf"(?:^|: ){any_of(lambda crash: crash.breakpoint)}")
# An emulator with a thread for each vCPU may run an instruction that another vCPU is rewriting, and then
# finds one breakpoint among true instructions (docs/facts.md). In erased text there is nothing else.
_ERASED_TEXT = re.compile(any_of(lambda crash: crash.erased_text))

# "? " marks an address that was found on the stack, but not by the unwinder (arch/x86/kernel/dumpstack.c).
_FRAME = re.compile(r"^(?:\[<[0-9a-f]+>\])?\s+(\? )?([\w.$]+)\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[(\w+).*)?$")
_CALL_TRACE = re.compile(any_of(lambda crash: crash.call_trace))
_PC = re.compile(
    rf"{any_of(lambda crash: crash.kernel_pc)}"
    r"(([\w.$]+)\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[(\w+)[^\]]*\])?)"
)
# lib/nmi_backtrace.c: another CPU's stack, which softlockup_all_cpu_backtrace=1 in the guests asks for.
_OTHER_CPU = re.compile(r"NMI backtrace for cpu \d+$")
_CONTEXT = re.compile(rf"\s*<(/?){any_of(lambda crash: crash.interrupts)}>")
_TRACE_END = re.compile(any_of(lambda crash: crash.trace_end))
_END_OF_TRACE = re.compile(rf"^\s*{_TRACE_END.pattern}|Modules linked in:|---\[ end trace")
# A module that is a livepatch has taint K in its list: klp_fix(OEK).
_LIVEPATCHES = re.compile(r"\b(\w+)\([A-Z]*K[A-Z]*[+-]?\)")
_SUFFIX = re.compile(r"(?:\.(?:isra|constprop|part|cold|llvm)(?:\.\d+)*)+$")

# Frames that say nothing about the fault, by what they do.
_BESIDE_THE_POINT = re.compile("|".join((
    r"dump_stack\w*|show_stack\w*|v?panic|nmi_panic|__warn\w*|report_bug|handle_bug|__?die\w*|oops_\w+",
    any_of(lambda crash: crash.beside_the_point), any_of(lambda crash: crash.spinning), r"bad_area\w*",
    r"dump_header|oom_kill_process|out_of_memory|\w*alloc_pages\w*|\w*folio_alloc\w*",
    r"__schedule\w*|schedule\w*|io_schedule\w*|preempt_schedule\w*|do_wait_for_common|\w*wait_for_\w+",
    r"__?mutex_lock\w*|rt_mutex_\w+|rwsem_\w+|down(?:_\w+)?|__down\w*|_raw_\w+",
    r"delay_\w+|__(?:const_)?[un]?delay|__x?memcpy|memcpy\w*|memset\w*|memmove\w*|str\w?cpy|kthread",
    r"ret_from_fork\w*|__do_sys_\w+",
    # The loop that runs softirqs lets interrupts in first, which then find it on top of whoever stalls.
    # It is never the cause itself: after 2 ms it leaves the rest to ksoftirqd (kernel/softirq.c).
    r"handle_softirqs|__do_softirq|do_softirq\w*|(?:__)?irq_exit\w*|__local_bh_enable_ip",
)))  # fmt: skip
# Who stands here waits for another CPU to answer; if that one's backtrace was asked for, it is the one.
_WAITS_FOR_A_CPU = re.compile(
    rf"smp_call_\w+|csd_lock_\w+|on_each_cpu\w*|multi_cpu_stop|{any_of(lambda crash: crash.spinning)}"
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One function of a call trace.

    Attributes:
        text: as printed, with offset and module.
        symbol: without offset and without what the compiler appended.
        module: empty for the kernel itself.
        in_interrupt: it ran in an interrupt on top of the task.
    """

    text: str
    symbol: str
    module: str
    in_interrupt: bool = False


@dataclass(slots=True)
class _Stack:
    """The stack of one CPU or task, as far as it was printed."""

    other_cpu: bool = False
    pc: Frame | None = None
    frames: list[Frame] = field(default_factory=list)


def begins(line: str) -> Category | None:
    """Return the category of the report that a console line begins, if any; a WARNING is no such report."""
    text = without_stamp(line)
    return next((category for category, pattern in _BEGINNINGS if pattern.match(text)), None)


def is_panic(line: str) -> bool:
    """Whether the kernel ends with this line, whatever its category is called."""
    return without_stamp(line).startswith(_PANIC)


def closed(category: Category, lines: Iterable[str]) -> bool:
    """Whether a report has its last line, as far as that can be told from its lines.

    With ``panic=-1`` the last line of a panic never comes: panic() restarts the machine before it.
    """
    if category in _PANICS:
        return any("---[ end Kernel panic" in line for line in lines)
    return any(_TRACE_END.search(line) for line in lines)


def first_of(category: Category, lines: Sequence[str]) -> Sequence[str]:
    """Return a report's own lines, of all that was said since it began."""
    own = next((number for number, line in enumerate(lines) if closed(category, [line])), len(lines))
    return lines[: own + 1]


def parse_report(category: Category, lines: Sequence[str], *, emulated: bool) -> CrashReport:
    """Read a kernel's report.

    Args:
        lines: from the one that begins it to its end; may have others in between.
        emulated: TCG runs the guest, and may be to blame.
    """
    lines = tuple(lines[:LONGEST])
    texts = [without_stamp(line) for line in lines]
    frames = _frames(category, _stacks(texts))
    meaningful = _meaningful(frames)
    top = (meaningful or frames)[:1]
    modules = tuple(dict.fromkeys(frame.module for frame in frames if frame.module))
    livepatches = {name for text in texts for name in _LIVEPATCHES.findall(_after_modules(text))}
    return CrashReport(
        category=category,
        title=texts[0].strip(),
        function=top[0].symbol if top else "",
        modules=modules,
        trace=tuple(frame.text for frame in frames),
        fingerprint=fingerprint(category, [frame.symbol for frame in meaningful]),
        lines=lines,
        emulator_suspect=emulated
        and any(_BREAKPOINT.search(text) for text in texts)
        and not any(_ERASED_TEXT.match(text) for text in texts)
        and not livepatches & set(modules),
    )


def wordless(category: Category, title: str, lines: Sequence[str]) -> CrashReport:
    """Return the report of an end about which the kernel said nothing; `lines` were its last."""
    return CrashReport(category, title, "", (), (), fingerprint(category, ()), tuple(lines))


def fingerprint(category: Category, symbols: Sequence[str]) -> str:
    """Return an id that equal ends share: the category and the topmost functions, without any offsets."""
    shared = "\n".join([category.value, *symbols[:_TOP_FRAMES]])
    return hashlib.sha256(shared.encode()).hexdigest()[:12]


def _after_modules(text: str) -> str:
    return text.partition("Modules linked in:")[2]


def _frames(category: Category, stacks: list[_Stack]) -> list[Frame]:
    """Return the frames of the stack that tells most, topmost first."""
    if not stacks:
        return []
    chosen = stacks[0]
    if category in _STALLS and _waits(chosen):
        chosen = next((each for each in stacks if each.other_cpu and not _waits(each)), chosen)
    frames = [*([chosen.pc] if chosen.pc else []), *chosen.frames]
    if category in _STALLS:  # it was the interrupt that noticed; what stalls is under it
        frames = [frame for frame in frames if not frame.in_interrupt] or frames
    return frames


def _waits(stack: _Stack) -> bool:
    top = stack.pc or (stack.frames[0] if stack.frames else None)
    return top is not None and _WAITS_FOR_A_CPU.fullmatch(top.symbol) is not None


def _meaningful(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if not _BESIDE_THE_POINT.fullmatch(frame.symbol)]


def _stacks(texts: Iterable[str]) -> list[_Stack]:
    """Return every stack of a report, in order; lines that are no frames may stand in the midst of one."""
    stacks = [_Stack()]
    in_trace = in_interrupt = False
    for text in texts:
        if _OTHER_CPU.match(text):
            stacks.append(_Stack(other_cpu=True))
            in_trace = in_interrupt = False
        elif _CALL_TRACE.match(text):
            if stacks[-1].frames:
                stacks.append(_Stack())
            in_trace, in_interrupt = True, False
        elif context := _CONTEXT.match(text):
            in_interrupt = not context[1]
        elif _END_OF_TRACE.search(text):
            in_trace = False
        else:
            _add(stacks[-1], text, in_trace, in_interrupt)
    return [stack for stack in stacks if stack.pc or stack.frames]


def _add(stack: _Stack, text: str, in_trace: bool, in_interrupt: bool) -> None:
    """Take a line's frame into a stack, if it has one that counts."""
    if pc := _PC.match(text):
        frame = Frame(pc[1], _base(pc[2]), pc[3] or "")
        if in_trace:  # where an interrupt found the task
            stack.frames.append(frame)
        elif not stack.frames:
            stack.pc = stack.pc or frame
    elif in_trace and (found := _FRAME.match(text)) and not found[1]:
        stack.frames.append(Frame(text.strip(), _base(found[2]), found[3] or "", in_interrupt))


def _base(symbol: str) -> str:
    return _SUFFIX.sub("", symbol)
