# SPDX-License-Identifier: Apache-2.0
"""What differs between kernels, in one place: whoever has to know a kernel's age looks here.

A series is a release's first two numbers: (6, 12). One that is unknown is (), which is before all others.
"""

from __future__ import annotations

import re

# A running task switches in cond_resched() since commit e3ff7c609f39 (merged for 6.4), and in __schedule()
# since 676e8cf70cb0 (seen on 7.2, not on 6.12), when it goes to sleep freezably. Before the first of them
# there was no klp_sched_try_switch to probe, and a kthread that never sleeps could hold a transition up for
# good.
EARLIEST_SCHEDULER_SWITCH = (6, 4)
# -EEXIST of a module's init becomes -EBUSY since 7.0 (do_init_module, kernel/module/main.c): kmod takes the
# former for "loaded already". Seen on 7.2; 6.12 gives EEXIST.
EARLIEST_INIT_EBUSY = (7, 0)


def series(release: str) -> tuple[int, ...]:
    """Return a release's first two numbers: ``6.12.117+deb13-amd64`` is (6, 12); () if it has none."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else ()
