# SPDX-License-Identifier: Apache-2.0
"""Reports in a kernel log: warnings, oopses and stalls, each with all of its lines."""

from __future__ import annotations

import re
from collections.abc import Sequence

from klp.klog import memory
from klp.klog.dialects import any_of
from klp.klog.lines import alarming, without_stamp

_CUT = "------------[ cut here ]------------"
_END = "---[ end trace"
# What belongs to the report before it: call trace, registers, and the lines of dump_stack_print_info().
_BELONGS = re.compile(
    rf"\s|{any_of(lambda crash: crash.call_trace)}|{any_of(lambda crash: crash.registers)}|Code: "
    r"|Modules linked in:|CPU: \d|Hardware name: |Tainted: |Workqueue: |task:"
    rf"|</?{any_of(lambda crash: crash.interrupts)}>|</?TASK>|---\[ end trace|\?"
)


def reports(lines: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return each warning, oops, stall or memory debugger's report in a log with all of its lines."""
    # From "cut here" to "end trace" every line belongs to the report, whatever it says. A stall or a lockup
    # has neither line: it goes on for as long as the lines look like parts of a report. A memory debugger's
    # has lines of its own, and may have such a warning in its midst.
    found: list[list[str]] = []
    cut = ended = True
    texts = [without_stamp(line) for line in lines]
    for line, text, after, wrong in zip(lines, texts, [*texts[1:], ""], alarming(lines), strict=False):
        in_memory = not ended and not cut and memory.goes_on(found[-1], text, after)
        if in_memory:
            found[-1].append(line)
            cut, ended = text.startswith(_CUT), memory.ends(found[-1], text)
        elif text.startswith(_CUT):
            found.append([line])
            cut, ended = True, False
        elif not ended and (cut or (wrong and not memory.debugger_speaks(text)) or _BELONGS.match(text)):
            found[-1].append(line)
            ended = text.startswith(_END) and not memory.debugger_speaks(without_stamp(found[-1][0]))
            cut = cut and not text.startswith(_END)
        elif wrong:
            found.append([line])
            cut, ended = False, False
        else:
            ended = True
    return tuple(tuple(each) for each in found)
