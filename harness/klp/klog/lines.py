# SPDX-License-Identifier: Apache-2.0
"""Single lines of a kernel log: their time stamps, and those by which a kernel complains."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from klp.klog.dialects import any_of

# With CONFIG_PRINTK_CALLER a second bracket names the task or CPU; a console may have <level> before.
_STAMP = re.compile(r"^(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?")
# What no scenario may cause unless it says so, in the kernel's exact words, at the beginning of a line:
# kernel/panic.c, lib/bug.c, kernel/locking/lockdep.c, kernel/rcu, kernel/hung_task.c, kernel/watchdog.c,
# net/core/dev.c, lib/ubsan.c, mm/kasan, lib/refcount.c. What a module logs begins with its own name.
_ALARMS = re.compile(
    r"WARNING: (?:CPU: \d|at \S+\+0x|\S+:\d+ at |possible (?:circular|recursive|irq)|suspicious RCU usage)"
    r"|BUG: (?:kernel NULL pointer|unable to handle|KASAN: |KFENCE: |scheduling while atomic: \S+/\d+/"
    r"|sleeping function called from|workqueue lockup|Bad (?:page|rss-counter) )"
    r"|kernel BUG at \S+:\d+!|(?:Internal error: )?Oops: .*[0-9a-f]{4,} \[#\d+\]|rcu: INFO: "
    r"|INFO: task \S.* blocked .*for more than \d|unregister_netdevice: waiting|(?:NMI )?watchdog: BUG"
    r"|UBSAN: \S+ in |KASAN: |refcount_t: "
    # mm/slub.c, mm/page_poison.c; mm/kfence says "BUG: ".
    r"|BUG \S+ \((?:Not t|T)ainted\b|\[[\w ]+ overwritten\] 0x|pagealloc: (?:memory corrupt|single bit)"
    rf"|{any_of(lambda crash: crash.alarms)}|{any_of(lambda crash: crash.call_trace)}"
)
# Anybody may begin a line so. The kernel tells more at once: on which CPU it was, and its stack.
_WORDS = re.compile(r"(?:WARNING|BUG|INFO|Oops|Internal error): ")
_SHOWN = re.compile(rf"CPU: \d|Modules linked in:|Hardware name: |{any_of(lambda crash: crash.call_trace)}")
# Between the first line of a report and these stand a few that say more of it (in_atomic(), #PF: …).
_WITHIN = 8


def without_stamp(line: str) -> str:
    """Return a line's text, without time stamp, level and caller."""
    return _STAMP.sub("", line)


def alarming(lines: Sequence[str]) -> tuple[bool, ...]:
    """Return for each line of a log whether the kernel says by it that something is wrong.

    A line that only begins with such a word, as any livepatch may print one, is no report of the kernel's
    unless what a report shows besides follows it.
    """
    texts = [without_stamp(line) for line in lines]
    return tuple(
        bool(_ALARMS.match(text))
        or bool(_WORDS.match(text) and any(map(_SHOWN.match, texts[number + 1 : number + 1 + _WITHIN])))
        for number, text in enumerate(texts)
    )


def alarms(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the lines by which a kernel says that something is wrong with it; see `alarming`."""
    log = tuple(lines)
    return tuple(line for line, wrong in zip(log, alarming(log), strict=True) if wrong)
