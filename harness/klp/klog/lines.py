# SPDX-License-Identifier: Apache-2.0
"""Single lines of a kernel log: their time stamps, and those by which a kernel complains."""

from __future__ import annotations

import re
from collections.abc import Iterable

from klp.klog.dialects import any_of

# With CONFIG_PRINTK_CALLER a second bracket names the task or CPU; a console may have <level> before.
_STAMP = re.compile(r"^(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?")
# What no scenario may cause unless it says so: kernel/panic.c, lib/bug.c, kernel/locking/lockdep.c,
# kernel/rcu, kernel/hung_task.c, kernel/watchdog.c, net/core/dev.c, lib/ubsan.c, mm/kasan, lib/refcount.c.
_ALARMS = re.compile(
    r"WARNING: |BUG: |kernel BUG at |Oops|rcu: INFO"
    r"|INFO: task .* blocked for more than|possible circular locking|suspicious RCU usage"
    r"|unregister_netdevice: waiting|watchdog: BUG|UBSAN:|KASAN:|refcount_t:"
    # mm/slub.c, mm/page_poison.c; mm/kfence says "BUG: ".
    r"|BUG \S+ \((?:Not t|T)ainted\b|\[[\w ]+ overwritten\] 0x|pagealloc: (?:memory corrupt|single bit)"
    rf"|{any_of(lambda crash: crash.alarms)}|{any_of(lambda crash: crash.call_trace)}"
)


def without_stamp(line: str) -> str:
    """Return a line's text, without time stamp, level and caller."""
    return _STAMP.sub("", line)


def alarms(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the lines by which a kernel says that something is wrong with it."""
    return tuple(line for line in lines if _ALARMS.search(line))
