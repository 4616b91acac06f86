# SPDX-License-Identifier: Apache-2.0
"""What differs between kernels, in one place: for tests, and for whoever asks why one behaves otherwise.

Numbers are a release's first two: (6, 12).
"""

from __future__ import annotations

# A running task switches in cond_resched since 6.3 (commit e3ff7c609f39), in __schedule since 7.0.
EARLIEST_SCHEDULER_SWITCH = (6, 3)
# sysfs: OBJECT/patched since 6.1, `replace` since 6.13, `stack_order` since 6.14.
EARLIEST_REPLACE_FILE = (6, 13)
EARLIEST_STACK_ORDER = (6, 14)
# -EEXIST of a module's init becomes -EBUSY since 7.0 (do_init_module, kernel/module/main.c): kmod takes the
# former for "loaded already". Seen on 7.2; 6.12 gives EEXIST.
EARLIEST_INIT_EBUSY = (7, 0)
